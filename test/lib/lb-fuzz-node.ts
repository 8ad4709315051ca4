/**
 * A node among others for fuzzing: its links, routes and neighbours in a namespace, and packets as they come there: of
 * clients, of backends on other nodes, inside others, and with what nodes tell each other.
 */
import { execFileSync } from 'node:child_process';
import type { Family, WorldTools } from './lb-fuzz-world.ts';
import { FAMILIES, PORTS } from './lb-fuzz-world.ts';
import type { NatFlows } from './lb-reference-nat.ts';
import { macOf, type RouteSpec, Surroundings } from './lb-reference-node-world.ts';
import { ETHERNET, fold, sumOfBytes } from './lb-reference-packet.ts';
import { type World, words } from './lb-reference-world.ts';
import { type Ends, PacketGenerator, POOLS, type Pools, type Random } from './packet-generator.ts';
import type { ServiceNode } from './services.ts';

const PEER_MAC = '02:00:00:00:0b:02';
const LINKS = [
  { name: 'out', mtu: 1500, mac: '02:00:00:00:0a:01', source4: '172.20.0.1', source6: 'fd00:20::1' },
  { name: 'side', mtu: 1400, mac: '02:00:00:00:0b:01', source4: '172.30.0.1', source6: 'fd00:30::1' },
  // A tunnel without an IPv6 address: nothing of that family can be answered by it.
  { name: 'tun', mtu: 1300, mac: '02:00:00:00:0c:01', source4: '10.244.1.0', overlay: true },
  { name: 'po', mtu: 1450, mac: '02:00:00:00:0d:01', known: false },
].map((link) => ({ overlay: false, known: true, ...link }));

/** Behind a next hop whose MAC address nobody knows, and unreachable. */
const UNKNOWN = ['10.244.5.5', 'fd00:10:244:5::5'];
const UNREACHABLE = ['10.244.4.4', 'fd00:10:244:4::4'];
const ROUTES: readonly RouteSpec[] = [
  { cidr: '172.20.0.0/24', link: 'out', connected: true },
  { cidr: 'fd00:20::/64', link: 'out', connected: true },
  { cidr: '172.20.0.9/32', link: 'out', mac: '02:00:00:00:0a:09', connected: true },
  { cidr: 'fd00:20::9/128', link: 'out', mac: '02:00:00:00:0a:09', connected: true },
  { cidr: '172.30.0.0/24', link: 'side', connected: true },
  { cidr: 'fd00:30::/64', link: 'side', connected: true },
  { cidr: '172.30.0.2/32', link: 'side', mac: PEER_MAC, connected: true },
  { cidr: 'fd00:30::2/128', link: 'side', mac: PEER_MAC, connected: true },
  { cidr: '0.0.0.0/0', link: 'out', via: '172.20.0.254', mac: '02:00:00:00:0a:fe' },
  { cidr: '::/0', link: 'out', via: 'fd00:20::fe', mac: '02:00:00:00:0a:fe' },
  { cidr: '10.244.2.0/24', link: 'side', via: '172.30.0.2', mac: PEER_MAC },
  { cidr: 'fd00:10:244:2::/64', link: 'side', via: 'fd00:30::2', mac: PEER_MAC },
  { cidr: '10.244.3.0/24', link: 'tun', via: '10.244.3.0', mac: '02:00:00:00:0c:03' },
  { cidr: 'fd00:10:244:3::/64', link: 'tun', via: 'fd00:10:244:3::', mac: '02:00:00:00:0c:03' },
  { cidr: '10.244.5.0/24', link: 'side', via: '172.30.0.5' },
  { cidr: 'fd00:10:244:5::/64', link: 'side', via: 'fd00:30::5' },
  { cidr: '10.244.4.0/24' },
  { cidr: 'fd00:10:244:4::/64' },
  ...FAMILIES.flatMap(({ pods }) =>
    pods.map((pod) => ({
      cidr: `${pod}/${pod.includes(':') ? 128 : 32}`,
      link: 'po',
      mac: '02:00:00:00:0d:05',
      connected: true,
    })),
  ),
  // Nobody forwards to these.
  ...['127.0.0.0/8', '172.20.0.1/32', '172.20.0.255/32', '172.30.0.1/32', '172.30.0.255/32', '10.244.1.0/32'],
  ...[
    '192.168.77.1/32',
    '::1/128',
    'fd77::1/128',
    'fd00:20::1/128',
    'fd00:30::1/128',
    'ff00::/8',
    'fe80::/10',
  ],
  ...['fd00:20::/128', 'fd00:30::/128'],
].map((route) => (typeof route === 'string' ? { cidr: route } : route));

