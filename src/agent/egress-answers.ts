/** What `portolan egress` and `portolan status` show. */
import { DROPS, type EgressController, type EgressState, type Fate } from '../egress/index.ts';
import { egressError } from '../errors/index.ts';
import { type EgressWorld, explainEgress } from './egress-explain.ts';
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

export function egressRoutes(
  controller: EgressController,
  node: string,
  findPod: EgressWorld['findPod'],
): Routes {
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
      const { desired, localPods } = controller;
      const isNamespace = (name: string) => controller.isKnown(name);
      const world = { node, desired, isNamespace, local: localPods, findPod };
      return explainEgress(world, query.get('from') ?? '', query.get('to') ?? '');
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
