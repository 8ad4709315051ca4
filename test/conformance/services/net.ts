/**
 * The network of the conformance suite, as namespaces:
 *
 *     pods a1 a2 a3 ── node-a ─┐                172.28.0.1
 *     pods b1 b2 ───── node-b ─┼─ bridge        172.28.0.2
 *     pod  c1 ──────── node-c ─┤                172.28.0.3
 *     outside ─────────────────┘                172.28.0.100, knows nodes and load balancer addresses, no pods
 *
 * Pods hang on routed veth pairs with link-local gateways, as podlink makes them, or (PORTOLAN_POD_LINK) on a bridge made
 * by podlink itself, with br_netfilter on at odd nodes and off at even ones; nodes route each other's pods over
 * the bridge and have the overlay's rules. At each place a process waits (prober.py); those of nodes and pods are in
 * their node's cgroup, and a second one of some pods is not: its packets stand for what no socket hook has seen.
 */
import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { mkdirSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { parseCidr, parseIp } from '../../../src/addr/index.ts';
import { ensureBpffs } from '../../../src/kernel/bpf/index.ts';
import { cgroupRoot } from '../../../src/kernel/cgroup/index.ts';
import { createNetns, deleteNetns, type Netns, openNetns } from '../../../src/kernel/netns/index.ts';
import { writeNftParts } from '../../../src/kernel/nft/index.ts';
import { NR, sys } from '../../../src/kernel/syscall/index.ts';
import { writeSysctl } from '../../../src/kernel/sysctl/index.ts';
import { filterPart } from '../../../src/overlay/index.ts';
import { hostLinkName, PodLinks, podLinkSpec } from '../../../src/podlink/index.ts';

const execFileAsync = promisify(execFile);

export type FamilyName = 'ip4' | 'ip6';
export const FAMILY_NAMES: readonly FamilyName[] = ['ip4', 'ip6'];

export const POD_CIDRS = { ip4: '10.244.0.0/16', ip6: 'fd00:10:244::/48' } as const;

/** Addresses that every node has besides, on its loopback link; the outside knows those of node-a. */
export const EXTRA = { ip4: '192.168.77.1', ip6: 'fd00:77::1' } as const;

/** Load balancer addresses and externalIPs; the outside sends the first ones to node-a, the second ones to node-b. */
export const VIPS = {
  a: { ip4: '203.0.113.10', ip6: 'fd00:113:a::10' },
  b: { ip4: '203.0.113.20', ip6: 'fd00:113:b::20' },
  /** Somebody else's load balancer: the outside has it, with a server on port 80. */
  proxy: { ip4: '203.0.113.99', ip6: 'fd00:113:f::99' },
} as const;

/** What a client saw of one attempt. */
export interface Seen {
  /** `ok`, `timeout`, or the name of the error: ECONNREFUSED, EPERM. */
  readonly result: string;
  /** What the server says of itself and of the client, `address:port`. */
  readonly server?: string;
  readonly client?: string;
  /** Whom the client believes to talk to. */
  readonly peer?: string;
  readonly local?: string;
  readonly ms: number;
}

export type Kind = 'tcp' | 'udp' | 'udp-connected';

export interface AttemptOptions {
  readonly times?: number;
  /** Seconds; 5 by default, for what is to succeed. */
  readonly timeout?: number;
  /** Seconds between attempts. */
  readonly pause?: number;
  readonly size?: number;
  /** Source port. */
  readonly bind?: number;
  /** Source address. */
  readonly source?: string;
  /** A connected datagram socket names the target again in each call. */
  readonly named?: boolean;
  /** An IPv4 address through an IPv6 socket. */
  readonly mapped?: boolean;
}

/** A socket that a place keeps open. */
export interface Held {
  /** Name of the server, or what went wrong. */
  readonly server: string;
  /** As the server sees the client, and the client itself; of streams. */
  readonly client: string;
  readonly local: string;
  /** Sends a line (a datagram) and says what came back: the echo (the server's name), or what went wrong. */
  say(text?: string, timeout?: number): Promise<string>;
  close(): Promise<void>;
}

type Answer = { id: number; error?: string } & Record<string, unknown>;

/** A prober at a place. */
export class Prober {
  readonly name: string;
  /** Resolves when it listens to requests. */
  readonly started: Promise<unknown>;
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  #next = 0;

  constructor(name: string, netns: string, cgroup: string | undefined) {
    this.name = name;
    const inside = ['ip', 'netns', 'exec', netns, 'python3', join(import.meta.dirname, 'prober.py'), name];
    // Into the cgroup before ip-netns, which puts another /sys in place.
    const words =
      cgroup === undefined
        ? inside
        : ['sh', '-ec', `echo $$ > ${cgroup}/cgroup.procs; exec "$@"`, 'sh', ...inside];
    this.#child = spawn(words[0]!, words.slice(1), { stdio: ['pipe', 'pipe', 'inherit'] });
    createInterface({ input: this.#child.stdout! }).on('line', (line) => {
      const answer = JSON.parse(line) as Answer;
      this.#waiting.get(answer.id)?.(answer);
      this.#waiting.delete(answer.id);
    });
    this.#child.setMaxListeners(0);
    this.started = this.#answer(this.#next++);
    // It may fail before anybody waits.
    this.started.catch(() => {});
  }

  #answer(id: number): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, (answer) =>
        answer.error === undefined ? resolve(answer) : reject(new Error(`${this.name}: ${answer.error}`)),
      );
      this.#child.once('exit', () => reject(new Error(`the prober of ${this.name} has ended`)));
    });
  }

  #ask(what: string, more: object): Promise<Answer> {
    const id = this.#next++;
    const answer = this.#answer(id);
    this.#child.stdin!.write(`${JSON.stringify({ id, do: what, ...more })}\n`);
    return answer;
  }

  async serve(host: string, port: number, name?: string): Promise<void> {
    await this.#ask('serve', { host, port, name });
  }

  async unserve(host: string, port: number): Promise<void> {
    await this.#ask('unserve', { host, port });
  }

  async attempt(kind: Kind, host: string, port: number, options: AttemptOptions = {}): Promise<Seen[]> {
    const { seen } = await this.#ask('exchange', { kind, host, port, ...options });
    return seen as Seen[];
  }

  /** Server by who answered, `10.96.0.1:80`: one datagram socket asks all of them before it reads any answer. */
  async survey(targets: readonly (readonly [host: string, port: number])[]): Promise<Record<string, string>> {
    const { answers } = await this.#ask('survey', { targets });
    return answers as Record<string, string>;
  }

  async hold(kind: Kind, host: string, port: number, options: AttemptOptions = {}): Promise<Held> {
    const handle = this.#next++;
    const opened = await this.#ask('hold', { handle, kind, host, port, ...options });
    return {
      server: opened['text'] as string,
      client: (opened['client'] ?? '') as string,
      local: (opened['local'] ?? '') as string,
      say: async (text = 'hello', timeout = 5) => {
        const { text: said } = await this.#ask('say', { handle, text, timeout });
        return said as string;
      },
      close: async () => {
        await this.#ask('let-go', { handle });
      },
    };
  }

  /** Sends a segment of a connection between these two, IPv4, that lies far outside of the window. */
  async inject(source: string, sport: number, target: string, dport: number): Promise<void> {
    await this.#ask('inject', { source, sport, target, dport });
  }

  close(): void {
    this.#child.kill('SIGKILL');
  }
}