/** Peers: one that is a neighbour, one that is none, and one behind a router. */
const PEERS = ['172.30.0.2', 'fd00:30::2', '172.30.0.77', 'fd00:30::77', '203.0.113.200', '2001:db8::200'];
const NODES = [...PEERS, '172.30.0.66', 'fd00:30::66'];

export const AROUND = new Surroundings(LINKS, ROUTES, PEERS);
export const PEER_ADDRESSES: readonly string[] = PEERS;

/** Makes the links, routes and neighbours; returns the interfaces by name. */
export function makeSurroundings(node: ServiceNode): Map<string, number> {
  const lines = LINKS.flatMap(({ name, mtu, mac, source4, source6 }) => [
    `link add ${name} address ${mac} mtu ${mtu} type veth peer name ${name}-far mtu ${mtu}`,
    // Without addresses of the kernel's own nothing is sent on these links, and no route comes or goes meanwhile.
    `link set ${name}-far addrgenmode none up`,
    `link set ${name} addrgenmode none up`,
    ...(source4 ? [`addr add ${source4}/${name === 'tun' ? 32 : 24} dev ${name}`] : []),
    ...(source6 ? [`addr add ${source6}/64 dev ${name} nodad`] : []),
  ]);
  for (const { cidr, link, via, mac, connected } of ROUTES) {
    const host = cidr.split('/')[0]!;
    if (link !== undefined) {
      if (!connected || link === 'po')
        lines.push(`route add ${cidr} dev ${link}${via ? ` via ${via} onlink` : ''}`);
      if (mac) lines.push(`neigh replace ${via ?? host} lladdr ${mac} dev ${link} nud permanent`);
    } else if (UNREACHABLE.some((address) => cidr.startsWith(address.slice(0, -1))))
      lines.push(`route add unreachable ${cidr}`);
  }
  node.ip(...lines);
  const all = JSON.parse(execFileSync('ip', ['-j', '-n', node.prefix, 'link'], { encoding: 'utf8' })) as {
    ifname: string;
    ifindex: number;
  }[];
  return new Map(all.map(({ ifname, ifindex }) => [ifname, ifindex]));
}

const ip6 = (family: Family) => family.node.includes(':');
const balancer = (family: Family, last: number) => (ip6(family) ? `fd00:113::${last}` : `203.0.113.${last}`);

/** Services with direct return, and one with backends that are hard to reach. */
export function addToWorld(_world: World, family: Family, _protocol: number, tools: WorldTools): void {
  const { members, table, put } = tools;
  const odd = [UNKNOWN, UNREACHABLE].map((pair) => pair[ip6(family) ? 1 : 0]!);
  const hashed = () => table(members(odd), { hash: true });
  put(balancer(family, 8), PORTS.plain, { kind: 2, dsr: 'ipip', outside: hashed() });
  put(balancer(family, 9), PORTS.plain, { kind: 2, dsr: 'option', outside: hashed() });
  put(family.node, PORTS.node + 2, { kind: 1, dsr: 'option', affinity: true, outside: hashed() });
  // Not possible without being told: the other node would not know the address.
  put(family.node, PORTS.node + 3, { kind: 1, dsr: 'ipip', outside: hashed() });
  put(balancer(family, 10), PORTS.plain, { kind: 2, outside: hashed() });
}

/** Addresses of packets at a node, for the generator. */
function poolsOf(answers: boolean, natted: readonly number[]): Pools[] {
  return FAMILIES.map((family, at) => {
    const base = POOLS[at]!;
    const six = ip6(family);
    const own = LINKS.flatMap((link) => (six ? link.source6 : link.source4) ?? []);
    const balancers = [8, 8, 9, 9, 10].map((last) => balancer(family, last));
    const odd = [UNKNOWN[at]!, UNREACHABLE[at]!];
    return {
      four: base.four,
      clients: answers ? own.map(words) : base.clients,
      targets: [...base.targets, ...[...balancers, ...balancers, ...family.pods].map(words)],
      backends: [...family.remote, ...family.remote, ...odd].map(words),
      nodes: NODES.filter((node) => node.includes(':') === six).map(words),
      clientPorts: answers ? natted : [...base.clientPorts, ...natted.slice(0, 4)],
      oneIn: { told: 12, large: 12 },
    };
  });
}

