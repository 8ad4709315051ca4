/** From a plan to what the maps hold, without numbers that the engine gives out. Pure. */
import { maglevSize, maglevTable } from '../../maglev.ts';
import type { BackendPlan, FrontendPlan, PortPlan, SetName } from '../../types.ts';
import { backendName, weightedMembers } from '../../weighted.ts';
import { BACKEND, FRONTEND, KINDS } from './layout.ts';

/** A table of a port: the plain one is chosen from at random, the hash one by the flow. */
export type TableName = SetName | 'cluster-hash' | 'local-hash';

export interface CompiledFrontend {
  readonly address: string;
  /** 0 with protocol 0 is the address as such. */
  readonly port: number;
  readonly wildcard: boolean;
  readonly flags: number;
  /** undefined: empty, see flags for what happens then. */
  readonly inside: TableName | undefined;
  readonly outside: TableName | undefined;
}

/** The frontends to program: those of this port that no other Service owns, and ClusterIPs as such. */
export function compileFrontends(port: PortPlan): CompiledFrontend[] {
  const compiled: CompiledFrontend[] = [];
  for (const frontend of port.frontends) {
    if (frontend.shadowedBy !== undefined) continue;
    compiled.push(compileFrontend(frontend, port));
    if (frontend.kind === 'ClusterIP')
      compiled.push({
        address: frontend.address,
        port: 0,
        wildcard: true,
        flags: FRONTEND.WILDCARD,
        inside: undefined,
        outside: undefined,
      });
  }
  return compiled;
}

function compileFrontend(frontend: FrontendPlan, port: PortPlan): CompiledFrontend {
  // Pods and this node differ in masquerading only, and at sockets nobody is masqueraded.
  const { pod: inside, outside } = frontend.rules;
  const hashed = frontend.kind !== 'ClusterIP' && port.algorithm === 'maglev';
  let flags = KINDS.indexOf(frontend.kind) << FRONTEND.KIND_SHIFT;
  if (inside.verdict === 'drop') flags |= FRONTEND.INSIDE_DROP;
  if (outside.verdict === 'drop') flags |= FRONTEND.OUTSIDE_DROP;
  if (inside.set === 'local') flags |= FRONTEND.INSIDE_LOCAL;
  if (outside.set === 'local') flags |= FRONTEND.OUTSIDE_LOCAL;
  if (!outside.masquerade) flags |= FRONTEND.OUTSIDE_KEEP;
  if (hashed) flags |= FRONTEND.OUTSIDE_HASH;
  if (frontend.kind === 'LoadBalancer' && port.sourceRanges.length > 0) {
    flags |= FRONTEND.RANGES;
    if (port.nodeAllowed) flags |= FRONTEND.NODE_ALLOWED;
  }
  if (frontend.kind !== 'ClusterIP' && port.forwarding !== 'snat') {
    flags |= FRONTEND.DSR;
    if (port.forwarding === 'dsr-option') flags |= FRONTEND.DSR_OPTION;
  }
  return {
    address: frontend.address,
    port: frontend.port,
    wildcard: false,
    flags,
    inside: inside.verdict === 'forward' ? inside.set : undefined,
    outside: outside.verdict === 'forward' ? (hashed ? `${outside.set}-hash` : outside.set) : undefined,
  };
}

/** Entries of a table: indexes into `backends` of the port, a backend of weight 3 three times as often. */
export function compileTable(port: PortPlan, name: TableName): ArrayLike<number> {
  const hashed = name.endsWith('-hash');
  if (!hashed) return weightedMembers(port, name as SetName);
  const { members } = port[name.slice(0, -5) as SetName];
  const weights = members.map((at) => port.backends[at]!.weight);
  const named = members.map((at) => ({
    name: backendName(port.backends[at]!),
    weight: port.backends[at]!.weight,
  }));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return maglevTable(named, maglevSize(total)).map((at) => members[at]!);
}

export function backendFlags(backend: BackendPlan, nodeName: string): number {
  let flags: number = BACKEND.USED;
  if (backend.inCluster && backend.weight > 0) flags |= BACKEND.CLUSTER;
  if (backend.inLocal && backend.weight > 0) flags |= BACKEND.LOCAL;
  if (backend.endpoint.nodeName === nodeName && nodeName !== '') flags |= BACKEND.NEAR;
  return flags;
}
