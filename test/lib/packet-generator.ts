/**
 * Random packets for fuzzing, in the proportions that find something: mostly nearly right ones between addresses that
 * mean something, then damaged. Written into the same bytes again and again.
 */
import { BACKEND_PORT, FAMILIES, PORTS } from './lb-fuzz-world.ts';
import { ETHERNET, fold, PROTOCOL, sumOfBytes } from './lb-reference-packet.ts';
import { words } from './lb-reference-world.ts';

/** Small and fast random numbers: xorshift32, Marsaglia 2003. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0 || 1;
  }

  next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }

  /** 0 to `limit` - 1. */
  below(limit: number): number {
    return this.next() % limit;
  }

  /** True once in `times`. */
  one(times: number): boolean {
    return this.next() % times === 0;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.next() % list.length]!;
  }
}

/** Addresses of one family that mean something. */
export interface Pools {
  readonly four: boolean;
  readonly clients: readonly Uint32Array[];
  readonly targets: readonly Uint32Array[];
  readonly backends: readonly Uint32Array[];
  /** Who may say something of a packet in its header. */
  readonly nodes: readonly Uint32Array[];
  /** Few, so that packets meet flows of others. */
  readonly clientPorts: readonly number[];
  /** Once in so many packets a node says something, and a payload is large. */
  readonly oneIn: { readonly told: number; readonly large: number };
}

export const POOLS: readonly Pools[] = FAMILIES.map((family, at) => {
  const vips = [10, 10, 11, 12, 13, 14, 15].map(family.vip);
  const frontends = [...vips, ...vips, family.node, family.node, family.balancer];
  return {
    four: at === 0,
    clients: [...family.pods, ...family.outside].map(words),
    targets: [...frontends, family.nobody, family.notOurs, family.hairpin, ...family.remote].map(words),
    backends: [...family.remote, ...family.pods, family.hairpin].map(words),
    nodes: family.remote.map(words),
    clientPorts: Array.from({ length: 24 }, (_, port) => 40_000 + port),
    oneIn: { told: 60, large: 100 },
  };
});
const FRONTEND_PORTS = [80, 80, 80, PORTS.local, PORTS.node, PORTS.node + 1, 443];
const ALL_FRONTENDS = FAMILIES.flatMap(() => FRONTEND_PORTS);
const TCP_FLAGS = [2, 2, 2, 16, 16, 24, 17, 18, 20, 4, 1, 0, 3, 194];
const FOREIGN = [47, 50, 51, 132, 2, 0, 41, 89, 1, 58, 255];
const ERRORS = { four: [3, 3, 3, 11, 12, 4, 5, 8, 0, 13], six: [1, 1, 2, 3, 4, 128, 129, 135, 136, 0] };

/** Between whom a packet is, where that is not left to chance. */
export interface Ends {
  readonly four: boolean;
  readonly from: Uint32Array;
  readonly to: Uint32Array;
  readonly fromPort: number;
  readonly toPort: number;
  readonly protocol: number;
}

export class PacketGenerator {
  /** The packet, `length` bytes of it. */
  readonly bytes: Uint8Array;
  length = 0;
  /** Whether all its checksums and lengths are right and nothing of it is missing. */
  sound = false;
  readonly #view: DataView;
  readonly #random: Random;
  readonly #pools: readonly Pools[];
  #large = 0;

  constructor(bytes: Uint8Array, random: Random, pools = POOLS) {
    this.#pools = pools;
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#random = random;
  }

  /** Makes the next one. `toClient`: as backends send them, else as clients do; or one between these two. */
  make(toClient: boolean, flow?: Ends): void {
    const random = this.#random;
    const pools = this.#pools[flow ? Number(!flow.four) : random.next() & 1]!;
    const client = random.pick(pools.clients);
    const other = random.pick(toClient ? pools.backends : pools.targets);
    this.#large = pools.oneIn.large;
    const clientPort = random.one(50) ? random.below(65_536) : random.pick(pools.clientPorts);
    const port = random.one(50)
      ? random.below(65_536)
      : toClient
        ? BACKEND_PORT
        : random.one(8)
          ? BACKEND_PORT
          : random.pick(ALL_FRONTENDS);
    const protocol = random.one(8)
      ? pools.four
        ? PROTOCOL.ICMP
        : PROTOCOL.ICMP6
      : random.one(16)
        ? random.pick(FOREIGN)
        : (flow?.protocol ?? (random.one(2) ? PROTOCOL.TCP : PROTOCOL.UDP));
    this.sound = true;
    const ip = this.#ethernet(pools.four);
    const ends = toClient ? [other, client, port, clientPort] : [client, other, clientPort, port];
    const [from, to, fromPort, toPort] = (flow ? [flow.from, flow.to, flow.fromPort, flow.toPort] : ends) as [
      Uint32Array,
      Uint32Array,
      number,
      number,
    ];
    const at = this.#ip(ip, pools.four, protocol, { from, to, exotic: random.one(6) });
    const end =
      protocol === PROTOCOL.ICMP || protocol === PROTOCOL.ICMP6
        ? this.#icmp(at, pools.four, { from, to, fromPort, toPort })
        : this.#transport(at, protocol, fromPort, toPort);
    this.length = end;
    this.#lengths(ip, at, pools.four);
    this.#checksums(ip, at, pools.four, protocol);
    if (random.one(pools.oneIn.told)) this.#tell(pools);
    if (random.one(4)) this.#damage(pools.four);
  }

