/** Everything that an agent made on this node, found by its names and marks, and removed. */

import { existsSync, readdirSync, readFileSync, rmSync, statfsSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { uninstallCni } from '../cni/index.ts';
import { cleanupEgress } from '../egress/index.ts';
import { agentError, kernelError } from '../errors/index.ts';
import { NftRuleset } from '../kernel/nft/index.ts';
import { NFT_TABLE } from '../model/nft-parts.ts';
import {
  cleanupOverlay,
  emptyOverlay,
  type OverlayConfig,
  openOverlayKernel,
  planOverlay,
  planText,
} from '../overlay/index.ts';
import { BRIDGE_NAME, PodLinks } from '../podlink/index.ts';
import { ProcessRunner } from '../pods/index.ts';
import { cleanupPolicies } from '../policy/index.ts';
import { removeNftServices } from '../service/index.ts';
import { LOCK_NAME, lockStateDir } from './lock.ts';

export interface CleanupOptions {
  stateDir: string;
  bpffs: string;
  /** The agent's cgroup; those of its pods are below it. */
  cgroup: string;
  cniBinDir: string;
  cniConfDir: string;
  dryRun: boolean;
}

/** A configuration that wants nothing: `cleanup` is the plan against it. */
const NOTHING: OverlayConfig = { node: 'cleanup', backend: 'vxlan', podCidrs: [], clusterCidrs: [] };

/**
 * Removes (or, with `dryRun`, names) what the agent of this node made; returns it as lines. Throws AGENT_RUNNING when
 * that agent still runs: it would put everything back; AGENT_FOREIGN_FOLDER.
 */
export async function cleanupNode(options: CleanupOptions): Promise<string[]> {
  const { stateDir, bpffs, dryRun } = options;
  if (process.getuid?.() !== 0) throw kernelError('KERNEL_NEEDS_ROOT', { action: 'clean up this node' });
  assertOwnFolders(options);
  if (!existsSync(stateDir) && dryRun)
    return [...planned(options), ...(await cleanupPolicies({ dryRun: true }))];
  const lock = existsSync(stateDir) ? lockStateDir(stateDir) : undefined;
  try {
    const removed = [...planned(options), ...(await cleanupPolicies({ dryRun: true }))];
    if (dryRun) return removed;
    await removePods(stateDir, join(options.cgroup, 'pods'));
    using links = new PodLinks();
    for (const hostLink of links.observe().keys()) links.remove(hostLink);
    links.bridge.remove();
    await cleanupPolicies({});
    cleanupEgress({});
    removeNftServices({});
    await cleanupOverlay(NOTHING);
    // What other parts keep in the tables goes with them.
    using ruleset = NftRuleset.open();
    ruleset.apply(ownTables().map((table) => ({ ...table, change: 'delete table' })));
    rmSync(bpffs, { recursive: true, force: true });
    if (installedCni(options).length > 0)
      uninstallCni({ binDir: options.cniBinDir, confDir: options.cniConfDir });
    rmSync(stateDir, { recursive: true, force: true });
    return removed;
  } finally {
    lock?.release();
  }
}

/** BPF_FS_MAGIC of include/uapi/linux/magic.h */
const BPF_FS_MAGIC = 0xcafe4a11;

/**
 * Both folders are deleted whole, so a mistyped one must not be: an agent's state has its lock in it, and its pins are
 * in a folder of a bpffs that is not the root of it. Throws AGENT_FOREIGN_FOLDER.
 */
export function assertOwnFolders({ stateDir, bpffs }: Pick<CleanupOptions, 'stateDir' | 'bpffs'>): void {
  const entries = existsSync(stateDir) ? readdirSync(stateDir) : [];
  if (entries.length > 0 && !entries.includes(LOCK_NAME)) {
    const why = `there is no ${LOCK_NAME} in it`;
    throw agentError('AGENT_FOREIGN_FOLDER', { option: 'state-dir', path: stateDir, why });
  }
  if (!existsSync(bpffs)) return;
  const why =
    statfsSync(bpffs).type !== BPF_FS_MAGIC
      ? 'it is in no bpffs'
      : statSync(bpffs).dev !== statSync(dirname(resolve(bpffs))).dev
        ? 'it is a whole bpffs'
        : undefined;
  if (why) throw agentError('AGENT_FOREIGN_FOLDER', { option: 'bpffs', path: bpffs, why });
}

/** What is there of ours, in words. */
function planned(options: CleanupOptions): string[] {
  const { stateDir, bpffs } = options;
  const kernel = openOverlayKernel();
  try {
    using links = new PodLinks();
    const observed = kernel.observe();
    const pods = join(stateDir, 'pods');
    return [
      ...(existsSync(pods) ? readdirSync(pods).map((entry) => `rm -r ${join(pods, entry)}`) : []),
      ...[...links.observe().keys()].map((name) => `ip link del ${name}`),
      ...(links.bridge.find() ? [`ip link del ${BRIDGE_NAME}`] : []),
      ...cleanupEgress({ dryRun: true }),
      ...planText(planOverlay(emptyOverlay(NOTHING), observed)),
      ...removeNftServices({ dryRun: true }),
      ...ownTables().map(({ family, table }) => `nft delete table ${family} ${table}`),
      ...(existsSync(bpffs) ? readdirSync(bpffs).map((pin) => `rm ${join(bpffs, pin)}`) : []),
      ...installedCni(options).map((path) => `rm ${path}`),
      ...(existsSync(stateDir) ? [`rm -r ${stateDir}`] : []),
    ];
  } finally {
    kernel.close();
  }
}

/** The nftables tables that are there and ours by name. */
function ownTables() {
  using ruleset = NftRuleset.open();
  return (['ip', 'ip6'] as const)
    .map((family) => ({ family, table: NFT_TABLE }))
    .filter((table) => ruleset.table(table) !== 'absent');
}

/** What this agent installed of CNI: the plugin carries the path of its agent's socket; another agent's stays. */
function installedCni({ stateDir, cniBinDir, cniConfDir }: CleanupOptions): string[] {
  const plugin = join(cniBinDir, 'portolan-cni');
  if (!existsSync(plugin) || !readFileSync(plugin).includes(`${join(stateDir, 'cni.sock')}\0`)) return [];
  return [join(cniConfDir, '10-portolan.conflist'), plugin].filter((path) => existsSync(path));
}

/** Ends the pods that the process runner keeps; their network goes with their namespaces. */
async function removePods(stateDir: string, cgroupRoot: string): Promise<void> {
  if (!existsSync(join(stateDir, 'pods'))) return;
  const network = { add: async () => ({ ips: [] }), del: async () => {} };
  const runner = await ProcessRunner.open({ stateDir, network, cgroupRoot });
  try {
    for (const sandbox of runner.sandboxes()) {
      await runner.stopSandbox(sandbox.id);
      await runner.removeSandbox(sandbox.id);
    }
  } finally {
    await runner.close();
  }
}
