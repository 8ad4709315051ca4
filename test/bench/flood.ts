/**
 * What a flood of new flows (each packet of another client, the shape of a SYN flood) costs a flow that is
 * established: its round trips while the flood goes through a Service, beside the same flood to a pod by plain routing,
 * and beside no flood. Root.
 */
import { execFileSync, spawn } from 'node:child_process';
import { mapMemoryBytes } from '../../src/kernel/bpf/index.ts';
import { writeNftParts } from '../../src/kernel/nft/index.ts';
import { EbpfEngine, masqueradeParts } from '../../src/service/engines/ebpf/index.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import { ServiceNode } from '../lib/services.ts';
import { compiled, firstLine } from '../lib/soak.ts';
import { type AreaOptions, type Figure, median } from './figure.ts';

const NODE_IP = '192.168.77.1';
const NODE_PORTS = { tcp: 30_080, udp: 30_081 };
const PORT = 8080;
/** Packets a second: far more than the flow table turns over in a second, and little enough for one CPU. */
const RATE = 40_000;
const ROUND_TRIPS = 4000;

export async function benchFlood({ quick }: AreaOptions): Promise<Figure[]> {
  const rounds = quick ? 3 : 7;
  const node = ServiceNode.create('fl', 21);
  const stops: (() => void)[] = [];
  let engine: EbpfEngine | undefined;
  try {
    const server = node.addPod('server');
    const other = node.addPod('other');
    const bad = node.addHost('bad', 20);
    const good = node.addHost('good', 30);
    const mac = (
      JSON.parse(
        execFileSync('ip', ['-j', '-n', node.prefix, 'link', 'show', 'up20'], { encoding: 'utf8' }),
      ) as {
        address: string;
      }[]
    )[0]!.address;
    node.ip(`route add 198.18.0.0/15 via ${bad.ip4}`);
    const start = (netns: string, ...words: (string | number)[]) => {
      const child = spawn('ip', ['netns', 'exec', netns, ...words.map(String)]);
      stops.push(() => child.kill('SIGKILL'));
      return firstLine(child);
    };
    await start(server.netns, compiled('../bench/pingpong'), 'serve', server.ip4, PORT);
    engine = EbpfEngine.open({
      bpffsDir: node.bpffs,
      cgroupPath: node.cgroup,
      netns: node.netns,
      nodeName: 'node-a',
    });
    for (const pod of node.pods) engine.attachPodLink(pod.ifindex);
    for (const { ifindex } of [bad, good]) engine.attachNodeInterface(ifindex);
    writeNftParts(masqueradeParts(), { netns: node.netns });
    const ports = (['tcp', 'udp'] as const).map((name) => ({
      ...{ name, port: 80, nodePort: NODE_PORTS[name], protocol: name.toUpperCase() as 'TCP' | 'UDP' },
    }));
    const service = serviceFacts(aService({ type: 'NodePort', clusterIPs: ['10.96.0.10'], ports }));
    const slices = ports.map(({ name, protocol }) =>
      sliceFacts(
        aSlice([`${server.ip4} node-a`], { name: `web-${name}`, portName: name, protocol, port: PORT }),
      ),
    );
    const tables = {
      services: new Map([[service.key, service]]),
      slices: new Map(slices.map((slice) => [slice.key, slice])),
    };
    engine.apply(new ServicePlanner(tables, aNode({ nodePortAddresses: [NODE_IP] })).planAll());

    /** Median round trip in ms of an established flow through the nodePort, during a flood or none. */
    const roundTrips = async (flood?: { address: string; port: number }): Promise<number> => {
      // Longer than the round trips take; what is left of it is ended.
      const generator = flood
        ? spawn('ip', [
            ...[
              'netns',
              'exec',
              bad.netns,
              compiled('flood'),
              'eth0',
              mac,
              flood.address,
              String(flood.port),
            ],
            ...['syn', String(RATE * 10), String(RATE)],
          ])
        : undefined;
      const ended = generator && new Promise((resolve) => generator.once('close', resolve));
      try {
        const line = await start(
          good.netns,
          ...[compiled('../bench/pingpong'), NODE_IP, NODE_PORTS.udp, ROUND_TRIPS],
        );
        return Number(line.split(' ')[1]) / 1e6;
      } finally {
        generator?.kill('SIGKILL');
        await ended;
      }
    };
    const times = { service: [] as number[], plain: [] as number[], quiet: [] as number[] };
    const memory = () => Object.values(engine!.maps).reduce((sum, map) => sum + mapMemoryBytes(map), 0);
    await roundTrips();
    const before = memory();
    for (let round = 0; round < rounds; round++) {
      times.service.push(await roundTrips({ address: NODE_IP, port: NODE_PORTS.tcp }));
      times.plain.push(await roundTrips({ address: other.ip4, port: PORT }));
      times.quiet.push(await roundTrips());
    }
    const grown = (memory() - before) / 1024 / 1024;
    const value = median(times.service);
    const plain = median(times.plain);
    const figure = (name: string, beside: number): Figure => ({
      name: `round trip of an established flow, ${RATE / 1000}k new flows a second through a Service`,
      value,
      unit: 'ms',
      baseline: { name, value: beside },
    });
    return [
      figure('the same flood to a pod, plain routing', plain),
      figure('no flood', median(times.quiet)),
      {
        name: 'memory of all maps, more than before the floods',
        value: grown,
        unit: 'MiB',
        budget: { text: '0 MiB', met: grown <= 0 },
      },
    ];
  } finally {
    for (const stop of stops) stop();
    engine?.remove();
    await node[Symbol.asyncDispose]();
  }
}
