/**
 * What XDP costs a packet: lb_xdp by itself in test runs that restore the packet, beside the least that a load balancer
 * does, both net of an empty program; and behind a veth link, beside a program that only turns frames back. Root.
 *
 *   node test/bench/xdp.ts [--quick]
 */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { createNetns, deleteNetns } from '../../src/kernel/netns/index.ts';
import { type AreaOptions, type Figure, lineOf } from './figure.ts';
import { startedAlone } from './measure.ts';

const SINK_MAC = '02:00:00:00:31:02';

/** Both ends of a link in one namespace; all backends are behind the far one. */
function wire(netns: string): { edge: number; sink: number } {
  const ip = (...lines: string[]) =>
    execFileSync('ip', ['-n', netns, '-b', '-'], { input: lines.join('\n'), encoding: 'utf8' });
  const run = (...command: string[]) =>
    execFileSync('ip', ['netns', 'exec', netns, ...command], { encoding: 'utf8' });
  run('sysctl', '-qw', 'net.ipv4.conf.all.forwarding=1', 'net.ipv6.conf.all.forwarding=1');
  ip(
    'link set lo up',
    `link add edge type veth peer name sink address ${SINK_MAC}`,
    'addr add 172.31.0.1/24 dev edge',
    'addr add fd00:31::1/64 dev edge nodad',
    'link set edge up',
    'link set sink up',
    `neigh add 172.31.0.2 lladdr ${SINK_MAC} dev edge nud permanent`,
    `neigh add fd00:31::2 lladdr ${SINK_MAC} dev edge nud permanent`,
    'route add 10.244.0.0/16 via 172.31.0.2',
    'route add fd00:10:244::/48 via fd00:31::2',
  );
  run('ethtool', '-K', 'edge', 'gro', 'on');
  run('ethtool', '-K', 'sink', 'gro', 'on');
  const index = (link: string) =>
    (JSON.parse(run('ip', '-j', 'link', 'show', link)) as { ifindex: number }[])[0]!.ifindex;
  return { edge: index('edge'), sink: index('sink') };
}

export async function benchXdp({ quick }: AreaOptions): Promise<Figure[]> {
  const netns = `pxb${process.pid}`;
  createNetns(netns).close();
  try {
    const { edge, sink } = wire(netns);
    const program = join(import.meta.dirname, 'xdp-run.ts');
    const text = execFileSync(
      'ip',
      [
        'netns',
        'exec',
        netns,
        process.execPath,
        program,
        String(edge),
        String(sink),
        ...(quick ? ['--quick'] : []),
      ],
      { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] },
    );
    return JSON.parse(text) as Figure[];
  } finally {
    deleteNetns(netns);
  }
}

if (startedAlone(import.meta.url))
  for (const figure of await benchXdp({ quick: process.argv.includes('--quick') }))
    console.log(lineOf(figure));