interface Addresses {
  readonly ip4: string;
  readonly ip6: string;
}

export interface NetPod extends Addresses {
  readonly name: string;
  readonly node: string;
  readonly netns: string;
  /** Host side of its link, in the node's namespace. */
  readonly link: string;
  readonly ifindex: number;
  /** The bridge that its packets come in by, if its link is a port of one. */
  readonly bridge?: number | undefined;
  /** In the node's cgroup. */
  readonly prober: Prober;
}

export interface NetNode extends Addresses {
  /** `node-a`. */
  readonly name: string;
  readonly netns: Netns;
  readonly netnsName: string;
  readonly cgroup: string;
  readonly bpffs: string;
  /** The link to the others. */
  readonly uplink: number;
  readonly pods: readonly NetPod[];
  readonly prober: Prober;
}

export interface Outside extends Addresses {
  readonly netnsName: string;
  readonly prober: Prober;
}

const ip = (netns: string, ...lines: string[]) =>
  execFileSync('ip', ['-n', netns, '-b', '-'], { input: lines.join('\n'), encoding: 'utf8' });

const ifindexOf = (netns: string, link: string) =>
  (
    JSON.parse(execFileSync('ip', ['-j', '-n', netns, 'link', 'show', link], { encoding: 'utf8' })) as {
      ifindex: number;
    }[]
  )[0]!.ifindex;

