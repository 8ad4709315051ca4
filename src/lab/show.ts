/** What a lab looks like now: nodes with their pods from the API, connections by real probes. */
import { join } from 'node:path';
import { askAgent } from '../agent/socket.ts';
import { type ApiClient, resources } from '../client/index.ts';
import { cgroupRoot, ensureCgroup } from '../kernel/cgroup/index.ts';
import type { Pod } from '../model/kubernetes.ts';
import type { PicturedNode, ProbeCell } from './picture.ts';
import type { LabPlan } from './plan.ts';
import { type ProbeSource, type ProbeTarget, probeUntilAnswered } from './probe.ts';

/** Nodes and pods as the API knows them. */
export async function picturedNodes(client: ApiClient): Promise<PicturedNode[]> {
  const [nodes, pods] = await Promise.all([client.listAll(resources.nodes), client.listAll(resources.pods)]);
  return nodes.map((node) => ({
    name: node.metadata.name,
    addresses: (node.status?.addresses ?? [])
      .filter(({ type }) => type === 'InternalIP')
      .map(({ address }) => address),
    podCidrs: node.spec?.podCIDRs ?? [],
    ready:
      node.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') ?? false,
    pods: pods
      .filter((pod) => pod.spec.nodeName === node.metadata.name)
      .map((pod) => ({
        namespace: pod.metadata.namespace ?? 'default',
        name: pod.metadata.name,
        ips: (pod.status?.podIPs ?? []).map(({ ip }) => ip),
        state: stateOf(pod),
        ready: isReady(pod),
      })),
  }));
}

export function isReady(pod: Pod): boolean {
  return pod.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') ?? false;
}

function stateOf(pod: Pod): string {
  const waiting = pod.status?.containerStatuses?.find(({ state }) => state?.waiting)?.state?.waiting?.reason;
  return waiting ?? pod.status?.phase ?? 'Pending';
}

const MOST_PODS_PROBED = 6;
const MOST_SERVICES_PROBED = 3;

/**
 * Connects from nodes and pods to pods and ClusterIPs, all families; few of each so that it stays readable. What
 * does not answer is tried again for `patienceMs`.
 */
export async function probeLab(plan: LabPlan, client: ApiClient, patienceMs: number): Promise<ProbeCell[]> {
  const [pods, services] = await Promise.all([
    client.listAll(resources.pods),
    client.listAll(resources.services),
  ]);
  const serving = spread(pods.filter((pod) => isReady(pod) && portOf(pod) !== undefined)).slice(
    0,
    MOST_PODS_PROBED,
  );
  const netns = await podNetns(plan);
  const cgroups = cgroupRoot();
  const sources: ProbeSource[] = [];
  for (const node of plan.nodes) {
    const cgroupPath = join(cgroups, node.cgroup, 'host');
    ensureCgroup(cgroupPath);
    if (sources.length < MOST_PODS_PROBED)
      sources.push({ name: node.name, netnsPath: `/run/netns/${node.netns}`, cgroupPath });
  }
  for (const pod of serving) {
    const node = plan.nodes.find(({ name }) => name === pod.spec.nodeName);
    const path = netns.get(keyOf(pod));
    if (!node || !path) continue;
    const cgroupPath = join(cgroups, node.cgroup, 'pods');
    ensureCgroup(cgroupPath);
    sources.push({ name: pod.metadata.name, netnsPath: path, cgroupPath });
  }
  const targets: ProbeTarget[] = serving.flatMap((pod) =>
    (pod.status?.podIPs ?? []).map(({ ip }) => ({
      name: pod.metadata.name,
      address: ip,
      port: portOf(pod)!,
      family: familyOf(ip),
    })),
  );
  const probed = new Set(
    serving.flatMap((pod) =>
      Object.entries(pod.metadata.labels ?? {}).map(([key, value]) => `${key}=${value}`),
    ),
  );
  for (const service of services
    .filter(({ spec }) =>
      Object.entries(spec.selector ?? {}).some(([key, value]) => probed.has(`${key}=${value}`)),
    )
    .slice(0, MOST_SERVICES_PROBED))
    for (const address of (service.spec.clusterIPs ?? []).filter((one) => one !== 'None'))
      for (const { port, protocol } of (service.spec.ports ?? []).slice(0, 1))
        if ((protocol ?? 'TCP') === 'TCP')
          targets.push({ name: `svc/${service.metadata.name}`, address, port, family: familyOf(address) });
  return probeUntilAnswered(sources, targets, patienceMs);
}

const familyOf = (address: string): 4 | 6 => (address.includes(':') ? 6 : 4);
const keyOf = (pod: Pod) => `${pod.metadata.namespace ?? 'default'}/${pod.metadata.name}`;

function portOf(pod: Pod): number | undefined {
  return pod.spec.containers
    .flatMap(({ ports }) => ports ?? [])
    .find(({ protocol }) => (protocol ?? 'TCP') === 'TCP')?.containerPort;
}

/** Pods of different nodes first. */
function spread(pods: Pod[]): Pod[] {
  const byNode = Map.groupBy(pods, (pod) => pod.spec.nodeName ?? '');
  const rounds = Math.max(0, ...[...byNode.values()].map((list) => list.length));
  return Array.from({ length: rounds }, (_, at) =>
    [...byNode.values()].flatMap((list) => list[at] ?? []),
  ).flat();
}

/** Network namespaces of pods, asked of the agents. */
async function podNetns(plan: LabPlan): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const node of plan.nodes) {
    const links = await askAgent<{ pod: string; netns: string }[]>(
      join(node.stateDir, 'agent.sock'),
      'GET',
      '/links',
    ).catch(() => []);
    for (const { pod, netns } of links) found.set(pod, netns);
  }
  return found;
}
