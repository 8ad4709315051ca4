/**
 * The reference of the programs at a node's interfaces when there are other nodes (bpf/lb_node.bpf.c): translation of
 * both addresses, direct return inside another packet and by an option, both ways, and what is too large or too old.
 */
import { BACKEND, type Reason } from '../../src/service/engines/ebpf/layout.ts';
import {
  type Choice,
  isDirect,
  type Observed,
  type ProgramName,
  Reference,
  VERDICT,
} from './lb-reference.ts';
import { answerError } from './lb-reference-answer.ts';
import { FLOW, type Flow, flowTo, isOver } from './lb-reference-flows.ts';
import { type NatFlow, type NatFlows, natIsOver } from './lb-reference-nat.ts';
import type { Link, Surroundings, Way } from './lb-reference-node-world.ts';
import {
  ETHERNET,
  fold,
  Packet,
  PROTOCOL,
  readAddress,
  sameAddress,
  sumOfBytes,
} from './lb-reference-packet.ts';
import { putTold, readTold, type ToldWords, takeTold, toldSize } from './lb-reference-told.ts';
import { type Backend, type World, words } from './lb-reference-world.ts';

const SEGMENT = 1400;
const NOBODY = new Uint32Array(4);
const IN_ANOTHER = { four: 4, six: 41 } as const;
const TCP_DATA_OFFSET_AT = 12;

/** Another address and port for both ends. */
interface Change {
  readonly source: Uint32Array;
  readonly target: Uint32Array;
  readonly sourcePort: number;
  readonly targetPort: number;
}

export class NodeReference extends Reference {
  readonly nat: NatFlows;
  /** Reads from the maps which port the program gave to a client's flow, where no packet shows it. */
  natPortOf: ((p: Packet) => number | undefined) | undefined;
  /** The backend for which the last packet opened a flow with direct return, told or wrapped. */
  directTo: Backend | undefined;
  readonly #around: Surroundings;
  readonly #sources: ReadonlyMap<Link, { four: Uint32Array | undefined; six: Uint32Array | undefined }>;
  readonly #outerTarget = new Uint32Array(4);
  readonly #asked = new Packet();
  #ingress = '';

