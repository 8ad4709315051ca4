/** `lab up`: a whole cluster on this machine, step by step, undone when a step fails. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import {
  issueControllerKubeconfig,
  issueNodeKubeconfig,
  type Kubeconfig,
  kubeconfigText,
} from '../apiserver/index.ts';
import { ApiClient, loadKubeconfig, resources } from '../client/index.ts';
import { cgroupRoot, ensureCgroup } from '../kernel/cgroup/index.ts';
import { distPath } from '../kernel/paths.ts';
import { down } from './down.ts';
import { type LabNode, type LabOptions, type LabPlan, labError, planLab } from './plan.ts';
import { type LabProcess, startDetached, waitFor } from './processes.ts';
import { kubeconfigs, labExists, loadLab, running, saveLab } from './state.ts';
import { createNode, createUnderlay } from './underlay.ts';

/** One step of coming up; the command line shows them as they go. */
export interface LabStep {
  title: string;
  run: () => Promise<void>;
}

/** How this program is started again for the lab's processes, with the flags of the launcher. */
export function selfCommand(): string[] {
  const flags = ['--disable-warning=ExperimentalWarning', '--max-semi-space-size=4'];
  return [process.execPath, ...flags, distPath('portolan.js')];
}

const START_SECONDS = 30;
/** Each agent takes a second of one CPU to start, or two where others start too. */
const NODE_SECONDS = 2;

/**
 * The steps that bring a lab up, in order. Throws LAB_RUNNING, LAB_BAD_OPTION, LAB_PORT_IN_USE at once; the steps
 * throw LAB_PROCESS_ENDED and LAB_TIMEOUT.
 */
export async function labSteps(
  options: LabOptions,
  signal?: AbortSignal,
): Promise<{ plan: LabPlan; steps: LabStep[] }> {
  const plan = planLab(options);
  const { name } = options;
  if (labExists(name)) {
    if (running(loadLab(name).state).length > 0) throw labError('LAB_RUNNING', { name });
    // A lab that a reboot or kill -9 left in ruins is cleared away first.
    await down(name);
  }
  await assertPortFree(options.port);
  const processes: LabProcess[] = [];
  const remember = (process: LabProcess) => {
    processes.push(process);
    saveLab({ options, processes });
    // Started and saved, so that "down" finds it; but nothing more may follow.
    if (signal?.aborted) throw labError('LAB_INTERRUPTED', { what: process.title });
    return process;
  };
  const files = kubeconfigs(plan);
  const cgroups = cgroupRoot();
  const families = (list: readonly string[]) => list.join(',');
  let agents: LabProcess[] = [];
  let server: LabProcess;

  const steps: LabStep[] = [
    {
      title: `Underlay: ${plan.nodes.length} nodes on one bridge, each a network namespace`,
      run: async () => {
        saveLab({ options, processes });
        createUnderlay(plan);
        for (const node of plan.nodes) createNode(plan, node);
      },
    },
    {
      title: 'API server',
      run: async () => {
        const { gateways, netns } = plan.underlay;
        server = remember(
          startDetached({
            title: 'API server',
            log: join(plan.stateDir, 'apiserver.log'),
            command: [
              ...selfCommand(),
              'apiserver',
              ...['--data-dir', plan.apiserver.dataDir],
              ...['--listen', `127.0.0.1:${options.port}`],
              ...['--listen-netns', `${netns}=${gateways[0]}:6443`],
              ...['--advertise-address', gateways[0]!],
              ...['--advertise-port', '6443'],
              ...['--service-cidr', families(plan.serviceCidrs)],
              ...['--cluster-cidr', families(plan.clusterCidrs)],
              ...['--node-state-root', plan.stateDir],
            ],
          }),
        );
        await waitFor(server, () => isServing(files.admin), {
          what: 'the API server',
          seconds: START_SECONDS,
          signal,
        });
        const { dataDir, url } = plan.apiserver;
        writeKubeconfig(files.controller, await issueControllerKubeconfig(dataDir, url));
        for (const { name } of plan.nodes) await giveNodeKubeconfig(plan, name);
      },
    },
    {
      title: 'Controllers: node CIDRs, EndpointSlices, scheduler',
      run: async () => {
        remember(
          startDetached({
            title: 'controllers',
            log: join(plan.stateDir, 'controller.log'),
            command: [
              ...selfCommand(),
              'controller',
              ...['--kubeconfig', files.controller],
              ...['--cluster-cidr', families(plan.clusterCidrs)],
              ...['--service-cidr', families(plan.serviceCidrs)],
            ],
          }),
        );
      },
    },
    {
      title: `Agents, backend ${options.backend}`,
      run: async () => {
        agents = plan.nodes.map((node) => remember(startAgentOf(plan, node, join(cgroups, node.cgroup))));
        const client = new ApiClient(loadKubeconfig(files.admin));
        try {
          let state = 'no node has registered';
          const ready = async () => {
            const nodes = await client.listAll(resources.nodes).catch(() => []);
            const up = nodes.filter((node) =>
              node.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True'),
            );
            state = `${up.length} of ${plan.nodes.length} nodes are Ready`;
            return up.length >= plan.nodes.length;
          };
          await waitFor(agents, ready, {
            what: 'the nodes',
            seconds: START_SECONDS + NODE_SECONDS * plan.nodes.length,
            state: () => state,
            signal,
          });
        } finally {
          client.close();
        }
      },
    },
  ];
  return { plan, steps };
}