/** `routed`, `bridge`, or `mixed`: pods of node-b are on a bridge. */
const POD_LINK = process.env['PORTOLAN_POD_LINK'] ?? 'mixed';
const isBridged = (letter: string) => POD_LINK === 'bridge' || (POD_LINK === 'mixed' && letter === 'b');

/** Makes a link of kind `bridge` by the code that agents have. */
function bridged(
  pod: Addresses & { readonly netns: string },
  number: number,
  nodeNetns: string,
): Pick<NetPod, 'link' | 'ifindex' | 'bridge'> {
  using node = openNetns(nodeNetns);
  using inside = openNetns(pod.netns);
  using links = new PodLinks({ netns: node });
  const { ifindex, spec } = links.create(
    podLinkSpec({
      containerId: pod.netns,
      ifname: 'eth0',
      hostLink: hostLinkName(pod.netns, 'eth0'),
      addresses: [parseIp(pod.ip4), parseIp(pod.ip6)],
      mtuBytes: 1500,
      kind: 'bridge',
      networks: [parseCidr(`10.244.${number}.0/24`), parseCidr(`fd00:10:244:${number}::/64`)],
    }),
    inside.fd,
  );
  for (const name of ['iptables', 'ip6tables'])
    writeSysctl(`net/bridge/bridge-nf-call-${name}`, POD_LINK === 'mixed' ? 1 : number % 2, { netns: node });
  return { link: spec.hostLink, ifindex, bridge: links.bridge.ifindex };
}

/** Where pods without a socket hook are: these have a second prober, outside of the cgroup. */
const PACKET_PODS = ['a1', 'b1', 'c1'];

export class ServiceNet implements AsyncDisposable {
  readonly prefix: string;
  readonly nodes: NetNode[] = [];
  /** Probers of pods whose packets no socket hook has seen. */
  readonly packets = new Map<string, Prober>();
  outside!: Outside;
  readonly #netnses: string[] = [];
  readonly #probers: Prober[] = [];
  readonly #folder: string;

  private constructor(prefix: string) {
    this.prefix = prefix;
    this.#folder = `/run/${prefix}`;
  }

