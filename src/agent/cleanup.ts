/** Everything that an agent made on this node, found by its names and marks, and removed. */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { uninstallCni } from '../cni/index.ts';
import {
  cleanupOverlay,
  emptyOverlay,
  type OverlayConfig,
  openOverlayKernel,
  planOverlay,
  planText,
} from '../overlay/index.ts';
import { PodLinks } from '../podlink/index.ts';
import { cleanupPolicies } from '../policy/index.ts';
import { ProcessRunner } from '../pods/index.ts';
import { lockStateDir } from './lock.ts';

export interface CleanupOptions {
  stateDir: string;
  bpffs: string;
  cniBinDir: string;
  cniConfDir: string;
  dryRun: boolean;
}

/** A configuration that wants nothing: `cleanup` is the plan against it. */
const NOTHING: OverlayConfig = { node: 'cleanup', backend: 'vxlan', podCidrs: [], clusterCidrs: [] };

/**
 * Removes (or, with `dryRun`, names) what the agent of this node made; returns it as lines. Throws AGENT_RUNNING when
 * that agent still runs: it would put everything back.
 */
export async function cleanupNode(options: CleanupOptions): Promise<string[]> {
  const { stateDir, bpffs, dryRun } = options;
  if (!existsSync(stateDir) && dryRun)
    return [...planned(options), ...(await cleanupPolicies({ dryRun: true }))];
  const lock = existsSync(stateDir) ? lockStateDir(stateDir) : undefined;
  try {
    const removed = [...planned(options), ...(await cleanupPolicies({ dryRun: true }))];
    if (dryRun) return removed;
    await removePods(stateDir);
    using links = new PodLinks();
    for (const hostLink of links.observe().keys()) links.remove(hostLink);
    await cleanupPolicies({});
    await cleanupOverlay(NOTHING);
    rmSync(bpffs, { recursive: true, force: true });
    uninstallCni({ binDir: options.cniBinDir, confDir: options.cniConfDir });
    rmSync(stateDir, { recursive: true, force: true });
    return removed;
  } finally {
    lock?.release();
  }
}

/** What is there of ours, in words. */
function planned({ stateDir, bpffs, cniBinDir, cniConfDir }: CleanupOptions): string[] {
  const kernel = openOverlayKernel();
  try {
    using links = new PodLinks();
    const observed = kernel.observe();
    const pods = join(stateDir, 'pods');
    return [
      ...(existsSync(pods) ? readdirSync(pods).map((entry) => `rm -r ${join(pods, entry)}`) : []),
      ...[...links.observe().keys()].map((name) => `ip link del ${name}`),
      ...planText(planOverlay(emptyOverlay(NOTHING), observed)),
      ...(existsSync(bpffs) ? readdirSync(bpffs).map((pin) => `rm ${join(bpffs, pin)}`) : []),
      ...[join(cniConfDir, '10-portolan.conflist'), join(cniBinDir, 'portolan-cni')]
        .filter((path) => existsSync(path))
        .map((path) => `rm ${path}`),
      ...(existsSync(stateDir) ? [`rm -r ${stateDir}`] : []),
    ];
  } finally {
    kernel.close();
  }
}

/** Ends the pods that the process runner keeps; their network goes with their namespaces. */
async function removePods(stateDir: string): Promise<void> {
  if (!existsSync(join(stateDir, 'pods'))) return;
  const network = { add: async () => ({ ips: [] }), del: async () => {} };
  const runner = await ProcessRunner.open({ stateDir, network });
  try {
    for (const sandbox of runner.sandboxes()) {
      await runner.stopSandbox(sandbox.id);
      await runner.removeSandbox(sandbox.id);
    }
  } finally {
    await runner.close();
  }
}
