/**
 * Flows that netfilter translated before this engine came, and goes on translating: bpf/include/lb_passed.h. Their NAT
 * is in conntrack, so it outlives the table that decided it, as long as any nat chain is left in that family.
 */

import type { BpfMap } from '../../../kernel/bpf/index.ts';
import { jiffiesPerSecond, type NetnsLike } from '../../../kernel/bpf/index.ts';
import { Conntrack, type ConntrackEntry, IPS } from '../../../kernel/conntrack/index.ts';
import { readSysctl } from '../../../kernel/sysctl/index.ts';
import { encodeEndpoint, PROTOCOL_NUMBER, passedKeyStruct, passedStruct, writeAddress } from './layout.ts';
import { textOf } from './leftovers.ts';
import type { Writer } from './writer.ts';

const IPPROTO = { TCP: 6, UDP: 17 } as const;
/** Conntrack looks at its clock now and then: an entry is not to be relied on to its last moment. */
const SOONER_SECONDS = 3;

/** How long conntrack remembers idle datagram flows, in seconds. */
export interface DatagramTimeouts {
  readonly unanswered: number;
  readonly answered: number;
}

export interface PassedContext {
  readonly timeouts: DatagramTimeouts;
  readonly jiffiesPerSecond: number;
  /** Number of a backend of a frontend; undefined when the Service does not have it. */
  readonly backendId: (entry: ConntrackEntry) => number | undefined;
}

/** Keys and values of lb_passed for these entries of conntrack. Pure. */
export function planPassed(
  entries: readonly ConntrackEntry[],
  { timeouts, jiffiesPerSecond: hz, backendId }: PassedContext,
): [key: Uint8Array, value: Uint8Array][] {
  const plan: [Uint8Array, Uint8Array][] = [];
  for (const entry of entries) {
    const { original, reply, status } = entry;
    const { protocol } = original;
    if (!(status & IPS.DST_NAT) || (protocol !== IPPROTO.TCP && protocol !== IPPROTO.UDP)) continue;
    const id = backendId(entry);
    // A datagram flow follows its Service: without its backend it gets another one.
    if (protocol === IPPROTO.UDP && id === undefined) continue;
    const seconds = (status & IPS.ASSURED ? timeouts.answered : timeouts.unanswered) - SOONER_SECONDS;
    const backend = new Uint8Array(16);
    writeAddress(backend, 0, String(reply.source));
    const value = passedStruct.encode({
      backend,
      backend_port: reply.sourcePort,
      backend_id: protocol === IPPROTO.UDP ? id! : 0,
      seen: 0,
      idle: protocol === IPPROTO.UDP ? Math.max(1, seconds) * hz : 0,
    });
    const { source, sourcePort, destination, destinationPort } = original;
    plan.push([keyOf(protocol, [String(source), sourcePort], [String(destination), destinationPort]), value]);
    // Its answers are packets of a pod, too, and the port that stands for the client may be a nodePort's number.
    if (status & IPS.SRC_NAT)
      plan.push([
        keyOf(
          protocol,
          [String(reply.source), reply.sourcePort],
          [String(reply.destination), reply.destinationPort],
        ),
        value,
      ]);
  }
  return plan;
}

type End = readonly [address: string, port: number];

function keyOf(protocol: number, client: End, vip: End): Uint8Array {
  return passedKeyStruct.encode({
    client: encodeEndpoint(...client, protocol),
    vip: encodeEndpoint(...vip, protocol),
  });
}

export class PassedFlows {
  readonly #map: BpfMap;
  readonly #netns: NetnsLike | undefined;

  constructor(map: BpfMap, netns: NetnsLike | undefined) {
    this.#map = map;
    this.#netns = netns;
  }

  /** Writes what conntrack translates now and is not known yet. Returns how many keys there are. */
  gather(writer: Writer): number {
    const plan = planPassed(this.#entries(), {
      timeouts: this.#timeouts(),
      jiffiesPerSecond: jiffiesPerSecond(),
      backendId: backendFinder(writer),
    });
    for (const [key, value] of plan) {
      const there = this.#map.get(key);
      if (!there) this.#map.set(key, value);
    }
    return plan.length;
  }

  /** Forgets what conntrack has forgotten. Asks it only while there is something to forget. */
  tidy(): void {
    if (!this.#map.nextKey()) return;
    const context = { timeouts: this.#timeouts(), jiffiesPerSecond: 1, backendId: () => 0 };
    const there = new Set(planPassed(this.#entries(), context).map(([key]) => textOf(key)));
    const gone = [...this.#map.keys()].filter((key) => !there.has(textOf(key)));
    for (const key of gone) this.#map.delete(key);
  }

  #entries(): ConntrackEntry[] {
    using conntrack = Conntrack.open({ netns: this.#netns });
    return conntrack.list();
  }

  #timeouts(): DatagramTimeouts {
    const place = this.#netns === undefined ? {} : { netns: this.#netns };
    const read = (name: string, kernelDefault: number) =>
      Number(readSysctl(`net/netfilter/${name}`, place) ?? kernelDefault) || kernelDefault;
    return {
      unanswered: read('nf_conntrack_udp_timeout', 30),
      answered: read('nf_conntrack_udp_timeout_stream', 120),
    };
  }
}

/** Finds the number of the backend that a translated datagram flow goes to. */
function backendFinder(writer: Writer): PassedContext['backendId'] {
  const ports = new Map<string, Map<string, number>>();
  for (const [, { plan, ids }] of writer.ports()) {
    const backends = new Map(
      plan.backends.map(({ endpoint, port }, at) => [`${endpoint.address} ${port}`, ids[at]!]),
    );
    for (const { address, port, shadowedBy } of plan.frontends)
      if (shadowedBy === undefined)
        ports.set(`${PROTOCOL_NUMBER[plan.protocol]} ${address} ${port}`, backends);
  }
  return ({ original, reply }) =>
    ports
      .get(`${original.protocol} ${original.destination} ${original.destinationPort}`)
      ?.get(`${reply.source} ${reply.sourcePort}`);
}
