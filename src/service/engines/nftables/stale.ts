/**
 * What outlives a backend: datagram connections of conntrack that lead to it.
 *
 * Only UDP: a TCP connection ends by itself, and its end is the endpoint's business. An entry stays as long as its
 * endpoint serves, whatever policies say now, because a change is no reason to cut a flow.
 */
import type { Family } from '../../../addr/index.ts';
import type { ConntrackEntry } from '../../../kernel/conntrack/index.ts';
import type { PortChange } from './ledger.ts';

const IPPROTO_UDP = 17;

/** Which connections have to go. */
export interface StaleFlows {
  readonly families: ReadonlySet<Family>;
  isStale(entry: ConntrackEntry): boolean;
}

/** Flows to the frontends of these ports that end at no serving endpoint; undefined when there can be none. */
export function staleFlows(changes: readonly PortChange[]): StaleFlows | undefined {
  /** Frontend, with the node's addresses written out, to its endpoints that serve. */
  const serving = new Map<string, ReadonlySet<string>>();
  const families = new Set<Family>();
  for (const { before, after } of changes) {
    const { plan } = (after ?? before)!;
    if (plan.protocol !== 'UDP') continue;
    const ends = new Set<string>();
    for (const { endpoint, port } of after?.plan.backends ?? [])
      if (endpoint.serving || endpoint.ready) ends.add(`${endpoint.address} ${port}`);
    // Without any endpoint packets are refused, and what is open may end by itself.
    if (after && ends.size === 0) continue;
    families.add(plan.family);
    for (const side of [before, after])
      for (const { address, port } of side?.plan.frontends ?? []) {
        const key = `${address} ${port}`;
        if (side === after || !serving.has(key)) serving.set(key, ends);
      }
  }
  if (serving.size === 0) return undefined;
  return {
    families,
    isStale({ original, reply }) {
      if (original.protocol !== IPPROTO_UDP) return false;
      const ends = serving.get(`${original.destination} ${original.destinationPort}`);
      return ends !== undefined && !ends.has(`${reply.source} ${reply.sourcePort}`);
    },
  };
}
