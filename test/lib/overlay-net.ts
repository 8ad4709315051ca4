/** Nodes and pods as network namespaces on one underlay, made with ip(8): the oracle's own hands. */
import { execFileSync, spawn } from 'node:child_process';
import { type Netns, openNetns } from '../../src/kernel/netns/index.ts';
import { type Pinged, pinged, pingerCommand } from './pinger.ts';

export interface TestPod {
  readonly netns: string;
  readonly ip4: string;
  readonly ip6: string;
}

export interface TestNode {
  readonly name: string;
  readonly netns: string;
  readonly ns: Netns;
  readonly ip4: string;
  readonly ip6: string;
  readonly pod: TestPod;
  readonly podCidr4: string;
  readonly podCidr6: string;
}

export interface TestNet {
  readonly underlay: string;
  readonly nodes: readonly TestNode[];
  /** ip(8) with arguments in one string; answers text. */
  ip(netns: string, command: string): string;
  json(netns: string, command: string): Record<string, unknown>[];
  close(): void;
}

const run = (command: string, args: readonly string[]) =>
  execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

/**
 * Makes `count` nodes. With `routed` each node has a subnet of its own behind the underlay namespace, which routes;
 * otherwise all share one link, a bridge in it.
 */
export function testNet(prefix: string, count: number, { routed = false } = {}): TestNet {
  const id = `${prefix}${process.pid}`;
  const underlay = `${id}u`;
  const made: string[] = [];
  const spaces: Netns[] = [];
  const add = (name: string) => {
    run('ip', ['netns', 'add', name]);
    made.push(name);
    run('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
    run('ip', [
      'netns',
      'exec',
      name,
      'sysctl',
      '-qw',
      'net.ipv6.conf.default.accept_dad=0',
      'net.ipv6.conf.all.accept_dad=0',
    ]);
  };
  const ip = (netns: string, command: string) => run('ip', ['-n', netns, ...command.split(' ')]);
  const close = () => {
    for (const space of spaces.splice(0)) space.close();
    for (const name of made.splice(0))
      try {
        run('ip', ['netns', 'del', name]);
      } catch {
        // Another clean-up was faster.
      }
  };
  try {
    add(underlay);
    if (routed)
      run('ip', [
        'netns',
        'exec',
        underlay,
        'sysctl',
        '-qw',
        'net.ipv4.ip_forward=1',
        'net.ipv6.conf.all.forwarding=1',
      ]);
    else {
      ip(underlay, 'link add br0 type bridge');
      ip(underlay, 'link set br0 up');
      ip(underlay, 'addr add 192.168.0.254/24 dev br0');
      ip(underlay, 'addr add fd00:192::254/64 dev br0 nodad');
    }
    const nodes = Array.from({ length: count }, (_, at): TestNode => {
      const n = at + 1;
      const netns = `${id}n${n}`;
      const pod = `${id}p${n}`;
      add(netns);
      add(pod);
      const [subnet4, subnet6] = routed ? [`192.168.${n}`, `fd00:192:${n}:`] : ['192.168.0', 'fd00:192:'];
      const ip4 = `${subnet4}.${n}`;
      const ip6 = `${subnet6}:${n}`;
      ip(underlay, `link add u${n} type veth peer name eth0 netns ${netns}`);
      if (routed) {
        ip(underlay, `addr add ${subnet4}.254/24 dev u${n}`);
        ip(underlay, `addr add ${subnet6}:254/64 dev u${n} nodad`);
      } else ip(underlay, `link set u${n} master br0`);
      ip(underlay, `link set u${n} up`);
      ip(netns, `addr add ${ip4}/24 dev eth0`);
      ip(netns, `addr add ${ip6}/64 dev eth0 nodad`);
      ip(netns, 'link set eth0 up');
      ip(netns, `route add default via ${subnet4}.254`);
      ip(netns, `-6 route add default via ${subnet6}:254`);
      ip(netns, `link add po0 type veth peer name eth0 netns ${pod}`);
      ip(netns, 'link set po0 address 02:00:00:00:00:fe up');
      const ip4Pod = `10.244.${n}.5`;
      const ip6Pod = `fd00:10:244:${n}::5`;
      ip(netns, `route add ${ip4Pod}/32 dev po0 proto 250`);
      ip(netns, `-6 route add ${ip6Pod}/128 dev po0 proto 250`);
      ip(pod, `addr add ${ip4Pod}/32 dev eth0`);
      ip(pod, `addr add ${ip6Pod}/128 dev eth0 nodad`);
      ip(pod, 'link set eth0 up');
      ip(pod, 'neigh add 169.254.1.1 lladdr 02:00:00:00:00:fe dev eth0');
      ip(pod, 'neigh add fe80::1:1 lladdr 02:00:00:00:00:fe dev eth0');
      ip(pod, 'route add default via 169.254.1.1 dev eth0 onlink');
      ip(pod, '-6 route add default via fe80::1:1 dev eth0 onlink');
      const podMac = (
        JSON.parse(run('ip', ['-n', pod, '-j', 'link', 'show', 'eth0'])) as { address: string }[]
      )[0]!.address;
      ip(netns, `neigh add ${ip4Pod} lladdr ${podMac} dev po0`);
      ip(netns, `neigh add ${ip6Pod} lladdr ${podMac} dev po0`);
      const ns = openNetns(netns);
      spaces.push(ns);
      return {
        name: `node-${n}`,
        netns,
        ns,
        ip4,
        ip6,
        pod: { netns: pod, ip4: ip4Pod, ip6: ip6Pod },
        podCidr4: `10.244.${n}.0/24`,
        podCidr6: `fd00:10:244:${n}::/64`,
      };
    });
    return {
      underlay,
      nodes,
      ip,
      json: (netns, command) =>
        JSON.parse(run('ip', ['-n', netns, '-d', '-j', ...command.split(' ')]) || '[]') as Record<
          string,
          unknown
        >[],
      close,
    };
  } catch (error) {
    close();
    throw error;
  }
}

/** Runs a command in a namespace; answers its text. */
export function inside(netns: string, ...command: string[]): string {
  return run('ip', ['netns', 'exec', netns, ...command]);
}

/** True when one of a few pings is answered. */
export function pings(netns: string, to: string, { tries = 3 } = {}): boolean {
  for (let at = 0; at < tries; at++)
    try {
      inside(netns, 'ping', '-c', '1', '-W', at === 0 ? '1' : '5', to);
      return true;
    } catch {
      // One more try: the neighbour may still be asked for.
    }
  return false;
}

/** Pings without pause; `stop` answers how many were sent and lost. */
export function steadyPing(netns: string, to: string, everyMs = 10): { stop(): Promise<Pinged> } {
  const child = spawn('ip', ['netns', 'exec', netns, ...pingerCommand(to, everyMs)], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  let text = '';
  child.stdout.on('data', (chunk) => {
    text += chunk;
  });
  return {
    stop: () =>
      new Promise((resolve, reject) => {
        child.on('close', () => {
          const told = pinged(text);
          if (told) resolve(told);
          else reject(new Error(`the pinger said: ${text}`));
        });
        child.kill('SIGINT');
      }),
  };
}

/** Milliseconds until `test` holds; throws after `limitMs`. */
export async function until(test: () => boolean, limitMs = 2_000, what = 'the condition'): Promise<number> {
  const start = performance.now();
  for (;;) {
    if (test()) return performance.now() - start;
    if (performance.now() - start > limitMs) throw new Error(`${what} does not hold after ${limitMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