  #ethernet(four: boolean): number {
    this.#view.setUint32(0, 0x0200_0000);
    this.#view.setUint32(4, 0x0002_0200);
    this.#view.setUint32(8, 0x0000_0001);
    this.#view.setUint16(12, four ? 0x0800 : 0x86dd);
    return ETHERNET;
  }

  /** Returns where the transport header begins. */
  #ip(
    ip: number,
    four: boolean,
    protocol: number,
    options: { from: Uint32Array; to: Uint32Array; exotic: boolean },
  ): number {
    const random = this.#random;
    const { bytes } = this;
    const view = this.#view;
    const { from, to, exotic } = options;
    if (four) {
      const header = exotic && random.one(2) ? 20 + 4 * random.below(11) : 20;
      bytes.fill(1, ip, ip + header);
      view.setUint16(ip, 0x4000 | ((header / 4) << 8));
      view.setUint16(ip + 4, random.below(16));
      view.setUint16(ip + 6, exotic ? random.pick([0x2000, 1, 9, 0x2009, 0x4000, 0x8000]) : 0x4000);
      view.setUint16(ip + 8, 0x4000 | protocol);
      view.setUint32(ip + 12, from[3]!);
      view.setUint32(ip + 16, to[3]!);
      return ip + header;
    }
    view.setUint32(ip, 0x6000_0000 | random.below(1 << 20));
    view.setUint16(ip + 6, (protocol << 8) | 64);
    for (let word = 0; word < 4; word++) {
      view.setUint32(ip + 8 + word * 4, from[word]!);
      view.setUint32(ip + 24 + word * 4, to[word]!);
    }
    let at = ip + 40;
    if (!exotic) return at;
    let nextAt = ip + 6;
    for (let headers = random.below(8); headers > 0; headers--) {
      const kind = random.pick([0, 43, 60, 44, 44]);
      bytes[nextAt] = kind;
      nextAt = at;
      bytes[at] = protocol;
      if (kind === 44) {
        bytes[at + 1] = 0;
        view.setUint16(at + 2, random.pick([0, 1, 1, 8, 9, 64]));
        view.setUint32(at + 4, random.below(16));
        at += 8;
      } else {
        const size = 8 + 8 * random.below(3);
        bytes.fill(0, at + 1, at + size);
        bytes[at + 1] = size / 8 - 1;
        at += size;
      }
    }
    return at;
  }

  /** Puts into the header that a node took this packet from its client, who asked for another address. */
  #tell({ four, targets, nodes }: Pools): void {
    const random = this.#random;
    const view = this.#view;
    const { bytes } = this;
    const at = ETHERNET + (four ? 20 : 40);
    const size = four ? 12 : 40;
    const vip = random.pick(targets);
    const node = random.pick(nodes);
    const port = random.pick(ALL_FRONTENDS);
    const lengthAt = ETHERNET + (four ? 2 : 4);
    if (four && (bytes[ETHERNET]! & 15) > 12) return;
    bytes.copyWithin(at + size, at, this.length);
    this.length += size;
    view.setUint16(lengthAt, view.getUint16(lengthAt) + size);
    if (four) {
      bytes[ETHERNET]! += 3;
      view.setUint32(at, (158 << 24) | (12 << 16) | port);
      view.setUint32(at + 4, vip[3]!);
      view.setUint32(at + 8, node[3]!);
      view.setUint16(ETHERNET + 10, 0);
      const end = ETHERNET + (bytes[ETHERNET]! & 15) * 4;
      view.setUint16(ETHERNET + 10, ~fold(sumOfBytes(bytes, ETHERNET, end)) & 0xffff);
    } else {
      view.setUint32(at, (bytes[ETHERNET + 6]! << 24) | 0x04_5e24);
      bytes[ETHERNET + 6] = 60;
      view.setUint32(at + 4, (port << 16) | 0x706f);
      for (let word = 0; word < 4; word++) {
        view.setUint32(at + 8 + word * 4, vip[word]!);
        view.setUint32(at + 24 + word * 4, node[word]!);
      }
    }
    this.sound = false;
  }

  #fill(at: number, count: number): number {
    for (let byte = 0; byte < count; byte += 4) this.#view.setUint32(at + byte, this.#random.next());
    return at + count;
  }

  #transport(at: number, protocol: number, from: number, to: number): number {
    const random = this.#random;
    const view = this.#view;
    const payload = random.one(this.#large) ? random.below(1400) : random.below(40);
    if (protocol === PROTOCOL.TCP) {
      view.setUint16(at, from);
      view.setUint16(at + 2, to);
      view.setUint32(at + 4, random.next());
      view.setUint32(at + 8, random.next());
      const offset = random.one(8) ? random.below(16) : 5;
      view.setUint16(
        at + 12,
        (offset << 12) | (random.one(10) ? random.below(4096) : random.pick(TCP_FLAGS)),
      );
      view.setUint16(at + 14, 64_240);
      view.setUint32(at + 16, 0);
      return this.#fill(at + 20, payload);
    }
    if (protocol !== PROTOCOL.UDP) return this.#fill(at, payload);
    view.setUint16(at, from);
    view.setUint16(at + 2, to);
    view.setUint32(at + 4, (8 + payload) << 16);
    return this.#fill(at + 8, payload);
  }

  /** An echo, or an error about a packet that went the other way. */
  #icmp(
    at: number,
    four: boolean,
    about: { from: Uint32Array; to: Uint32Array; fromPort: number; toPort: number },
  ): number {
    const random = this.#random;
    const view = this.#view;
    view.setUint16(at, (random.pick(four ? ERRORS.four : ERRORS.six) << 8) | random.below(5));
    view.setUint16(at + 2, 0);
    view.setUint32(at + 4, random.next());
    if (random.one(6)) return this.#fill(at + 8, random.below(60));
    const inner = at + 8;
    const protocol = random.one(12) ? random.pick(FOREIGN) : random.one(2) ? PROTOCOL.TCP : PROTOCOL.UDP;
    const exotic = random.one(8);
    const reply = this.#ip(inner, four, protocol, { from: about.to, to: about.from, exotic });
    const end = this.#transport(reply, protocol, about.toPort, about.fromPort);
    this.#lengths(inner, reply, four, end);
    if (four) {
      view.setUint16(inner + 10, 0);
      view.setUint16(inner + 10, ~fold(sumOfBytes(this.bytes, inner, reply)) & 0xffff);
    }
    return random.one(3) ? Math.min(end, reply + 8) : end;
  }

  #lengths(ip: number, at: number, four: boolean, end = this.length): void {
    if (four) this.#view.setUint16(ip + 2, end - ip);
    else this.#view.setUint16(ip + 4, Math.max(0, end - ip - 40));
    if (at > end) this.sound = false;
  }

  /** All of them right; rarely wrong or absent. */
  #checksums(ip: number, at: number, four: boolean, protocol: number): void {
    const random = this.#random;
    const view = this.#view;
    const { bytes, length } = this;
    const tcp = protocol === PROTOCOL.TCP;
    const sumAt = at + (tcp ? 16 : protocol === PROTOCOL.UDP ? 6 : 2);
    if (four) {
      view.setUint16(ip + 10, 0);
      view.setUint16(ip + 10, ~fold(sumOfBytes(bytes, ip, at)) & 0xffff);
    }
    const own = four ? PROTOCOL.ICMP : PROTOCOL.ICMP6;
    if (protocol !== own && !tcp && protocol !== PROTOCOL.UDP) return;
    const fragment = four ? (view.getUint16(ip + 6) & 0x3fff) !== 0 : at !== ip + 40;
    if (fragment || random.one(10)) {
      view.setUint16(sumAt, random.one(2) ? random.below(65_536) : 0);
      this.sound = false;
      return;
    }
    const pseudo = protocol === PROTOCOL.ICMP ? 0 : pseudoSum(bytes, ip, four, protocol, length - at);
    const sum = ~fold(pseudo + sumOfBytes(bytes, at, length)) & 0xffff;
    view.setUint16(sumAt, sum === 0 && protocol === PROTOCOL.UDP ? 0xffff : sum);
  }

  /** Cut, wrong bits, wrong lengths, VLAN tags, other link protocols. A test run demands a whole IP header. */
  #damage(four: boolean): void {
    const random = this.#random;
    const least = ETHERNET + (four ? 20 : 40);
    this.sound = false;
    const how = random.below(12);
    if (how < 5) this.length = least + random.below(this.length - least + 1);
    else if (how < 10)
      for (let flips = 1 + random.below(3); flips > 0; flips--)
        this.bytes[12 + random.below(this.length - 12)]! ^= 1 << random.below(8);
    else if (how === 10)
      this.#view.setUint16(ETHERNET + (four ? 2 : 4), random.below(2) * random.below(2000));
    else this.#view.setUint16(12, random.pick([0x8100, 0x88a8, 0x0806, 0x8847, 0x0042]));
    // Bits of the Ethernet type may have made it the other family, whose header is longer.
    if (this.#view.getUint16(12) === 0x86dd && this.length < ETHERNET + 40) this.#view.setUint16(12, 0x0800);
  }
}

/** Sum over the pseudo header of RFC 9293 3.1 and RFC 8200 8.1. */
export function pseudoSum(
  bytes: Uint8Array,
  ip: number,
  four: boolean,
  protocol: number,
  length: number,
): number {
  const from = ip + (four ? 12 : 8);
  return sumOfBytes(bytes, from, from + (four ? 8 : 32)) + protocol + length;
}
