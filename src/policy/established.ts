/**
 * Connections that were allowed once and are no longer: found in connection tracking and deleted there, so that their
 * next packet is judged anew. A policy that comes or a label that goes would otherwise leave them open for days.
 */
import type { IpAddress } from '../addr/index.ts';
import { type Conntrack, type ConntrackEntry, sendersOf } from '../kernel/conntrack/index.ts';
import type { Protocol } from '../model/kubernetes.ts';
import { type Endpoint, evaluate, type PolicyWorld } from './evaluate.ts';

const PROTOCOLS: ReadonlyMap<number, Protocol> = new Map([
  [6, 'TCP'],
  [17, 'UDP'],
  [132, 'SCTP'],
]);

export interface Judge {
  readonly world: PolicyWorld;
  endpoint(address: IpAddress): Endpoint;
  /** Whether the address is that of a local pod which is isolated: only its connections are judged here. */
  isIsolated(address: IpAddress): boolean;
}

/** Entries that policies forbid. After DNAT the answering side is the destination. Pure. */
export function forbidden(entries: Iterable<ConntrackEntry>, judge: Judge): ConntrackEntry[] {
  const found: ConntrackEntry[] = [];
  for (const entry of entries) {
    const { original, reply } = entry;
    const source = original.source;
    const destination = reply.source;
    const outgoing = judge.isIsolated(source);
    const incoming = judge.isIsolated(destination);
    if ((!outgoing && !incoming) || source.equals(destination)) continue;
    const verdict = evaluate(
      {
        from: judge.endpoint(source),
        to: judge.endpoint(destination),
        protocol: PROTOCOLS.get(original.protocol),
        port: reply.sourcePort,
      },
      judge.world,
    );
    // Each node answers for its own pods: the other end's node knows better about the other end.
    if ((outgoing && !verdict.egress.allowed) || (incoming && !verdict.ingress.allowed)) found.push(entry);
  }
  return found;
}

/** Deletes what policies forbid of what these addresses send or answer; returns how many connections that were. */
export function cutForbidden(conntrack: Conntrack, judge: Judge, isolated: Iterable<IpAddress>): number {
  const entries = forbidden(conntrack.list({ senders: sendersOf(isolated) }), judge);
  return entries.length === 0 ? 0 : conntrack.delete(entries);
}