  /** Makes everything; `layout` says how many pods each node has. */
  static async create(
    prefix: string,
    layout: Readonly<Record<string, number>> = { a: 3, b: 2, c: 1 },
  ): Promise<ServiceNet> {
    const net = new ServiceNet(prefix);
    try {
      net.#wire();
      let number = 1;
      for (const [letter, pods] of Object.entries(layout)) await net.#node(letter, number++, pods);
      for (const node of net.nodes) net.#routes(node);
      await net.#outside();
      await Promise.all(net.#probers.map((prober) => prober.started));
      await Promise.all([
        ...FAMILY_NAMES.flatMap((family) => [
          net.outside.prober.serve(net.outside[family], 8080),
          net.outside.prober.serve(VIPS.proxy[family], 80, 'proxy'),
        ]),
        ...net.nodes.flatMap((node) => [
          // Host-network servers, and every pod on two ports, so that a port may change its target.
          ...FAMILY_NAMES.map((family) => node.prober.serve(node[family], 9090)),
          ...node.pods.flatMap((pod) =>
            FAMILY_NAMES.flatMap((family) =>
              [8080, 8081].map((port) =>
                pod.prober.serve(pod[family], port, port === 8080 ? pod.name : `${pod.name}-second`),
              ),
            ),
          ),
        ]),
      ]);
      return net;
    } catch (error) {
      await net[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Makes links hand packets over as network cards do: with whole checksums, and send what XDP redirects to them. */
  asCards(): this {
    for (const netns of this.#netnses)
      for (const { ifname } of JSON.parse(
        execFileSync('ip', ['-j', '-n', netns, 'link', 'show', 'type', 'veth'], { encoding: 'utf8' }),
      ) as { ifname: string }[])
        this.exec(netns, ['ethtool', '-K', ifname, 'tx', 'off', 'gro', 'on']);
    return this;
  }

  /** A node by its letter. */
  node(letter: string): NetNode {
    return found(
      this.nodes.find(({ name }) => name === `node-${letter}`),
      `node ${letter}`,
    );
  }

  /** A pod by its name. */
  pod(name: string): NetPod {
    return found(
      this.nodes.flatMap(({ pods }) => pods).find((pod) => pod.name === name),
      `pod ${name}`,
    );
  }

  exec(netns: string, command: readonly string[]): string {
    return execFileSync('ip', ['netns', 'exec', netns, ...command], { encoding: 'utf8' });
  }

  /** The same without holding up this process, which may be whom the command asks. */
  async run(netns: string, command: readonly string[]): Promise<string> {
    return (await execFileAsync('ip', ['netns', 'exec', netns, ...command])).stdout;
  }

  /** Runs lines of ip(8) there. */
  ip(netns: string, ...lines: string[]): void {
    ip(netns, ...lines);
  }

  #namespace(name: string): Netns {
    const netns = createNetns(name);
    this.#netnses.push(name);
    // Addresses are usable at once, and hosts here send no advertisements.
    this.exec(name, [
      'sysctl',
      '-qw',
      'net.ipv6.conf.all.accept_dad=0',
      'net.ipv6.conf.default.accept_dad=0',
    ]);
    ip(name, 'link set lo up');
    return netns;
  }

  #wire(): void {
    mkdirSync(this.#folder, { recursive: true });
    this.#namespace(`${this.prefix}-w`).close();
    ip(`${this.prefix}-w`, 'link add name br0 type bridge', 'link set br0 up');
  }

  /** A link to the bridge, named eth0 there. */
  #plug(netns: string, port: string, addresses: Addresses): void {
    ip(
      `${this.prefix}-w`,
      `link add name ${port} type veth peer name eth0 netns ${netns}`,
      `link set ${port} master br0 up`,
    );
    ip(
      netns,
      'link set eth0 up',
      `addr add ${addresses.ip4}/24 dev eth0`,
      `addr add ${addresses.ip6}/64 dev eth0 nodad`,
    );
  }

  async #node(letter: string, number: number, podCount: number): Promise<void> {
    const name = `node-${letter}`;
    const netnsName = `${this.prefix}-${letter}`;
    const netns = this.#namespace(netnsName);
    this.exec(netnsName, ['sysctl', '-qw', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1']);
    const addresses = { ip4: `172.28.0.${number}`, ip6: `fd00:28::${number}` };
    this.#plug(netnsName, `to-${letter}`, addresses);
    ip(netnsName, `addr add ${EXTRA.ip4}/32 dev lo`, `addr add ${EXTRA.ip6}/128 dev lo`);
    mkdirSync(join(this.#folder, letter));
    const bpffs = ensureBpffs(join(this.#folder, letter, 'bpf'));
    const cgroup = join(cgroupRoot(), `${this.prefix}-${letter}`);
    mkdirSync(cgroup);
    const pods: NetPod[] = [];
    for (let at = 1; at <= podCount; at++) pods.push(this.#pod(letter, number, at, netnsName, cgroup));
    const own = { 4: `10.244.${number}.0/24`, 6: `fd00:10:244:${number}::/64` } as const;
    for (const family of [4, 6] as const) {
      const part = filterPart({
        family,
        clusterCidrs: [parseCidr(family === 4 ? POD_CIDRS.ip4 : POD_CIDRS.ip6)],
        ownCidrs: [parseCidr(own[family])],
        masquerade: true,
      });
      writeNftParts([part], { netns });
    }
    this.nodes.push({
      name,
      netns,
      netnsName,
      cgroup,
      bpffs,
      uplink: ifindexOf(netnsName, 'eth0'),
      pods,
      prober: this.#prober(name, netnsName, cgroup),
      ...addresses,
    });
  }

  #pod(letter: string, number: number, at: number, nodeNetns: string, cgroup: string): NetPod {
    const name = `${letter}${at}`;
    const netns = `${this.prefix}-${name}`;
    const link = `po${at}`;
    const ip4 = `10.244.${number}.${10 + at}`;
    const ip6 = `fd00:10:244:${number}::${10 + at}`;
    this.#namespace(netns).close();
    const pod = {
      name,
      node: `node-${letter}`,
      netns,
      ip4,
      ip6,
      prober: this.#prober(name, netns, cgroup),
    };
    if (PACKET_PODS.includes(name)) this.packets.set(name, this.#prober(name, netns, undefined));
    if (isBridged(letter)) return { ...pod, ...bridged(pod, number, nodeNetns) };
    const hostMac = '02:00:00:00:00:fe';
    const podMac = `02:00:00:00:0${number}:0${at}`;
    ip(
      nodeNetns,
      `link add name ${link} type veth peer name eth0 netns ${netns}`,
      `link set ${link} address ${hostMac} up`,
      `neigh add ${ip4} lladdr ${podMac} dev ${link}`,
      `neigh add ${ip6} lladdr ${podMac} dev ${link}`,
    );
    ip(
      netns,
      `link set eth0 address ${podMac} up`,
      `addr add ${ip4}/32 dev eth0`,
      `addr add ${ip6}/128 dev eth0 nodad`,
      `neigh add 169.254.1.1 lladdr ${hostMac} dev eth0`,
      `neigh add fe80::1 lladdr ${hostMac} dev eth0`,
      'route add default via 169.254.1.1 dev eth0 onlink',
      'route add default via fe80::1 dev eth0 onlink',
    );
    ip(nodeNetns, `route add ${ip4}/32 dev ${link}`, `route add ${ip6}/128 dev ${link}`);
    return { ...pod, link, ifindex: ifindexOf(nodeNetns, link) };
  }

  #prober(name: string, netns: string, cgroup: string | undefined): Prober {
    const prober = new Prober(name, netns, cgroup);
    this.#probers.push(prober);
    return prober;
  }

  #routes(node: NetNode): void {
    this.nodes.forEach((other, at) => {
      if (other === node) return;
      ip(
        node.netnsName,
        `route add 10.244.${at + 1}.0/24 via ${other.ip4}`,
        `route add fd00:10:244:${at + 1}::/64 via ${other.ip6}`,
      );
    });
    ip(node.netnsName, 'route add default via 172.28.0.100', 'route add default via fd00:28::100');
  }

  async #outside(): Promise<void> {
    const netnsName = `${this.prefix}-out`;
    const addresses = { ip4: '172.28.0.100', ip6: 'fd00:28::100' };
    this.#namespace(netnsName).close();
    this.#plug(netnsName, 'to-out', addresses);
    const [a, b] = [this.node('a'), this.node('b')];
    ip(
      netnsName,
      ...FAMILY_NAMES.flatMap((family) => {
        const bits = family === 'ip4' ? 32 : 128;
        return [
          `route add ${EXTRA[family]}/${bits} via ${a[family]}`,
          `route add ${VIPS.a[family]}/${bits} via ${a[family]}`,
          `route add ${VIPS.b[family]}/${bits} via ${b[family]}`,
          `addr add ${VIPS.proxy[family]}/${bits} dev lo`,
        ];
      }),
      // Whoever routes the Service range to a node is served.
      `route add 10.96.0.0/16 via ${a.ip4}`,
      `route add fd00:10:96::/112 via ${a.ip6}`,
    );
    this.outside = { netnsName, prober: this.#prober('outside', netnsName, undefined), ...addresses };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const prober of this.#probers) prober.close();
    await new Promise((resolve) => setTimeout(resolve, 50));
    for (const node of this.nodes) node.netns.close();
    for (const netns of this.#netnses) deleteNetns(netns);
    for (const { cgroup, bpffs } of this.nodes) {
      for (let tries = 0; tries < 40; tries++)
        try {
          rmdirSync(cgroup);
          break;
        } catch {
          await new Promise((resolve) => setTimeout(resolve, 25));
        }
      sys(NR.umount2, Buffer.from(`${bpffs}\0`), 2);
    }
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

function found<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new Error(`there is no ${what}`);
  return value;
}
