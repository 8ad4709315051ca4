/**
 * The reference of the packet programs (bpf/lb_pod.bpf.c, bpf/lb_node.bpf.c): what has to happen to any packet, in
 * verdict, bytes and counted reason. Written from docs/services.md and src/service/README.md, and not from the C text.
 * Where a program may choose (a backend at random, the flow to give up) the reference looks at what it chose and says
 * whether it might.
 */
import { BACKEND, REASONS, type Reason } from '../../src/service/engines/ebpf/layout.ts';
import { answerError, answerReset, flowHash } from './lb-reference-answer.ts';
import {
  Affinities,
  emptyFlow,
  FLOW,
  type Flow,
  Flows,
  Fragments,
  flowFrom,
  flowTo,
  isOver,
  orderAfter,
  portBy,
  wayFlags,
  wayOf,
  waysOf,
} from './lb-reference-flows.ts';
import { ETHERNET, Packet, PROTOCOL, readAddress, sameAddress } from './lb-reference-packet.ts';
import { readTold, type ToldWords } from './lb-reference-told.ts';
import { type Backend, type Frontend, type Table, type World, words } from './lb-reference-world.ts';

export const VERDICT = { NEXT: 0xffff_ffff, DROP: 2, REDIRECT: 7 } as const;
export type ProgramName =
  | 'lb_from_pod'
  | 'lb_to_pod'
  | 'lb_from_outside'
  | 'lb_to_outside'
  | 'lb_from_overlay'
  | 'lb_xdp';

/** Who a new flow gets. */
export interface Choice {
  readonly frontend: Frontend;
  readonly backend: Backend;
}

/** Direct return needs an address of outside; where the other node is not told, also a choice that it comes to, too. */
export function isDirect({ kind, dsr, outside, affinity }: Frontend): boolean {
  if (dsr === undefined || kind < 1 || kind > 3) return false;
  return dsr === 'option' || (outside.hash && !affinity && kind >= 2);
}

const wayOfDirect = ({ dsr }: Frontend) => (dsr === 'option' ? FLOW.DIRECT | FLOW.OPTION : FLOW.DIRECT);

/** What the program under test made of the packet. */
export interface Observed {
  verdict: number;
  readonly bytes: Uint8Array;
  length: number;
}

const TCP = { FIN: 1, SYN: 2, RST: 4, ACK: 16 } as const;
const MARK = 0x20000;
const HAIRPIN_ADDRESS = { four: words('169.254.112.111'), six: words('100::706f') };

export class Reference {
  readonly world: World;
  readonly flows = new Flows(16_384);
  readonly fragments = new Fragments(4096);
  readonly affinities = new Affinities(4096);
  readonly counts = new Float64Array(REASONS.length);
  /** The packet as it must come out, `outLength` bytes of it. */
  readonly out = new Uint8Array(4096);
  outLength = 0;
  /** Flows whose backends see another port of their client, because its own one stands for another flow. */
  otherPorts = 0;
  /** The mark that it must carry. */
  mark = 0;
  protected readonly packet = new Packet();
  protected readonly inner = new Packet();
  readonly #observedTarget = new Uint32Array(4);
  /** Whether flows were translated at the pod's link, at the node's interfaces. */
  protected readonly usedLinks = { pod: false, node: false };
  /** Ways that flows of a link had, a bit each: nobody looks for others. */
  readonly #usedWays = { pod: 1, node: 1 };
  protected observed: Observed = { verdict: 0, bytes: new Uint8Array(0), length: 0 };
  protected outside = false;
  protected gso = false;

  constructor(world: World) {
    this.world = world;
    this.packet.attach(this.out);
    this.inner.attach(this.out);
  }

  /** Forgets all flows, fragments and clients, and that links had flows. */
  clear(): void {
    this.flows.clear();
    this.fragments.clear();
    this.affinities.clear();
    this.usedLinks.pod = this.usedLinks.node = false;
    this.#usedWays.pod = this.#usedWays.node = 1;
  }

  /** The verdict that this packet must get; `out`, `outLength` and `mark` are set. */
  judge(program: ProgramName, input: Uint8Array, length: number, observed: Observed, gso = false): number {
    this.begin(program, input, length, observed, gso);
    if (program === 'lb_to_pod' || program === 'lb_to_outside') return this.#toClient(length);
    const p = this.packet;
    const kind = p.read(length, this.fragments);
    const told = kind === 'other' ? undefined : readTold(p);
    if (told) return this.outside ? this.told(kind === 'whole', told) : this.drop('drop-option');
    switch (kind) {
      case 'other':
        return VERDICT.NEXT;
      case 'cut':
        return this.world.answersFor(p.target) ? this.drop('drop-malformed') : VERDICT.NEXT;
      case 'no-ports':
        return (this.outside ? this.wrapped() : undefined) ?? this.noFrontend();
      default:
        if (p.icmp) return (this.outside ? this.errorElsewhere() : undefined) ?? this.errorToBackend();
        return (this.outside ? this.known() : undefined) ?? this.fromClient();
    }
  }