  constructor(world: World, around: Surroundings, nat: NatFlows) {
    super(world);
    this.#around = around;
    this.nat = nat;
    this.#sources = new Map(
      [...around.links.values()].map((link) => [
        link,
        {
          four: link.source4 ? words(link.source4) : undefined,
          six: link.source6 ? words(link.source6) : undefined,
        },
      ]),
    );
  }

  override clear(): void {
    super.clear();
    this.nat.clear();
  }

  /** The verdict of a packet that comes in by this link. */
  judgeAt(
    ingress: string,
    program: ProgramName,
    input: Uint8Array,
    length: number,
    observed: Observed,
    gso: boolean,
  ): number {
    this.#ingress = ingress;
    this.directTo = undefined;
    if (program !== 'lb_from_overlay') return this.judge(program, input, length, observed, gso);
    this.begin('lb_from_outside', input, length, observed, gso);
    const p = this.packet;
    const kind = p.read(length, this.fragments);
    if (kind === 'other') return VERDICT.NEXT;
    const told = readTold(p);
    if (told) return this.told(kind === 'whole', told);
    if (kind === 'cut') return VERDICT.NEXT;
    if (kind === 'no-ports') return this.wrapped() ?? VERDICT.NEXT;
    if (p.icmp) return this.errorElsewhere() ?? VERDICT.NEXT;
    const flow = this.nat.places[this.nat.ofBackend(p)];
    return flow ? this.#answer(flow) : VERDICT.NEXT;
  }

  // -- flows with a backend elsewhere

  protected override known(): number | undefined {
    const { nat } = this;
    const p = this.packet;
    const place = nat.ofClient(p);
    const flow = nat.places[place];
    if (flow) {
      if (this.#natGoesOn(flow)) {
        nat.track(flow, p, true);
        return this.#toBackend(flow);
      }
      nat.places[place] = undefined;
      return undefined;
    }
    const answered = nat.places[nat.ofBackend(p)];
    return answered && this.#answer(answered);
  }

  #natGoesOn(flow: NatFlow): boolean {
    const tcp = this.packet.protocol === PROTOCOL.TCP;
    if (tcp && !this.opens) return true;
    if (natIsOver(flow)) return false;
    const backend = this.world.backends.get(flow.backendId);
    if (!backend || (backend.flags & BACKEND.USED) === 0) return false;
    return !tcp || (backend.flags & (BACKEND.CLUSTER | BACKEND.LOCAL)) !== 0;
  }

  #answer(flow: NatFlow): number {
    this.nat.track(flow, this.packet, false);
    const { vip, vipPort, client, clientPort } = flow;
    return this.#forward({ source: vip, sourcePort: vipPort, target: client, targetPort: clientPort });
  }

  #toBackend(flow: NatFlow): number {
    const { source, natPort, backend, backendPort } = flow;
    return this.#forward({ source, sourcePort: natPort, target: backend, targetPort: backendPort });
  }

  protected override open(flows: Flow[] | undefined): Flow | number {
    const chosen = this.chosen(flows);
    if (typeof chosen === 'number') return chosen;
    const { frontend, backend } = chosen;
    if (this.outside && (backend.flags & BACKEND.NEAR) === 0 && !frontend.keep && !isDirect(frontend)) {
      const verdict = this.#openElsewhere(chosen);
      if (verdict !== undefined) return verdict;
    }
    if (isDirect(frontend)) this.directTo = backend;
    return this.place(chosen);
  }

  /** undefined: this node has no way or no address there. */
  #openElsewhere({ frontend, backend }: Choice): number | undefined {
    const p = this.packet;
    const source = this.#sourceOf(this.#around.to(backend.address, p.source));
    if (!source) return undefined;
    const { ports, hurry } = this.nat.candidates(p, backend);
    if (ports.length === 0) return this.drop('drop-nat-full');
    const natPort = this.natPortOf!(p);
    if (natPort === undefined || !ports.includes(natPort))
      throw new Error(`port ${natPort} for a new flow, may be ${ports.join(', ')}`);
    const flow: NatFlow = {
      client: p.source.slice(),
      vip: p.target.slice(),
      backend: backend.address,
      source,
      clientPort: p.sourcePort,
      vipPort: p.targetPort,
      backendPort: backend.port,
      natPort,
      backendId: backend.id,
      service: frontend.service,
      protocol: p.protocol,
      flags: 0,
      idleS: 0,
    };
    this.nat.put(flow, backend, hurry);
    this.nat.track(flow, p, true);
    this.count('forward-nat');
    return this.#toBackend(flow);
  }

  #sourceOf(way: Way | undefined): Uint32Array | undefined {
    if (!way?.link.known) return undefined;
    return this.#sources.get(way.link)![this.packet.four ? 'four' : 'six'];
  }

  // -- sending on

  /**
   * Of a packet of many segments the kernel changes the room only if it is TCP's or UDP's, which a test run cannot say
   * (net/core/filter.c, bpf_skb_net_grow: gso_type).
   */
  get #isRigid(): boolean {
    return this.gso;
  }

  /** Bytes of the largest packet on the wire, from the IP header on. */
  get #wireBytes(): number {
    const p = this.packet;
    const headers = p.transportAt - ETHERNET;
    if (!this.gso) return headers + p.payload;
    if (p.protocol !== PROTOCOL.TCP) return headers + 8 + SEGMENT;
    const at = p.transportAt + TCP_DATA_OFFSET_AT;
    return headers + (at < this.outLength ? (p.bytes[at]! >> 4) * 4 : 0) + SEGMENT;
  }

  /** Whether `more` bytes make it too large for this way: no tunnel, or it must not be cut. */
  #tooLarge(way: Way, more: number): boolean {
    const p = this.packet;
    if (!way.macs || this.#wireBytes + more <= way.link.mtu) return false;
    const uncut = !p.four || (p.view.getUint16(ETHERNET + 6) & 0x4000) !== 0;
    return uncut || !way.link.overlay || !way.link.known;
  }

  #complain(what: 'tooBig' | 'hopsUsedUp', mtu = 0): number {
    const reason: Reason = what === 'tooBig' ? 'reject-too-big' : 'drop-hop-limit';
    if (this.packet.fragment === 'later') return this.drop(reason);
    const length = answerError(this.packet, this.outLength, what, mtu);
    if (length === 0) return this.drop('drop-rewrite');
    this.outLength = length;
    this.count(reason);
    return VERDICT.REDIRECT;
  }

  /** One hop less; false when none is left. */
  #age(): boolean {
    const p = this.packet;
    const at = ETHERNET + (p.four ? 8 : 7);
    if (p.bytes[at]! <= 1) return false;
    p.bytes[at]!--;
    if (p.four) p.adjust(ETHERNET + 10, 65_535 - 0x100);
    return true;
  }

  #leave(way: Way): number {
    if (way.macs) this.out.set(way.macs);
    return VERDICT.REDIRECT;
  }

  #forward(to: Change): number {
    const way = this.#around.to(to.target, to.source);
    if (!way) return this.drop('drop-no-route');
    if (this.#tooLarge(way, 0)) return this.#complain('tooBig', way.link.mtu);
    if (!this.#age()) return this.#complain('hopsUsedUp');
    this.packet.replace('source', to.source, to.sourcePort);
    this.packet.replace('target', to.target, to.targetPort);
    return this.#leave(way);
  }

  /** An ICMP error about a packet of such a flow; undefined: about no such packet. */
  protected override errorElsewhere(): number | undefined {
    const p = this.packet;
    const { inner, nat } = this;
    if (!this.isError || !this.readInner()) return undefined;
    const turned = this.#asked;
    turned.source.set(inner.target);
    turned.target.set(inner.source);
    turned.sourcePort = inner.targetPort;
    turned.targetPort = inner.sourcePort;
    turned.protocol = inner.protocol;
    const sent = nat.places[nat.ofBackend(turned)];
    const answered = sent ? undefined : nat.places[nat.ofClient(turned)];
    const flow = sent ?? answered;
    if (!flow) return undefined;
    const from = sent ? (sameAddress(p.source, flow.backend) ? flow.vip : p.source.slice()) : flow.source;
    const to = sent ? flow.client : flow.backend;
    const way = this.#around.to(to, from);
    if (!way) return this.drop('drop-no-route');
    if (!this.#age()) return this.drop('drop-hop-limit');
    if (sent) {
      this.replaceInner('source', flow.client, flow.clientPort);
      this.replaceInner('target', flow.vip, flow.vipPort);
    } else {
      this.replaceInner('source', flow.backend, flow.backendPort);
      this.replaceInner('target', flow.source, flow.natPort);
    }
    this.replaceOuter('source', from);
    this.replaceOuter('target', to);
    return this.#leave(way);
  }

  // -- direct return

  protected override sendDirect(flow: Flow): number {
    const p = this.packet;
    const way = this.#around.to(flow.backend, p.source);
    const source = this.#sourceOf(way);
    if (!way || !source) return this.drop('drop-no-route');
    if ((flow.flags & FLOW.OPTION) !== 0) return this.#sendTold(flow, way, source);
    const more = p.four ? 20 : 40;
    if (this.#tooLarge(way, more)) return this.#complain('tooBig', way.link.mtu - more);
    if (!this.#age()) return this.#complain('hopsUsedUp');
    if (this.#isRigid) return this.drop('drop-rewrite');
    this.#wrap(source, flow.backend, more);
    return this.#leave(way);
  }

  #wrap(source: Uint32Array, target: Uint32Array, more: number): void {
    const p = this.packet;
    const { bytes, view } = p;
    // What the header says, not how long the frame is.
    const said = p.transportAt - ETHERNET + p.payload;
    const whole = p.four && (view.getUint16(ETHERNET + 6) & 0x4000) !== 0;
    bytes.copyWithin(ETHERNET + more, ETHERNET, this.outLength);
    bytes.fill(0, ETHERNET, ETHERNET + more);
    this.outLength += more;
    if (p.four) {
      view.setUint16(ETHERNET, 0x4500);
      view.setUint16(ETHERNET + 2, said + more);
      view.setUint16(ETHERNET + 6, whole ? 0x4000 : 0);
      view.setUint16(ETHERNET + 8, (64 << 8) | IN_ANOTHER.four);
    } else {
      bytes[ETHERNET] = 0x60;
      view.setUint16(ETHERNET + 4, said);
      view.setUint16(ETHERNET + 6, (IN_ANOTHER.six << 8) | 64);
    }
    p.writeAddress(p.addressAt('source'), source);
    p.writeAddress(p.addressAt('target'), target);
    if (p.four) view.setUint16(ETHERNET + 10, ~fold(sumOfBytes(bytes, ETHERNET, ETHERNET + more)) & 0xffff);
  }

  #sendTold(flow: Flow, way: Way, node: Uint32Array): number {
    const p = this.packet;
    const size = toldSize(p.four);
    const must = p.fragment !== 'later' && (p.protocol === PROTOCOL.UDP || this.opens);
    // Of an open connection a packet about every second tells, where it fits: whether this one does is seen.
    const rigid = this.#isRigid && this.observed.verdict === VERDICT.DROP;
    const says =
      must ||
      (p.fragment !== 'later' &&
        !this.#tooLarge(way, size) &&
        (rigid || this.observed.length > this.outLength));
    if (this.#tooLarge(way, must ? size : 0))
      return this.#complain('tooBig', way.link.mtu - (must ? size : 0));
    if (!this.#age()) return this.#complain('hopsUsedUp');
    const vip = p.target.slice();
    p.replace('target', flow.backend, flow.backendPort);
    if (says) {
      if (this.#isRigid) return this.drop('drop-rewrite');
      const length = putTold(p, this.outLength, { vip, port: p.targetPort, node });
      if (length === 0) return this.drop('drop-rewrite');
      this.outLength = length;
    }
    return this.#leave(way);
  }

  /** A packet about which a node told something. */
  protected override told(whole: boolean, told: ToldWords): number {
    const p = this.packet;
    const ports = p.protocol === PROTOCOL.TCP || p.protocol === PROTOCOL.UDP;
    if (!whole || !ports || p.fragment === 'later' || !this.#isBelieved(told))
      return this.drop('drop-option');
    const flows = this.usedLinks.node ? this.flows.of(p.source, p.sourcePort, p.protocol) : undefined;
    const flow = flows && flowTo(flows, told.vip, told.port);
    if (
      flow &&
      (flow.flags & FLOW.DIRECT) === 0 &&
      !(this.opens && isOver(flow)) &&
      flow.backendPort === p.targetPort &&
      sameAddress(flow.backend, p.target)
    )
      this.track(flow, true);
    else {
      const frontend = this.world.frontendOf(told.vip, told.port, p.protocol);
      const known = frontend ? frontend.kind !== 0 : this.#isPeer(told.vip);
      if (!known) return this.drop('drop-direct');
      const backend = {
        ...{ id: 0, text: '', address: p.target.slice(), port: p.targetPort, protocol: p.protocol },
        ...{ service: 0, flags: BACKEND.USED | BACKEND.NEAR },
      };
      const empty = { ids: [], hash: false, drop: false, local: false };
      const by = { text: '', port: 0, protocol: p.protocol, service: 0, affinity: false, keep: false };
      p.target.set(told.vip);
      p.targetPort = told.port;
      this.keep({
        frontend: { ...by, ranges: false, kind: 2, dsr: 'option', inside: empty, outside: empty },
        backend,
      });
    }
    const length = this.#isRigid ? 0 : takeTold(p, this.outLength);
    if (length === 0) return this.drop('drop-rewrite');
    this.outLength = length;
    return VERDICT.NEXT;
  }

  #isPeer(address: Uint32Array): boolean {
    return this.#around.peers.some((peer) => sameAddress(peer, address));
  }

  /** Out of a tunnel, or from the MAC address of the node, which is a neighbour on this link. */
  #isBelieved({ node }: ToldWords): boolean {
    const link = this.#around.links.get(this.#ingress)!;
    if (link.overlay) return true;
    const way = this.#around.to(node, NOBODY);
    if (!this.#isPeer(node) || !way?.macs || way.link !== link || way.gateway) return false;
    return way.macs.subarray(0, 6).every((byte, at) => byte === this.out[6 + at]);
  }

  /** A packet inside another one, for a Service with direct return; undefined: somebody else's. */
  protected override wrapped(): number | undefined {
    const p = this.packet;
    const more = p.four ? 20 : 40;
    if (p.fragment !== 'none' || p.transportAt !== ETHERNET + more) return undefined;
    if (p.protocol !== (p.four ? IN_ANOTHER.four : IN_ANOTHER.six) || !this.#readWrapped()) return undefined;
    const { inner } = this;
    const frontend = this.world.frontendOf(inner.target, inner.targetPort, inner.protocol);
    if (!frontend || !isDirect(frontend)) {
      const { source, sourcePort, protocol } = inner;
      const flows = this.usedLinks.node ? this.flows.of(source, sourcePort, protocol) : undefined;
      if (!flows || !flowTo(flows, inner.target, inner.targetPort)) return undefined;
    }
    if (this.#isRigid) return undefined;
    this.#outerTarget.set(p.target);
    this.out.copyWithin(ETHERNET, ETHERNET + more, this.outLength);
    this.outLength -= more;
    if (p.read(this.outLength, this.fragments) !== 'whole') return this.drop('drop-direct');
    return this.#takeWrapped();
  }

  /** Reads what is inside as far as its ports. */
  #readWrapped(): boolean {
    const { view, length, four, transportAt } = this.packet;
    const { inner } = this;
    const header = four ? 20 : 40;
    if (transportAt + header > length || view.getUint8(transportAt) >> 4 !== (four ? 4 : 6)) return false;
    readAddress(inner.source, view, transportAt + (four ? 12 : 8), four);
    readAddress(inner.target, view, transportAt + (four ? 16 : 24), four);
    inner.four = four;
    inner.protocol = view.getUint8(transportAt + (four ? 9 : 6));
    let at = transportAt + header;
    let later = false;
    let id = 0;
    if (four) {
      const own = (view.getUint8(transportAt) & 15) * 4;
      if (own < 20) return false;
      at = transportAt + own;
      id = view.getUint16(transportAt + 4);
      later = (view.getUint16(transportAt + 6) & 0x1fff) !== 0;
    } else if (inner.protocol === 44) {
      if (at + 8 > length) return false;
      inner.protocol = view.getUint8(at);
      later = view.getUint16(at + 2) >> 3 !== 0;
      id = view.getUint32(at + 4);
      at += 8;
    }
    if (inner.protocol !== PROTOCOL.TCP && inner.protocol !== PROTOCOL.UDP) return false;
    if (later) return this.fragments.recall(inner, id);
    if (at + 4 > length) return false;
    inner.sourcePort = view.getUint16(at);
    inner.targetPort = view.getUint16(at + 2);
    return true;
  }

  #takeWrapped(): number {
    const p = this.packet;
    const flows = this.usedLinks.node ? this.flows.of(p.source, p.sourcePort, p.protocol) : undefined;
    let flow = flows && flowTo(flows, p.target, p.targetPort);
    if (flow && this.goesOn(flow) && sameAddress(flow.backend, this.#outerTarget)) this.track(flow, true);
    else {
      const chosen = this.chosen(undefined);
      if (typeof chosen === 'number') return chosen;
      const { backend } = chosen;
      if ((backend.flags & BACKEND.NEAR) === 0 || !sameAddress(backend.address, this.#outerTarget))
        return this.drop('drop-direct');
      const kept = this.place(chosen);
      if (typeof kept === 'number') return kept;
      flow = kept;
    }
    if ((flow.flags & FLOW.DIRECT) !== 0) return this.drop('drop-direct');
    this.give(flow);
    return VERDICT.NEXT;
  }
}