export class NodePackets {
  readonly client: PacketGenerator;
  readonly answer: PacketGenerator;
  readonly #random: Random;
  readonly #nat: NatFlows;
  readonly #peer = macOf(PEER_MAC);
  /** The one that made the last packet. */
  last: PacketGenerator;

  constructor(bytes: Uint8Array, random: Random, nat: NatFlows) {
    this.#nat = nat;
    this.#random = random;
    this.client = new PacketGenerator(bytes, random, poolsOf(false, nat.ports));
    this.answer = new PacketGenerator(bytes, random, poolsOf(true, nat.ports));
    this.last = this.client;
  }

  /** `toClient`: as pods of this node answer. */
  make(toClient: boolean): void {
    const random = this.#random;
    const isAnswer = !toClient && random.one(3);
    this.last = isAnswer ? this.answer : this.client;
    this.last.make(toClient || isAnswer, toClient ? undefined : this.#ends(isAnswer));
    // What comes from a multicast address has no IPv6 route, unless one to the same backend is remembered.
    const { bytes } = this.last;
    if (bytes[12] === 0x86 && bytes[ETHERNET + 8] === 0xff) bytes[ETHERNET + 8] = 0xfd;
    if (random.one(2)) bytes.set(this.#peer, 6);
    if (random.one(16)) this.#age();
    if (!toClient && random.one(6)) this.#wrap();
  }

  /** Of a flow that is there, if chance wants it. */
  #ends(isAnswer: boolean): Ends | undefined {
    const flow = this.#random.one(2) ? this.#random.pick(this.#nat.places) : undefined;
    if (!flow) return undefined;
    const { protocol } = flow;
    const four = flow.vip[2] === 0xffff;
    return isAnswer
      ? {
          four,
          protocol,
          from: flow.backend,
          fromPort: flow.backendPort,
          to: flow.source,
          toPort: flow.natPort,
        }
      : { four, protocol, from: flow.client, fromPort: flow.clientPort, to: flow.vip, toPort: flow.vipPort };
  }

  /** Nearly no hops left. */
  #age(): void {
    const { bytes, sound } = this.last;
    const four = bytes[12] === 8;
    bytes[ETHERNET + (four ? 8 : 7)] = this.#random.below(3);
    if (!four || !sound) return;
    bytes[ETHERNET + 10] = bytes[ETHERNET + 11] = 0;
    const sum = ~fold(sumOfBytes(bytes, ETHERNET, ETHERNET + (bytes[ETHERNET]! & 15) * 4)) & 0xffff;
    bytes[ETHERNET + 10] = sum >> 8;
    bytes[ETHERNET + 11] = sum & 255;
  }

  /** Into another packet to some backend. */
  #wrap(): void {
    const { last } = this;
    const random = this.#random;
    const { bytes } = last;
    const four = bytes[12] === 8;
    if ((!four && bytes[12] !== 0x86) || last.length > 3000) return;
    const family = FAMILIES[four ? 0 : 1]!;
    const more = four ? 20 : 40;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    bytes.copyWithin(ETHERNET + more, ETHERNET, last.length);
    bytes.fill(0, ETHERNET, ETHERNET + more);
    last.length += more;
    last.sound = false;
    const ends = [
      random.pick(NODES.filter((node) => node.includes(':') !== four)),
      random.pick([...family.pods, family.pods[0]!, family.pods[0]!]),
    ];
    if (four) {
      view.setUint16(ETHERNET, random.one(20) ? 0x4600 : 0x4500);
      view.setUint16(ETHERNET + 2, last.length - ETHERNET);
      view.setUint16(ETHERNET + 6, random.one(20) ? 0x2000 : 0x4000);
      view.setUint16(ETHERNET + 8, 0x4004);
      for (const [at, end] of ends.entries()) view.setUint32(ETHERNET + 12 + at * 4, words(end)[3]!);
      view.setUint16(ETHERNET + 10, ~fold(sumOfBytes(bytes, ETHERNET, ETHERNET + 20)) & 0xffff);
      return;
    }
    view.setUint32(ETHERNET, 0x6000_0000);
    view.setUint16(ETHERNET + 4, last.length - ETHERNET - 40);
    view.setUint16(ETHERNET + 6, 0x2940);
    for (const [at, end] of ends.entries())
      for (const [place, word] of words(end).entries())
        view.setUint32(ETHERNET + 8 + at * 16 + place * 4, word);
  }
}