  protected begin(
    program: ProgramName,
    input: Uint8Array,
    length: number,
    observed: Observed,
    gso: boolean,
  ): void {
    this.out.set(input.subarray(0, length));
    this.outLength = length;
    this.mark = 0;
    this.observed = observed;
    this.gso = gso;
    this.outside = program === 'lb_from_outside' || program === 'lb_to_outside';
  }

  // Without other nodes nobody may tell this one anything, and no flow leads elsewhere: NodeReference has more.
  protected told(_whole: boolean, _told: ToldWords): number {
    return this.drop('drop-option');
  }
  protected wrapped(): number | undefined {
    return undefined;
  }
  protected known(): number | undefined {
    return undefined;
  }
  protected errorElsewhere(): number | undefined {
    return undefined;
  }
  protected sendDirect(_flow: Flow): number {
    throw new Error('no other node');
  }

  protected count(reason: Reason): void {
    this.counts[REASONS.indexOf(reason)]! += 1;
  }

  protected drop(reason: Reason): number {
    this.count(reason);
    return VERDICT.DROP;
  }

  /** A packet for no frontend: refused where the address is a Service's, dropped where nobody has it. */
  protected noFrontend(): number {
    const { target } = this.packet;
    if (!this.world.answersFor(target)) return VERDICT.NEXT;
    return this.world.isClusterIP(target)
      ? this.refuse('reject-unknown-port')
      : this.drop('drop-unallocated');
  }

  protected get opens(): boolean {
    const p = this.packet;
    return p.protocol === PROTOCOL.TCP && (p.tcpFlags & (TCP.SYN | TCP.ACK | TCP.RST)) === TCP.SYN;
  }