/** Issues a node's credentials anew. */
export async function giveNodeKubeconfig(plan: LabPlan, node: string): Promise<void> {
  const { dataDir, underlayUrl } = plan.apiserver;
  writeKubeconfig(kubeconfigs(plan).node(node), await issueNodeKubeconfig(dataDir, node, underlayUrl));
}

function writeKubeconfig(path: string, config: Kubeconfig): void {
  mkdirSync(join(path, '..'), { recursive: true, mode: 0o700 });
  writeFileSync(path, kubeconfigText(config), { mode: 0o600 });
}

/** Starts the agent of one node inside its namespace. */
export function startAgentOf(plan: LabPlan, node: LabNode, cgroupPath: string): LabProcess {
  ensureCgroup(cgroupPath);
  return startDetached({
    title: `agent of ${node.name}`,
    log: join(plan.stateDir, `${node.name}.log`),
    netnsPath: `/run/netns/${node.netns}`,
    command: [
      ...selfCommand(),
      'agent',
      ...['--node-name', node.name],
      ...['--kubeconfig', kubeconfigs(plan).node(node.name)],
      ...['--state-dir', node.stateDir],
      ...['--bpffs', node.bpffsDir],
      ...['--cgroup', cgroupPath],
      ...['--backend', plan.options.backend],
      ...['--service-engine', plan.options.serviceEngine ?? 'auto'],
      ...['--pod-link', plan.options.podLink ?? 'routed'],
      ...(plan.options.directRouting ? [] : ['--no-direct-routing']),
      ...['--cluster-cidr', plan.clusterCidrs.join(',')],
      ...['--pods', 'process'],
      ...['--subnet-env', join(node.stateDir, 'subnet.env')],
    ],
  });
}

/** True when the API server of this kubeconfig answers and can write. */
export async function isServing(kubeconfig: string): Promise<boolean> {
  let client: ApiClient;
  try {
    client = new ApiClient(loadKubeconfig(kubeconfig));
  } catch {
    return false;
  }
  try {
    await client.raw('GET', '/readyz', undefined, { retryForMs: 0, timeoutMs: 1000 });
    return true;
  } catch {
    return false;
  } finally {
    client.close();
  }
}

/** Throws LAB_PORT_IN_USE. Asked before anything is made, because people most often have another cluster there. */
async function assertPortFree(port: number): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const server = createServer();
    server.once('error', (cause) => reject(labError('LAB_PORT_IN_USE', { port }, cause)));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve()));
  });
}
