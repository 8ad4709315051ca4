/**
 * A node with pods for Service tests: a namespace for the node, one a pod, veth pairs with link-local gateways as
 * `podlink` makes them, a cgroup and a bpffs of its own. Everything has the prefix of this process.
 */
import { execFile, execFileSync, spawn } from 'node:child_process';
import { mkdirSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { ensureBpffs } from '../../src/kernel/bpf/index.ts';
import { cgroupRoot } from '../../src/kernel/cgroup/index.ts';
import { createNetns, deleteNetns, type Netns } from '../../src/kernel/netns/index.ts';
import { NR, sys } from '../../src/kernel/syscall/index.ts';

const run = promisify(execFile);

export interface TestPod {
  readonly name: string;
  readonly netns: string;
  readonly ip4: string;
  readonly ip6: string;
  /** Host side of its link, in the node's namespace. */
  readonly ifindex: number;
}

/** What a client of tools.py saw. */
export interface Seen {
  /** `ok`, or the name of the error: ECONNREFUSED, EPERM, timeout. */
  readonly result: string;
  /** What the server said: its name and the client's address. */
  readonly server?: string;
  readonly client?: string;
  /** getpeername, or for datagrams the source of the answer. */
  readonly peer?: string;
  readonly local?: string;
  readonly ms: number;
}

/** The address in what tools.py shows: `10.0.0.1:80`, `[fd00::1]:80`. */
export function host(text = ''): string {
  return text.replace(/:\d+$/, '').replace(/[[\]]/g, '');
}

const TOOLS = String.raw`
import socket, sys, json, time, errno, threading, os
def fam(h): return socket.AF_INET6 if ':' in h else socket.AF_INET
def show(a): return ('[%s]:%d' if ':' in a[0] else '%s:%d') % (a[0], a[1])
def serve(name, host, port):
    t = socket.socket(fam(host), socket.SOCK_STREAM); t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    t.bind((host, port)); t.listen(256)
    u = socket.socket(fam(host), socket.SOCK_DGRAM); u.bind((host, port))
    def udp():
        while True:
            d, a = u.recvfrom(65535)
            u.sendto(('%s %s %d' % (name, show(a), len(d))).encode(), a)
    def one(c, a):
        c.sendall(('%s %s\n' % (name, show(a))).encode())
        while True:
            d = c.recv(65536)
            if not d: break
            c.sendall(d)
        c.close()
    threading.Thread(target=udp, daemon=True).start()
    print('ready', flush=True)
    while True:
        c, a = t.accept()
        threading.Thread(target=one, args=(c, a), daemon=True).start()
def answer(out, start):
    out['ms'] = (time.time() - start) * 1000
    return out
def attempt(kind, host, port, o):
    start = time.time(); out = {'result': 'ok'}
    try:
        s = socket.socket(socket.AF_INET6 if o.get('mapped') else fam(host), socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
        s.settimeout(o.get('timeout', 3))
        if o.get('bind'): s.bind(('', o['bind']))
        if o.get('mapped'): host = '::ffff:' + host
        size = o.get('size', 4)
        if kind == 'tcp':
            s.connect((host, port))
            f = s.makefile('rb'); words = f.readline().decode().split()
            out['peer'] = show(s.getpeername()); out['local'] = show(s.getsockname())
            if size > 4:
                data = os.urandom(size)
                threading.Thread(target=lambda: s.sendall(data), daemon=True).start()
                got = f.read(size)
                if got != data: out['result'] = 'corrupt'
        elif kind == 'udp':
            s.sendto(b'x' * size, (host, port)); d, a = s.recvfrom(65535)
            words = d.decode().split(); out['peer'] = show(a)
            if int(words[2]) != size: out['result'] = 'short'
        else:
            s.connect((host, port)); s.send(b'x' * size); d, a = s.recvfrom(65535)
            words = d.decode().split(); out['peer'] = show(s.getpeername()); out['from'] = show(a)
        out['server'], out['client'] = words[0], words[1]
        s.close()
    except socket.timeout: out['result'] = 'timeout'
    except OSError as e: out['result'] = errno.errorcode.get(e.errno, str(e))
    return answer(out, start)
def hold(host, port):
    s = socket.create_connection((host, port), 15); s.settimeout(None); f = s.makefile('rb'); print(f.readline().decode().strip(), flush=True)
    for line in sys.stdin:
        try:
            s.sendall(line.encode()); print('echo ' + f.readline().decode().strip(), flush=True)
        except OSError as e: print('error ' + errno.errorcode[e.errno], flush=True)
def hold_udp(host, port, connected):
    s = socket.socket(fam(host), socket.SOCK_DGRAM); s.settimeout(5)
    if connected: s.connect((host, port))
    for line in sys.stdin:
        try:
            s.send(b'hi') if connected else s.sendto(b'hi', (host, port))
            print(s.recv(999).decode(), flush=True)
        except socket.timeout: print('timeout', flush=True)
        except OSError as e: print('error ' + errno.errorcode[e.errno], flush=True)
def stream(host, port):
    s = socket.create_connection((host, port), 15); s.settimeout(20); f = s.makefile('rb'); f.readline()
    state = {'n': 0, 'error': ''}
    def pump():
        try:
            while True:
                block = b'%015d\n' % state['n'] * 64
                s.sendall(block)
                if f.read(len(block)) != block: state['error'] = 'corrupt'; return
                state['n'] += 1
                time.sleep(0.002)
        except OSError as e: state['error'] = errno.errorcode.get(e.errno, str(e))
    threading.Thread(target=pump, daemon=True).start()
    print('ready', flush=True)
    for line in sys.stdin: print(state['error'] or state['n'], flush=True)
a = sys.argv
if a[1] == 'serve': serve(a[2], a[3], int(a[4]))
elif a[1] == 'hold': hold(a[2], int(a[3]))
elif a[1] == 'many':
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(32) as pool: print(json.dumps(list(pool.map(lambda t: attempt(*t), json.loads(a[2])))))
elif a[1] == 'stream': stream(a[2], int(a[3]))
elif a[1] == 'hold-udp': hold_udp(a[2], int(a[3]), a[4] == 'connected')
else:
    o = json.loads(a[4]) if len(a) > 4 else {}
    print(json.dumps([attempt(a[1], a[2], int(a[3]), o) for _ in range(o.get('times', 1))]))
`;

/** A process that answers a line with a line. */
export interface Talker {
  ask(line?: string): Promise<string>;
  readonly pid: number;
}

export class ServiceNode {
  readonly prefix: string;
  readonly netns: Netns;
  readonly cgroup: string;
  readonly bpffs: string;
  readonly pods: TestPod[] = [];
  readonly #netnses: string[] = [];
  readonly #stops: (() => void)[] = [];
  readonly #folder: string;
  readonly #number: number;

  private constructor(name: string, number: number) {
    this.prefix = `psv${process.pid}${name}`;
    this.#number = number;
    this.#folder = `/run/${this.prefix}`;
    mkdirSync(this.#folder, { recursive: true });
    this.bpffs = ensureBpffs(join(this.#folder, 'bpf'));
    this.cgroup = join(cgroupRoot(), this.prefix);
    mkdirSync(this.cgroup);
    this.netns = createNetns(this.prefix);
    this.ip('link set lo up', 'addr add 192.168.77.1/32 dev lo', 'addr add fd77::1/128 dev lo');
    for (const [key, value] of [
      ['net.ipv4.ip_forward', 1],
      ['net.ipv6.conf.all.forwarding', 1],
    ])
      this.exec(['sysctl', '-qw', `${key}=${value}`]);
  }

  static create(name = '', number = 7): ServiceNode {
    return new ServiceNode(name, number);
  }

  /** Runs lines of ip(8) in the node's namespace. */
  ip(...lines: string[]): void {
    this.ipAt(this.prefix, ...lines);
  }

  /** The same in another namespace: a pod's or host's. */
  ipAt(netns: string, ...lines: string[]): void {
    execFileSync('ip', ['-n', netns, '-b', '-'], { input: lines.join('\n'), encoding: 'utf8' });
  }

  /** A link as ip(8) shows it, by default in the node's namespace. */
  link(name: string, netns = this.prefix): { readonly ifindex: number; readonly address: string } {
    const shown = execFileSync('ip', ['-j', '-n', netns, 'link', 'show', name], { encoding: 'utf8' });
    return (JSON.parse(shown) as { ifindex: number; address: string }[])[0]!;
  }

  exec(command: string[], netns = this.prefix): string {
    return execFileSync('ip', ['netns', 'exec', netns, ...command], { encoding: 'utf8' });
  }

  /** Adds a pod with addresses 10.244.N.x and fd00:10:244:N::x. */
  addPod(name: string): TestPod {
    const at = this.pods.length + 2;
    const netns = `${this.prefix}-${name}`;
    const link = `po${at}`;
    const ip4 = `10.244.${this.#number}.${at}`;
    const ip6 = `fd00:10:244:${this.#number}::${at}`;
    createNetns(netns).close();
    this.#netnses.push(netns);
    this.ip(
      `link add ${link} type veth peer name eth0 netns ${netns}`,
      `addr add 169.254.1.1/32 dev ${link}`,
      `addr add fe80::1/64 dev ${link} nodad`,
      `link set ${link} up`,
    );
    this.ipAt(
      netns,
      'link set lo up',
      `addr add ${ip4}/32 dev eth0`,
      `addr add ${ip6}/128 dev eth0 nodad`,
      'link set eth0 up',
      'route add 169.254.1.1 dev eth0',
      'route add default via 169.254.1.1 dev eth0',
      'route add default via fe80::1 dev eth0',
    );
    this.ip(`route add ${ip4}/32 dev ${link}`, `route add ${ip6}/128 dev ${link}`);
    const pod = { name, netns, ip4, ip6, ifindex: this.link(link).ifindex };
    this.pods.push(pod);
    return pod;
  }

  /**
   * Adds a host outside, on a link of its own: the node is 172.20.N.1 there and the host 172.20.N.9. It knows the
   * node's addresses and nothing else.
   */
  addHost(name: string, net = 20): TestPod {
    const netns = `${this.prefix}-${name}`;
    const link = `up${net}`;
    const here = { ip4: `172.${net}.${this.#number}.1`, ip6: `fd00:${net}:${this.#number}::1` };
    const there = { ip4: `172.${net}.${this.#number}.9`, ip6: `fd00:${net}:${this.#number}::9` };
    createNetns(netns).close();
    this.#netnses.push(netns);
    this.ip(
      `link add ${link} type veth peer name eth0 netns ${netns}`,
      `addr add ${here.ip4}/24 dev ${link}`,
      `addr add ${here.ip6}/64 dev ${link} nodad`,
      `link set ${link} up`,
    );
    this.ipAt(
      netns,
      'link set lo up',
      `addr add ${there.ip4}/24 dev eth0`,
      `addr add ${there.ip6}/64 dev eth0 nodad`,
      'link set eth0 up',
      `route add 192.168.77.1/32 via ${here.ip4}`,
      `route add fd77::1/128 via ${here.ip6}`,
    );
    return { name, netns, ...there, ifindex: this.link(link).ifindex };
  }

  /** The command in a namespace, in the cgroup or not. */
  #command(netns: string, inCgroup: boolean, args: string[]): [string, string[]] {
    const inside = ['ip', 'netns', 'exec', netns, 'python3', '-c', TOOLS, ...args];
    // Before ip-netns, which puts another /sys in place.
    return inCgroup
      ? ['sh', ['-ec', `echo $$ > ${this.cgroup}/cgroup.procs; exec "$@"`, 'sh', ...inside]]
      : [inside[0]!, inside.slice(1)];
  }

  /** Starts a TCP and UDP server that says its name and who asked. */
  async serve(name: string, netns: string, address: string, port: number): Promise<void> {
    await this.#start(netns, false, ['serve', name, address, String(port)]).ask();
  }

  /** Connects (`tcp`), sends a datagram (`udp`), or connects a datagram socket and sends (`udp-connected`). */
  async attempt(
    kind: 'tcp' | 'udp' | 'udp-connected',
    from: { netns: string; cgroup: boolean },
    address: string,
    port: number,
    options: { times?: number; timeout?: number; mapped?: boolean; size?: number; bind?: number } = {},
  ): Promise<Seen[]> {
    const args = [kind, address, String(port), JSON.stringify(options)];
    const { stdout } = await run(...this.#command(from.netns, from.cgroup, args));
    return JSON.parse(stdout) as Seen[];
  }

  /** TCP connections to several places at once, from one process. */
  async attemptAll(
    from: { netns: string; cgroup: boolean },
    targets: readonly (readonly [address: string, port: number])[],
    options: { timeout?: number } = {},
  ): Promise<Seen[]> {
    const list = targets.map((target) => ['tcp', ...target, options]);
    const { stdout } = await run(...this.#command(from.netns, from.cgroup, ['many', JSON.stringify(list)]));
    return JSON.parse(stdout) as Seen[];
  }

  /** A client that keeps its connection and echoes lines over it. */
  hold(from: { netns: string; cgroup: boolean }, address: string, port: number): Talker {
    return this.#start(from.netns, from.cgroup, ['hold', address, String(port)]);
  }

  /** A client that sends all the time and compares what comes back; asked, it says how many KiB so far, or its error. */
  stream(from: { netns: string; cgroup: boolean }, address: string, port: number): Talker {
    return this.#start(from.netns, from.cgroup, ['stream', address, String(port)]);
  }

  holdUdp(
    from: { netns: string; cgroup: boolean },
    address: string,
    port: number,
    connected: boolean,
  ): Talker {
    return this.#start(from.netns, from.cgroup, [
      'hold-udp',
      address,
      String(port),
      connected ? 'connected' : 'free',
    ]);
  }

  #start(netns: string, inCgroup: boolean, args: string[]): Talker {
    const [command, words] = this.#command(netns, inCgroup, args);
    const child = spawn(command, words, { stdio: ['pipe', 'pipe', 'inherit'] });
    const lines: string[] = [];
    let rest = '';
    let wake: (() => void) | undefined;
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      const parts = (rest + text).split('\n');
      rest = parts.pop()!;
      lines.push(...parts);
      wake?.();
    });
    this.#stops.push(() => child.kill('SIGKILL'));
    const timed = (ms: number) =>
      new Promise((_, reject) => setTimeout(() => reject(new Error('no answer')), ms).unref());
    return {
      pid: child.pid!,
      async ask(line?: string): Promise<string> {
        if (line !== undefined) child.stdin.write(`${line}\n`);
        const next = async () => {
          while (lines.length === 0) await new Promise<void>((resolve) => (wake = resolve));
          return lines.shift()!;
        };
        return (await Promise.race([next(), timed(20_000)])) as string;
      },
    };
  }

  /** Takes everything away. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const stop of this.#stops) stop();
    await new Promise((resolve) => setTimeout(resolve, 50));
    for (const netns of this.#netnses) deleteNetns(netns);
    this.netns.close();
    deleteNetns(this.prefix);
    for (let tries = 0; tries < 40; tries++) {
      try {
        rmdirSync(this.cgroup);
        break;
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 25));
      }
    }
    sys(NR.umount2, Buffer.from(`${this.bpffs}\0`), 2);
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