  protected fromClient(): number {
    const p = this.packet;
    const hairpin = p.four ? HAIRPIN_ADDRESS.four : HAIRPIN_ADDRESS.six;
    if (!this.outside && sameAddress(p.target, hairpin)) return this.#hairpinAnswer();
    const usedLink = this.usedLinks[this.#link];
    // Open connections past a link without translated flows are nobody's business.
    const going = p.protocol === PROTOCOL.TCP && !this.opens;
    if (!this.outside && going && !usedLink && !this.world.inServiceRange(p.target)) return VERDICT.NEXT;
    const flows = usedLink ? this.flows.of(p.source, p.sourcePort, p.protocol) : undefined;
    let flow = flows && flowTo(flows, p.target, p.targetPort);
    if (flow && this.goesOn(flow)) this.track(flow, true);
    else {
      const opened = this.open(flows);
      if (typeof opened === 'number') return opened;
      flow = opened;
    }
    if ((flow.flags & FLOW.DIRECT) !== 0) return this.sendDirect(flow);
    const turns = !this.outside && (flow.flags & FLOW.HAIRPIN) !== 0;
    this.give(flow, turns ? hairpin : p.source);
    if (turns) p.swapMacs();
    else if (this.outside && (flow.flags & FLOW.MASQUERADE) !== 0) this.mark = MARK;
    return turns ? VERDICT.REDIRECT : VERDICT.NEXT;
  }

  /** A client's packet becomes one to its backend, from this source. */
  protected give(flow: Flow, source: Uint32Array = this.packet.source): void {
    const p = this.packet;
    const port = portBy(p.sourcePort, wayOf(flow));
    p.replace('target', flow.backend, flow.backendPort);
    if (source !== p.source || port !== p.sourcePort) p.replace('source', source, port);
  }

  /** An open connection stays where it is; a repeated SYN and datagrams while their backend serves. */
  protected goesOn(flow: Flow): boolean {
    const p = this.packet;
    if (p.protocol === PROTOCOL.TCP && !this.opens) return true;
    if (isOver(flow)) return false;
    const backend = this.world.backends.get(flow.backendId);
    if (!backend || (backend.flags & BACKEND.USED) === 0) return false;
    if (backend.port !== flow.backendPort || !sameAddress(backend.address, flow.backend)) return false;
    return p.protocol !== PROTOCOL.TCP || (backend.flags & (BACKEND.CLUSTER | BACKEND.LOCAL)) !== 0;
  }

  protected track(flow: Flow, fromClient: boolean): void {
    const { tcpFlags } = this.packet;
    if (!fromClient) flow.flags |= FLOW.REPLIED;
    // A client that goes on after an answer is there; a forged one is not.
    else if ((flow.flags & FLOW.REPLIED) !== 0) {
      const goesOn = (tcpFlags & (TCP.SYN | TCP.ACK)) === TCP.ACK;
      if (this.packet.protocol === PROTOCOL.UDP || goesOn) flow.flags |= FLOW.CONFIRMED;
    }
    if ((tcpFlags & TCP.RST) !== 0) flow.flags |= FLOW.RESET;
    if ((tcpFlags & TCP.FIN) !== 0) flow.flags |= fromClient ? FLOW.FIN_CLIENT : FLOW.FIN_BACKEND;
  }

  /** What the client's port meant until now is not to be shown as that VIP's any more. */
  protected forget(flows: Flow[] | undefined, backend: Uint32Array, port: number): void {
    const flow = flows && flowFrom(flows, backend, port, undefined, 0);
    if (flow && (this.packet.protocol === PROTOCOL.UDP || isOver(flow))) flow.flags = 0;
  }

  protected open(flows: Flow[] | undefined): Flow | number {
    const chosen = this.chosen(flows);
    return typeof chosen === 'number' ? chosen : this.place(chosen);
  }

  /** Remembers a choice where there is a way for it. */
  protected place(chosen: Choice): Flow | number {
    // With direct return another node may get the next packet, and knows of no way.
    const told = this.outside && isDirect(chosen.frontend);
    const way = told ? 0 : this.#freeWay(chosen.backend.address, chosen.backend.port);
    return way === undefined ? this.drop('drop-flows-full') : this.keep(chosen, way);
  }

  /** Who the client gets, or the verdict. */
  protected chosen(flows: Flow[] | undefined): Choice | number {
    const p = this.packet;
    const frontend = this.world.frontendOf(p.target, p.targetPort, p.protocol);
    if (!frontend) {
      if (p.fragment !== 'later' && (this.opens || p.protocol === PROTOCOL.UDP))
        this.forget(flows, p.target, p.targetPort);
      return this.noFrontend();
    }
    const table = this.outside ? frontend.outside : frontend.inside;
    if (p.protocol === PROTOCOL.TCP && !this.opens && !table.hash) return this.refuse('reject-no-flow');
    if (frontend.ranges && !this.world.allows(frontend.service, p.source))
      return this.drop('drop-source-range');
    if (table.ids.length === 0)
      return table.drop ? this.drop('drop-no-local') : this.refuse('reject-no-endpoint');
    const id = this.choose(frontend, table);
    const backend = this.world.backends.get(id);
    return backend ? { frontend, backend } : this.drop('drop-no-backend');
  }

  /** Remembers a choice. */
  protected keep({ frontend, backend }: Choice, way = 0): Flow {
    const p = this.packet;
    const own = this.flows.make(p.source, p.sourcePort, p.protocol);
    let order = way === 0 ? 0 : 128 + way;
    if (way !== 0) this.otherPorts++;
    if (this.outside && isDirect(frontend)) {
      this.forget(own, backend.address, backend.port);
      order = orderAfter(own, backend.address, backend.port, p.target, p.targetPort);
    }
    const flow = this.#place(own);
    flow.vip.set(p.target);
    flow.backend.set(backend.address);
    flow.client.set(p.source);
    flow.vipPort = p.targetPort;
    flow.backendPort = backend.port;
    flow.clientPort = p.sourcePort;
    flow.backendId = backend.id;
    flow.order = order;
    flow.flags = FLOW.USED | wayFlags(way) | (p.protocol === PROTOCOL.UDP ? FLOW.UDP : 0);
    if (!this.outside && sameAddress(backend.address, p.source)) {
      flow.flags |= FLOW.HAIRPIN;
      this.count('forward-hairpin');
    } else {
      const elsewhere = (backend.flags & BACKEND.NEAR) === 0;
      if (this.outside && isDirect(frontend)) flow.flags |= elsewhere ? wayOfDirect(frontend) : 0;
      else if (this.outside && !frontend.keep) flow.flags |= FLOW.MASQUERADE;
      this.count((flow.flags & FLOW.DIRECT) !== 0 ? 'forward-direct' : 'forward-flow');
    }
    this.track(flow, true);
    this.usedLinks[this.#link] = true;
    this.#usedWays[this.#link] |= 1 << way;
    return flow;
  }

  /**
   * By which port the backend is to see a new flow: none that stands for another open one there. Of datagrams
   * the last way is taken over when there is none.
   */
  #freeWay(backend: Uint32Array, port: number): number | undefined {
    const p = this.packet;
    const own = this.flows.of(p.source, p.sourcePort, p.protocol);
    const same = own && flowTo(own, p.target, p.targetPort);
    for (const way of waysOf(p.sourcePort)) {
      const client = { address: p.source, port: portBy(p.sourcePort, way), protocol: p.protocol };
      const holder = this.#seenAs(client, backend, port);
      if (!holder || holder === same) return way;
      if (isOver(holder) || (p.protocol === PROTOCOL.UDP && way === 7)) {
        holder.flags = 0;
        return way;
      }
    }
    return undefined;
  }

  get #link(): 'pod' | 'node' {
    return this.outside ? 'node' : 'pod';
  }

