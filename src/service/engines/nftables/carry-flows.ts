/**
 * Flows that eBPF programs translated, written into conntrack, which translates them from then on.
 *
 *     before: program  client -> VIP  becomes  client -> backend, perhaps by another port of the client;
 *             conntrack  this, perhaps masqueraded
 *     after:  conntrack  client -> VIP, answered by backend -> client, or whom the backend saw before
 *
 * The old entry has the new one's answer, so it goes first. In between a packet of the backend may make another such
 * entry (conntrack takes up what it did not see beginning), so this is tried again.
 */
import { parseIp } from '../../../addr/index.ts';
import type {
  Conntrack,
  ConntrackEntry,
  ConntrackTuple,
  TranslatedConnection,
} from '../../../kernel/conntrack/index.ts';
import { IPS } from '../../../kernel/conntrack/index.ts';
import type { FlowEnd, TranslatedFlow } from '../../translated-flow.ts';

const IPPROTO_TCP = 6;
/** enum tcp_conntrack. */
const TCP = { SYN_SENT: 1, ESTABLISHED: 3 } as const;
/** As long as the kernel's own defaults, which it takes with the next packet. */
const SECONDS = { open: 432_000, opening: 60, answered: 120, unanswered: 30 } as const;
const TRIES = 5;

/** One direction of a connection as text: conntrack has each only once. */
function tupleKey(protocol: number, from: FlowEnd, to: FlowEnd): string {
  return `${protocol} ${from.address} ${from.port} ${to.address} ${to.port}`;
}

function keyOfTuple({ protocol, source, sourcePort, destination, destinationPort }: ConntrackTuple): string {
  return `${protocol} ${source} ${sourcePort} ${destination} ${destinationPort}`;
}

export interface CarryPlan {
  /** Entries that stand where new ones will. */
  readonly remove: readonly ConntrackEntry[];
  readonly make: readonly TranslatedConnection[];
}

/** Pure. */
export function planCarry(flows: readonly TranslatedFlow[], entries: readonly ConntrackEntry[]): CarryPlan {
  const byTuple = new Map<string, ConntrackEntry>();
  for (const entry of entries) {
    byTuple.set(keyOfTuple(entry.original), entry);
    byTuple.set(keyOfTuple(entry.reply), entry);
  }
  const remove = new Set<ConntrackEntry>();
  const make: TranslatedConnection[] = [];
  for (const { protocol, client, vip, backend, source, replied } of flows) {
    // What conntrack met behind the program; perhaps as another one than the client, by another port at least.
    const sent = source ?? client;
    const old = byTuple.get(tupleKey(protocol, sent, backend));
    const seen = seenBy(old, sent, backend) ?? sent;
    const same = String(seen.address) === String(client.address) && seen.port === client.port;
    for (const key of [
      tupleKey(protocol, client, vip),
      tupleKey(protocol, backend, seen),
      tupleKey(protocol, sent, backend),
    ]) {
      const there = byTuple.get(key);
      if (there) remove.add(there);
    }
    const tcp = protocol === IPPROTO_TCP;
    const known = tcp && old?.tcpState !== undefined && old.tcpState > 0 ? old : undefined;
    const tcpState = tcp ? (known?.tcpState ?? (replied ? TCP.ESTABLISHED : TCP.SYN_SENT)) : undefined;
    const answered = old ? (old.status & IPS.SEEN_REPLY) !== 0 || replied : replied;
    make.push({
      protocol,
      client,
      target: vip,
      backend,
      ...(same ? {} : { source: seen }),
      replied: answered,
      assured: old ? (old.status & IPS.ASSURED) !== 0 : tcp && replied,
      tcpState,
      timeoutSeconds: old?.timeoutSeconds || secondsOf(tcp, answered),
      mark: old?.mark,
    });
  }
  return { remove: [...remove], make };
}

/** Whom the backend sees: rules may have masqueraded what the program sent on. */
function seenBy(old: ConntrackEntry | undefined, sent: FlowEnd, backend: FlowEnd): FlowEnd | undefined {
  if (!old) return undefined;
  const { original, reply } = old;
  const begunByClient = String(original.source) === String(sent.address) && original.sourcePort === sent.port;
  const answeredByBackend =
    String(reply.source) === String(backend.address) && reply.sourcePort === backend.port;
  return begunByClient && answeredByBackend
    ? { address: parseIp(String(reply.destination)), port: reply.destinationPort }
    : undefined;
}

function secondsOf(tcp: boolean, answered: boolean): number {
  if (tcp) return answered ? SECONDS.open : SECONDS.opening;
  return answered ? SECONDS.answered : SECONDS.unanswered;
}

/** Writes these flows into conntrack. Returns how many are there now. Throws CONNTRACK_FAILED. */
export function carryFlows(conntrack: Conntrack, flows: readonly TranslatedFlow[]): number {
  if (flows.length === 0) return 0;
  let open = planCarry(flows, conntrack.list());
  for (let tries = 0; tries < TRIES; tries++) {
    conntrack.delete(open.remove);
    const taken = new Set(conntrack.create(open.make));
    if (taken.size === 0) return flows.length;
    // Only what stands in the way is of interest now; who sees whom is known.
    const left = open.make.filter((connection) => taken.has(connection));
    open = { make: left, remove: inTheWay(left, conntrack.list()) };
  }
  return flows.length - open.make.length;
}

function inTheWay(
  connections: readonly TranslatedConnection[],
  entries: readonly ConntrackEntry[],
): ConntrackEntry[] {
  const wanted = new Set<string>();
  for (const { protocol, client, target, backend, source } of connections) {
    wanted.add(tupleKey(protocol, client, target));
    wanted.add(tupleKey(protocol, backend, source ?? client));
  }
  return entries.filter(
    ({ original, reply }) => wanted.has(keyOfTuple(original)) || wanted.has(keyOfTuple(reply)),
  );
}
