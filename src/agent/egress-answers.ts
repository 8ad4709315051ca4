/** What `portolan egress` and `portolan status` show. */
import { type IpAddress, tryParseIp } from '../addr/index.ts';
import { DROPS, type EgressController, type EgressState, type Fate, insideTest } from '../egress/index.ts';
import { egressError } from '../errors/index.ts';
import type { Routes } from './socket.ts';

/** One namespace in one family, as `portolan egress list` shows it. */
export interface EgressRow {
  namespace: string;
  family: string;
  /** Absent when the annotation cannot be read. */
  address?: string;
  /** `here`: this node holds the address; `via`: another node does; `closed`: nothing leaves the cluster. */
  state: Fate['kind'];
  /** Who holds the address. */
  holder?: string;
  /** Why it is closed. */
  why?: string;
  /** Pods of this node. */
  pods: number;
  /** Packets of theirs that were dropped since the namespace is closed. */
  dropped: number;
}

export interface EgressSummary {
  state: string;
  /** Addresses that this node holds. */
  held: string[];
  namespaces: number;
  closed: number;
  connectionsCut: number;
}

/** What becomes of one connection. */
export interface EgressExplanation {
  from: string;
  to: string;
  /** The address that the other side sees, as far as egress addresses decide. */
  source: 'its own' | 'its node' | 'egress address' | 'none';
  address?: string;
  lines: string[];
}

export function egressRoutes(controller: EgressController, node: string): Routes {
  const known = () => {
    if (controller.claims === undefined) throw egressError('EGRESS_NOT_KNOWN', {});
  };
  return {
    'GET /egress/list': () => {
      known();
      return egressRows(controller, node);
    },
    'GET /egress/plan': () => controller.plan(),
    'GET /egress/explain': (query) => {
      known();
      return explainEgress(controller, node, query.get('from') ?? '', query.get('to') ?? '');
    },
  };
}

export function egressRows(controller: EgressController, node: string): EgressRow[] {
  const { states } = controller.status();
  const drops = states.length > 0 ? controller.drops() : new Map<string, number>();
  return states.map((state): EgressRow => {
    const { namespace, family, fate, pods } = state;
    const holder = holderOf(fate, node);
    return {
      namespace,
      family: `IPv${family}`,
      ...(fate.address && { address: String(fate.address) }),
      state: fate.kind,
      ...(holder !== undefined && { holder }),
      ...(fate.kind === 'closed' && { why: fate.why }),
      pods,
      dropped: drops.get(DROPS.closed(namespace)) ?? 0,
    };
  });
}

function holderOf(fate: Fate, node: string): string | undefined {
  if (fate.kind === 'here') return node;
  return fate.kind === 'via' ? fate.node : undefined;
}

export function egressSummary(controller: EgressController): Omit<EgressSummary, 'state'> {
  const { states, claims, connectionsCut } = controller.status();
  return {
    held: [...claims.keys()].sort(),
    namespaces: new Set(states.map(({ namespace }) => namespace)).size,
    closed: states.filter(({ fate }) => fate.kind === 'closed').length,
    connectionsCut,
  };
}

/** Namespaces that are closed, with the reason; once for both families when it is the same. */
export function egressProblems(states: readonly EgressState[]): { namespace: string; why: string }[] {
  const found = new Map<string, { namespace: string; why: string }>();
  for (const { namespace, fate } of states)
    if (fate.kind === 'closed') found.set(`${namespace} ${fate.why}`, { namespace, why: fate.why });
  return [...found.values()];
}

/** `from` is a pod of this node as namespace/name, or a namespace; `to` an address. */
function explainEgress(
  controller: EgressController,
  node: string,
  from: string,
  to: string,
): EgressExplanation {
  const target = tryParseIp(to);
  if (!target) throw egressError('EGRESS_BAD_ADDRESS', { text: to });
  const { desired } = controller;
  const namespace = from.split('/')[0] ?? '';
  const isPod = from.includes('/');
  const pod = desired.local.find((each) => each.pod.name === from && each.address.family === target.family);
  const fate =
    pod?.fate ??
    desired.states.find((each) => each.namespace === namespace && each.family === target.family)?.fate;
  const said = { from, to: String(target) };
  const inside = insideOf(controller, target);
  if (inside) return { ...said, source: 'its own', lines: [`${target} ${inside}: pods keep their address`] };
  if (!fate)
    return {
      ...said,
      source: 'its node',
      lines: [`namespace ${namespace} asks for no IPv${target.family} egress address: it is masqueraded`],
    };
  if (isPod && !pod && fate.kind !== 'closed')
    return {
      ...said,
      source: 'egress address',
      address: String(fate.address),
      lines: [`${from} is no pod of ${node}; on its node it goes to the holder of ${fate.address}`],
    };
  return { ...said, ...told(fate, node) };
}

function told(fate: Fate, node: string): Pick<EgressExplanation, 'source' | 'address' | 'lines'> {
  if (fate.kind === 'closed') return { source: 'none', lines: [`dropped: ${fate.why}`] };
  const address = String(fate.address);
  const seen = `the other side sees ${address}`;
  if (fate.kind === 'here')
    return { source: 'egress address', address, lines: [`${node} holds ${address}`, seen] };
  const lines = [`slot ${fate.slot}: routed to ${fate.node}, which holds ${address}`, seen];
  return { source: 'egress address', address, lines };
}

function insideOf({ desired }: EgressController, target: IpAddress): string | undefined {
  if (insideTest(desired.cluster, [])(target)) return 'is of a pod or Service';
  if (insideTest([], desired.nodeAddresses)(target)) return 'is of a node';
  return target.isMulticast || target.isLinkLocal || target.isLoopback ? 'is not outside' : undefined;
}