  /** The flow of this link whose backend sees this port of a client. */
  #seenAs(
    client: Parameters<Flows['seenAs']>[0],
    backend: Uint32Array,
    port: number,
    hairpin?: boolean,
  ): Flow | undefined {
    return this.flows.seenAs(client, backend, port, this.#usedWays[this.#link], hairpin);
  }

  /** The place of the same VIP, or another one: there are enough. */
  #place(flows: Flow[]): Flow {
    const p = this.packet;
    const known =
      flowTo(flows, p.target, p.targetPort) ?? flows.find((flow) => (flow.flags & FLOW.USED) === 0);
    if (known) return known;
    const made = emptyFlow();
    flows.push(made);
    return made;
  }

  protected choose(frontend: Frontend, table: Table): number {
    const p = this.packet;
    if (frontend.affinity) {
      const known = this.affinities.get(p.source, frontend.service);
      const backend = this.world.backends.get(known);
      const member = table.local ? BACKEND.LOCAL : BACKEND.CLUSTER;
      if (backend && backend.service === frontend.service && (backend.flags & member) !== 0) return known;
    }
    const id = table.hash
      ? table.ids[Math.floor((flowHash(p, frontend.affinity) * table.ids.length) / 2 ** 32)]!
      : this.#observedChoice(table);
    const used = ((this.world.backends.get(id)?.flags ?? 0) & BACKEND.USED) !== 0;
    if (frontend.affinity && used) this.affinities.set(p.source, frontend.service, id);
    return id;
  }

  /** Which of the table's backends the program took at random; also one that has just gone. 0 for nobody, if named. */
  #observedChoice(table: Table): number {
    const { verdict, bytes } = this.observed;
    const { backends } = this.world;
    if (verdict === VERDICT.DROP && table.ids.includes(0)) return 0;
    const p = this.packet;
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    readAddress(this.#observedTarget, view, p.addressAt('target'), p.four);
    const port = p.fragment === 'later' ? undefined : view.getUint16(p.transportAt + 2);
    const fits = (id: number) => {
      const backend = backends.get(id);
      if (!backend || !sameAddress(backend.address, this.#observedTarget)) return false;
      return port === undefined || backend.port === port;
    };
    // None that fits: the first one, and the packets will differ.
    return table.ids.find(fits) ?? table.ids[0]!;
  }

  /** The answer of a pod to itself. */
  #hairpinAnswer(): number {
    const p = this.packet;
    const client = { address: p.source, port: p.targetPort, protocol: p.protocol };
    const flow = this.#seenAs(client, p.source, p.sourcePort, true);
    if (!flow) return this.drop('reject-no-flow');
    this.track(flow, false);
    p.replace('source', flow.vip, flow.vipPort);
    p.replace('target', flow.client, flow.clientPort);
    p.swapMacs();
    return VERDICT.REDIRECT;
  }

  #toClient(length: number): number {
    const p = this.packet;
    if (!this.usedLinks[this.#link]) return VERDICT.NEXT;
    if (p.read(length, this.fragments) !== 'whole') return VERDICT.NEXT;
    if (p.icmp) return this.#errorToClient();
    const client = { address: p.target, port: p.targetPort, protocol: p.protocol };
    const flow = this.#seenAs(client, p.source, p.sourcePort, false);
    if (!flow) return VERDICT.NEXT;
    this.track(flow, false);
    p.replace('source', flow.vip, flow.vipPort);
    if (flow.clientPort !== p.targetPort) p.replace('target', p.target, flow.clientPort);
    return VERDICT.NEXT;
  }

  protected get isError(): boolean {
    const { four, icmpType } = this.packet;
    return four ? [3, 4, 5, 11, 12].includes(icmpType) : icmpType < 128;
  }

  /** Reads the packet inside an ICMP error as far as its ports; false where it has none to go by. */
  protected readInner(): boolean {
    const outer = this.packet;
    const inner = this.inner;
    const { view, length, four } = outer;
    const at = outer.transportAt + 8;
    const header = four ? 20 : 40;
    if (at + header > length || view.getUint8(at) >> 4 !== (four ? 4 : 6)) return false;
    const own = four ? (view.getUint8(at) & 15) * 4 : header;
    if (own < header || (four && (view.getUint16(at + 6) & 0x1fff) !== 0)) return false;
    inner.protocol = view.getUint8(at + (four ? 9 : 6));
    if (inner.protocol !== PROTOCOL.TCP && inner.protocol !== PROTOCOL.UDP) return false;
    inner.four = four;
    inner.transportAt = at + own;
    if (inner.transportAt + 4 > length) return false;
    readAddress(inner.source, view, at + (four ? 12 : 8), four);
    readAddress(inner.target, view, at + (four ? 16 : 24), four);
    inner.sourcePort = view.getUint16(inner.transportAt);
    inner.targetPort = view.getUint16(inner.transportAt + 2);
    return true;
  }

  /**
   * Another address and port in the packet inside an error. Its own IPv4 header sum makes up for the address; all else
   * that changes is in the sum of the ICMP message. Its transport sum is left: mostly it is not there.
   */
  protected replaceInner(end: 'source' | 'target', address: Uint32Array, port: number): void {
    const outer = this.packet;
    const inner = this.inner;
    const at = outer.transportAt + 8;
    const from = outer.four ? (end === 'source' ? 12 : 16) : end === 'source' ? 8 : 24;
    const change = outer.writeAddress(at + from, address);
    if (outer.four) outer.adjust(at + 10, change);
    const portAt = inner.transportAt + (end === 'source' ? 0 : 2);
    const old = outer.view.getUint16(portAt);
    outer.view.setUint16(portAt, port);
    outer.adjust(outer.transportAt + 2, (outer.four ? 0 : change) + port + 65_535 - old);
  }

  protected replaceOuter(end: 'source' | 'target', address: Uint32Array): void {
    const p = this.packet;
    const change = p.writeAddress(p.addressAt(end), address);
    p.adjust(p.four ? ETHERNET + 10 : p.transportAt + 2, change);
  }

  /** The client complains about a packet that seems to come from the VIP. */
  protected errorToBackend(): number {
    const p = this.packet;
    if (!this.isError) return this.noFrontend();
    const inner = this.inner;
    const known = this.readInner();
    const flows = known ? this.flows.of(inner.target, inner.targetPort, inner.protocol) : undefined;
    const flow = flows && flowTo(flows, inner.source, inner.sourcePort);
    if (!flow) return this.world.answersFor(p.target) ? this.drop('drop-icmp') : VERDICT.NEXT;
    const way = (flow.flags & FLOW.OPTION) === 0 ? wayOf(flow) : 0;
    if (way !== 0) this.replaceInner('target', inner.target, portBy(inner.targetPort, way));
    this.replaceInner('source', flow.backend, flow.backendPort);
    this.replaceOuter('target', flow.backend);
    return VERDICT.NEXT;
  }

  /** Somebody complains about a packet that the client sent to the VIP. */
  #errorToClient(): number {
    const inner = this.inner;
    if (!this.isError || !this.readInner()) return VERDICT.NEXT;
    const client = { address: inner.source, port: inner.sourcePort, protocol: inner.protocol };
    const flow = this.#seenAs(client, inner.target, inner.targetPort, false);
    if (!flow) return VERDICT.NEXT;
    if (flow.clientPort !== inner.sourcePort) this.replaceInner('source', inner.source, flow.clientPort);
    this.replaceInner('target', flow.vip, flow.vipPort);
    if (sameAddress(this.packet.source, flow.backend)) this.replaceOuter('source', flow.vip);
    return VERDICT.NEXT;
  }

  /** Answers the sender. */
  protected refuse(reason: Reason): number {
    const p = this.packet;
    if (p.fragment === 'later') return this.drop('drop-fragment');
    if (p.protocol === PROTOCOL.TCP) {
      if ((p.tcpFlags & TCP.RST) !== 0) return this.drop('reject-no-flow');
      if (this.gso) return this.drop(reason);
      answerReset(p);
    } else {
      const length = answerError(p, this.outLength, 'unreachable');
      if (length === 0) return this.drop('drop-rewrite');
      this.outLength = length;
    }
    this.count(reason);
    return VERDICT.REDIRECT;
  }
}
