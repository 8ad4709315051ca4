/**
 * Nodes and pods as namespaces for tests of network policy, and probes as real packets: each probe is the first packet
 * of a connection (TCP SYN, UDP datagram, SCTP INIT) from one namespace to another, and counts as allowed when it
 * arrives. Packets over veth are delivered within the call that sends them, so hundreds of probes take milliseconds.
 */
import { execFileSync } from 'node:child_process';
import { type Family, type IpAddress, parseCidr, parseIp } from '../../src/addr/index.ts';
import { Conntrack } from '../../src/kernel/conntrack/index.ts';
import { type Netns, openNetns } from '../../src/kernel/netns/index.ts';
import { checked, closeFd, NR, sys, sysInNetns } from '../../src/kernel/syscall/index.ts';
import { writeSysctl } from '../../src/kernel/sysctl/index.ts';
import type { Protocol } from '../../src/model/kubernetes.ts';
import { hostLinkName, PodLinks, podLinkSpec } from '../../src/podlink/index.ts';
import type { PodLinkKind } from '../../src/podlink/kinds.ts';
import { checksum } from './packet.ts';

export const PROTOCOLS: Readonly<Record<Protocol, number>> = { TCP: 6, UDP: 17, SCTP: 132 };

export interface Place {
  /** `node1`, or `node1/0` for its first pod. */
  readonly name: string;
  readonly netns: string;
  readonly ip4: IpAddress;
  readonly ip6: IpAddress;
}

export interface PolicyNode extends Place {
  readonly ns: Netns;
  readonly pods: readonly Place[];
}

export interface ProbePacket {
  readonly from: Place;
  readonly to: Place;
  readonly family: Family;
  readonly protocol: Protocol;
  readonly port: number;
}

export interface PolicyNet {
  readonly nodes: readonly PolicyNode[];
  /** Whether each probe arrived. */
  send(probes: readonly ProbePacket[]): boolean[];
  /** Forgets all connections in all nodes. */
  forgetConnections(): void;
  close(): void;
}

const run = (command: string, args: readonly string[], input = '') =>
  execFileSync(command, args, { encoding: 'utf8', input, stdio: ['pipe', 'pipe', 'pipe'] });

const SYSCTLS = [
  'net.ipv4.ip_forward=1',
  'net.ipv6.conf.all.forwarding=1',
  'net.ipv4.conf.all.rp_filter=0',
  'net.ipv4.conf.default.rp_filter=0',
  'net.ipv6.conf.default.accept_dad=0',
  'net.ipv6.conf.all.accept_dad=0',
  'net.ipv4.icmp_ratelimit=0',
];

/**
 * `bridge` makes the links as an agent does, with br_netfilter on at odd nodes and off at even ones; `mixed` does so for
 * every other pod.
 */
