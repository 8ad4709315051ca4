/**
 * What outlives a backend: datagram connections of conntrack that lead to it. Pure.
 *
 * Only UDP: a TCP connection ends by itself, and its end is the endpoint's business. An entry stays as long as its
 * endpoint serves, whatever policies say now, because a change is no reason to cut a flow.
 */
import type { Family } from '../../../addr/index.ts';
import type { ConntrackEntry } from '../../../kernel/conntrack/index.ts';
import type { LedgerPort } from './ledger.ts';
import type { PortChange } from './port-changes.ts';

const IPPROTO_UDP = 17;

interface Front {
  readonly family: Family;
  /** Key of the Service's port that has or had it. */
  readonly port: string;
  /** Endpoints that serve: address and port. */
  ends: ReadonlySet<string>;
}

/** Flows to frontends that changed and that end at no serving endpoint, gathered until somebody looks for them. */
export class StaleFlows {
  /** By address and port, with the node's addresses written out. */
  readonly #fronts = new Map<string, Front>();

  /** Of which families flows may be stale; none: nobody needs to look. */
  get families(): ReadonlySet<Family> {
    return new Set([...this.#fronts.values()].map(({ family }) => family));
  }

  add(changes: readonly PortChange[]): void {
    for (const { before, after } of changes) {
      const { plan, key } = (after ?? before)!;
      if (plan.protocol !== 'UDP') continue;
      const ends = endsOf(after);
      // Without any endpoint packets are refused, and what is open may end by itself.
      if (after && ends.size === 0) continue;
      // What is gathered of it already has to know the endpoints of now.
      for (const front of this.#fronts.values()) if (front.port === key) front.ends = ends;
      if (after && !leavesStale(before, after)) continue;
      for (const side of [before, after])
        for (const front of frontsOf(side))
          if (side === after || !this.#fronts.has(front))
            this.#fronts.set(front, { family: plan.family, port: key, ends });
    }
  }

  /** Somebody looked for those of this family. */
  forget(family: Family): void {
    for (const [key, front] of this.#fronts) if (front.family === family) this.#fronts.delete(key);
  }

  isStale({ original, reply }: ConntrackEntry): boolean {
    if (original.protocol !== IPPROTO_UDP) return false;
    const front = this.#fronts.get(`${original.destination} ${original.destinationPort}`);
    return front !== undefined && !front.ends.has(`${reply.source} ${reply.sourcePort}`);
  }
}

/**
 * Whether a change can leave such flows: an endpoint went, or an address came that packets passed untranslated before.
 * A look costs a walk through the whole table, so that most changes should do without.
 */
function leavesStale(before: LedgerPort | undefined, after: LedgerPort): boolean {
  const [was, is] = [endsOf(before), endsOf(after)];
  if (was.size === 0 || [...was].some((end) => !is.has(end))) return true;
  const fronts = new Set(frontsOf(before));
  return frontsOf(after).some((front) => !fronts.has(front));
}

function endsOf(port: LedgerPort | undefined): ReadonlySet<string> {
  const serving = (port?.plan.backends ?? []).filter(({ endpoint }) => endpoint.serving || endpoint.ready);
  return new Set(serving.map(({ endpoint, port: number }) => `${endpoint.address} ${number}`));
}

function frontsOf(port: LedgerPort | undefined): string[] {
  return (port?.plan.frontends ?? []).map(({ address, port: number }) => `${address} ${number}`);
}