export function policyNet(
  prefix: string,
  nodeCount: number,
  podsANode: number,
  kind: PodLinkKind | 'mixed' = 'routed',
): PolicyNet {
  const id = `${prefix}${process.pid}`;
  const made: string[] = [];
  const spaces: Netns[] = [];
  const probers = new Map<string, Prober>();
  const add = (name: string) => {
    run('ip', ['netns', 'add', name]);
    made.push(name);
    run('ip', ['netns', 'exec', name, 'sysctl', '-qw', ...SYSCTLS]);
    run('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
  };
  const close = () => {
    for (const prober of probers.values()) prober.close();
    for (const space of spaces.splice(0)) space.close();
    for (const name of made.splice(0))
      try {
        run('ip', ['netns', 'del', name]);
      } catch {
        // Another clean-up was faster.
      }
  };
  try {
    const nodes = Array.from({ length: nodeCount }, (_, at): PolicyNode => {
      const n = at + 1;
      const netns = `${id}n${n}`;
      add(netns);
      const pods = Array.from({ length: podsANode }, (_pod, k): Place => {
        const pod = `${id}n${n}p${k}`;
        add(pod);
        const [ip4, ip6] = [`10.244.${n}.${10 + k}`, `fd00:10:244:${n}::${10 + k}`];
        const place = { name: `node${n}/${k}`, netns: pod, ip4: parseIp(ip4), ip6: parseIp(ip6) };
        if (kind === 'bridge' || (kind === 'mixed' && k % 2 === 1)) {
          bridge(netns, n, place);
          return place;
        }
        const podMac = `02:00:00:00:0${n}:${(16 + k).toString(16)}`;
        run(
          'ip',
          ['-n', netns, '-batch', '-'],
          [
            `link add po${k} type veth peer name eth0 netns ${pod}`,
            `link set po${k} address 02:00:00:00:00:fe up`,
            `route add ${ip4}/32 dev po${k}`,
            `route add ${ip6}/128 dev po${k}`,
            `neigh add ${ip4} lladdr ${podMac} dev po${k}`,
            `neigh add ${ip6} lladdr ${podMac} dev po${k}`,
          ].join('\n'),
        );
        run(
          'ip',
          ['-n', pod, '-batch', '-'],
          [
            `link set eth0 address ${podMac} up`,
            `addr add ${ip4}/32 dev eth0`,
            `addr add ${ip6}/128 dev eth0 nodad`,
            `neigh add 169.254.1.1 lladdr 02:00:00:00:00:fe dev eth0`,
            `neigh add fe80::1:1 lladdr 02:00:00:00:00:fe dev eth0`,
            `route add default via 169.254.1.1 dev eth0 onlink`,
            `route add default via fe80::1:1 dev eth0 onlink`,
          ].join('\n'),
        );
        return place;
      });
      const ns = openNetns(netns);
      spaces.push(ns);
      return {
        name: `node${n}`,
        netns,
        ns,
        pods,
        ip4: parseIp(`192.168.0.${n}`),
        ip6: parseIp(`fd00:192::${n}`),
      };
    });
    const [first, second] = nodes;
    if (first && second) {
      run('ip', [
        '-n',
        first.netns,
        'link',
        'add',
        'eth0',
        'type',
        'veth',
        'peer',
        'name',
        'eth0',
        'netns',
        second.netns,
      ]);
      for (const [node, other, n] of [
        [first, second, 2],
        [second, first, 1],
      ] as const)
        run(
          'ip',
          ['-n', node.netns, '-batch', '-'],
          [
            'link set eth0 up',
            `addr add ${node.ip4}/24 dev eth0`,
            `addr add ${node.ip6}/64 dev eth0 nodad`,
            `route add 10.244.${n}.0/24 via ${other.ip4}`,
            `route add fd00:10:244:${n}::/64 via ${other.ip6}`,
          ].join('\n'),
        );
    } else if (first)
      run(
        'ip',
        ['-n', first.netns, '-batch', '-'],
        [
          'link add eth0 type veth peer name far',
          'link set eth0 up',
          `addr add ${first.ip4}/24 dev eth0`,
          `addr add ${first.ip6}/64 dev eth0 nodad`,
        ].join('\n'),
      );
    const proberOf = (place: Place): Prober => {
      let prober = probers.get(place.netns);
      if (!prober) {
        prober = new Prober(place);
        probers.set(place.netns, prober);
      }
      return prober;
    };
    let mark = 0;
    const net: PolicyNet = {
      nodes,
      send(probes) {
        const ends = new Set(probes.flatMap(({ from, to }) => [proberOf(from), proberOf(to)]));
        for (const prober of ends) prober.drain();
        const sent = probes.map((probe) => {
          mark = (mark + 1) % 40_000;
          proberOf(probe.from).send(probe, 20_000 + mark);
          return 20_000 + mark;
        });
        const got = new Map([...ends].map((prober) => [prober.place.netns, prober.drain()]));
        return probes.map(({ to, family, protocol, port }, at) =>
          got.get(to.netns)!.has(`${family} ${protocol} ${sent[at]} ${port}`),
        );
      },
      forgetConnections() {
        for (const node of nodes) {
          using conntrack = Conntrack.open({ netns: node.ns });
          conntrack.delete(conntrack.list());
        }
      },
      close,
    };
    // Neighbours of the nodes' link are found by the first packet, which waits for them.
    if (first && second)
      for (const [node, other] of [
        [first, second],
        [second, first],
      ] as const)
        for (const address of [other.ip4, other.ip6])
          run('ip', ['netns', 'exec', node.netns, 'ping', '-c1', '-W2', String(address)]);
    return net;
  } catch (error) {
    close();
    throw error;
  }
}

/** A pod link of kind `bridge`, by the code under test. */
function bridge(nodeNetns: string, n: number, place: Place): void {
  using node = openNetns(nodeNetns);
  using pod = openNetns(place.netns);
  using links = new PodLinks({ netns: node });
  const spec = podLinkSpec({
    containerId: place.netns,
    ifname: 'eth0',
    hostLink: hostLinkName(place.netns, 'eth0'),
    addresses: [place.ip4, place.ip6],
    mtuBytes: 1500,
    kind: 'bridge',
    networks: [parseCidr(`10.244.${n}.0/24`), parseCidr(`fd00:10:244:${n}::/64`)],
  });
  links.create(spec, pod.fd);
  for (const name of ['iptables', 'ip6tables'])
    writeSysctl(`net/bridge/bridge-nf-call-${name}`, n % 2, { netns: node });
}

const AF = { 4: 2, 6: 10 } as const;
const SOCK_RAW_NONBLOCK_CLOEXEC = 3 | 0o4000 | 0o2000000;

/** Raw sockets of one namespace: one for each family and protocol. */
export class Prober {
  readonly place: Place;
  readonly #space: Netns;
  readonly #sockets = new Map<string, number>();
  readonly #buffer = new Uint8Array(2048);

  constructor(place: Place) {
    this.place = place;
    this.#space = openNetns(place.netns);
    for (const family of [4, 6] as const)
      for (const [protocol, number] of Object.entries(PROTOCOLS))
        this.#sockets.set(
          `${family} ${protocol}`,
          checked(
            'open a raw socket in',
            place.netns,
            sysInNetns(this.#space.fd, NR.socket, AF[family], SOCK_RAW_NONBLOCK_CLOEXEC, number),
          ),
        );
  }

  send({ to, family, protocol, port }: ProbePacket, sourcePort: number): void {
    const target = family === 4 ? to.ip4 : to.ip6;
    const source = family === 4 ? this.place.ip4 : this.place.ip6;
    const bytes = firstPacket(source, target, protocol, sourcePort, port);
    const name = new Uint8Array(family === 4 ? 16 : 28);
    new DataView(name.buffer).setUint16(0, AF[family], true);
    name.set(target.toBytes(), family === 4 ? 4 : 8);
    // A packet that a rule of the sender's own namespace drops is EPERM, one without a route ENETUNREACH.
    sys(NR.sendto, this.#sockets.get(`${family} ${protocol}`)!, bytes, bytes.length, 0, name, name.length);
  }

  /** Everything that has arrived, as "family protocol sourcePort port". */
  drain(): Set<string> {
    const seen = new Set<string>();
    for (const [key, fd] of this.#sockets)
      for (;;) {
        const length = sys(NR.recvfrom, fd, this.#buffer, this.#buffer.length, 0, 0, 0);
        if (length <= 0) break;
        const at = key.startsWith('4') ? (this.#buffer[0]! & 15) * 4 : 0;
        const view = new DataView(this.#buffer.buffer);
        if (length >= at + 4) seen.add(`${key} ${view.getUint16(at)} ${view.getUint16(at + 2)}`);
      }
    return seen;
  }

  close(): void {
    for (const fd of this.#sockets.values()) closeFd(fd);
    this.#space.close();
  }
}

function firstPacket(
  source: IpAddress,
  target: IpAddress,
  protocol: Protocol,
  sourcePort: number,
  port: number,
): Uint8Array {
  const length = { TCP: 20, UDP: 12, SCTP: 32 }[protocol];
  const bytes = new Uint8Array(length);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, sourcePort);
  view.setUint16(2, port);
  if (protocol === 'SCTP') {
    // Chunk INIT: tag, window, one stream each way, first sequence number (RFC 9260 section 3.3.2).
    view.setUint8(12, 1);
    view.setUint16(14, 20);
    view.setUint32(16, sourcePort);
    view.setUint32(20, 65_536);
    view.setUint16(24, 1);
    view.setUint16(26, 1);
    view.setUint32(28, 1);
    view.setUint32(8, crc32c(bytes), true);
    return bytes;
  }
  if (protocol === 'TCP') {
    view.setUint32(4, sourcePort);
    view.setUint8(12, 5 << 4);
    view.setUint8(13, 2);
    view.setUint16(14, 65_535);
  } else view.setUint16(4, length);
  const pseudo = [
    ...source.toBytes(),
    ...target.toBytes(),
    ...(source.family === 4
      ? [0, PROTOCOLS[protocol], 0, length]
      : [0, 0, 0, length, 0, 0, 0, PROTOCOLS[protocol]]),
  ];
  view.setUint16(protocol === 'TCP' ? 16 : 6, checksum(Uint8Array.from(pseudo), bytes));
  return bytes;
}

/** Castagnoli's CRC as SCTP has it; slow and short. */
function crc32c(bytes: Uint8Array): number {
  let crc = 0xffff_ffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f6_3b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}
