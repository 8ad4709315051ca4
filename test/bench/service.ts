/**
 * Services: connections through one of many, beside a plain connection and beside rules of the shape that
 * kube-proxy makes (iptables chains, nft verdict map); programming them, and one endpoint change. Root.
 *
 *   node test/bench/service.ts [--json] [--rounds N] [--services 1,1000,10000]
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import type { ServiceFacts, SliceFacts } from '../../src/service/types.ts';
import { ServiceNode, type TestPod } from '../lib/services.ts';
import { compiled, firstLine } from '../lib/soak.ts';
import { type BenchRow, printRows, startedAlone } from './measure.ts';

const CONNECTIONS = 2000;
const HTTP = { name: '', port: 80, targetPort: 8080, protocol: 'TCP' as const };
const ENDPOINTS = 10;
/** Port of the last Service for packets of an open connection, and where its server echoes. */
const ECHO = { port: 81, target: 8081 };
const ROUND_TRIPS = 3000;
/** More Services than rules of other kinds can be loaded in minutes: eBPF beside plain routing only, one endpoint each. */
const RULES_LIMIT = 10_000;
/** Client and server share a CPU: where the scheduler puts them makes more difference than what is measured. */
const ONE_CPU = ['taskset', '-c', '0'];

interface Lane {
  readonly node: ServiceNode;
  readonly client: TestPod;
  readonly server: TestPod;
}

const serviceAddress = (at: number) => `10.${96 + (at >> 16)}.${(at >> 8) & 255}.${at & 255}`;
/** Endpoints of other Services; they are in nobody's way. */
const elsewhere = (at: number, endpoint: number) =>
  `10.${128 + (at >> 12)}.${(at >> 4) & 255}.${((at & 15) << 4) + endpoint}`;

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[values.length >> 1]!;
}

export async function bench({ rounds = 7, counts = [1, 1000, 10_000] } = {}): Promise<BenchRow[]> {
  const folder = mkdtempSync(join(tmpdir(), 'pt-bench-'));
  const tool = join(folder, 'connect');
  execFileSync('gcc', ['-O2', '-o', tool, join(import.meta.dirname, 'connect.c')]);
  const lanes: Lane[] = [];
  const servers: ReturnType<typeof spawn>[] = [];
  const lane = async (name: string, number: number): Promise<Lane> => {
    const node = ServiceNode.create(name, number);
    const made = { node, client: node.addPod('c'), server: node.addPod('s') };
    lanes.push(made);
    const child = spawn(
      'ip',
      ['netns', 'exec', made.server.netns, ...ONE_CPU, tool, 'serve', made.server.ip4, '8080'],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    servers.push(child);
    await new Promise((resolve) => child.stdout!.once('data', resolve));
    const words = [...ONE_CPU, compiled('soak'), 'serve', String(ECHO.target)];
    const echo = spawn('ip', ['netns', 'exec', made.server.netns, ...words]);
    servers.push(echo);
    await firstLine(echo);
    return made;
  };
  /** 10th percentile of one run, in ms: on a busy machine the median tells how busy it is. */
  const connect = ({ node, client }: Lane, address: string, port: number, inCgroup = false): number => {
    const inside = [
      'ip',
      'netns',
      'exec',
      client.netns,
      ...ONE_CPU,
      tool,
      address,
      String(port),
      String(CONNECTIONS),
    ];
    const enter = inCgroup ? `echo $$ > ${node.cgroup}/cgroup.procs; ` : '';
    const output = execFileSync('sh', ['-ec', `${enter}exec "$@"`, 'sh', ...inside], { encoding: 'utf8' });
    return Number(output.split(' ')[0]) / 1e6;
  };

  /** Median round trip over one open connection, in ms. */
  const roundTrip = ({ node, client }: Lane, address: string, port: number, inCgroup = false): number => {
    const words = [compiled('../bench/pingpong'), 'tcp', address, String(port), String(ROUND_TRIPS)];
    const enter = inCgroup ? `echo $$ > ${node.cgroup}/cgroup.procs; ` : '';
    const inside = ['ip', 'netns', 'exec', client.netns, ...ONE_CPU, ...words];
    const output = execFileSync('sh', ['-ec', `${enter}exec "$@"`, 'sh', ...inside], { encoding: 'utf8' });
    return Number(output.split(' ')[1]) / 1e6;
  };

  const rows: BenchRow[] = [];
  let engine: EbpfEngine | undefined;
  try {
    const bpf = await lane('e', 11);
    const plain = await lane('n', 12);
    const iptables = await lane('i', 13);
    const nft = await lane('f', 14);
    engine = EbpfEngine.open({
      bpffsDir: bpf.node.bpffs,
      cgroupPath: bpf.node.cgroup,
      netns: bpf.node.netns,
      nodeName: 'node-a',
    });
    engine.setServiceRanges(['10.96.0.0/15']);
    for (const pod of bpf.node.pods) engine.attachPodLink(pod.ifindex);

    for (const count of counts) {
      const last = count - 1;
      const rules = count <= RULES_LIMIT;
      const perService = rules ? ENDPOINTS : 1;
      const services = new Map<string, ServiceFacts>();
      const slices = new Map<string, SliceFacts>();
      const slice = (at: number, skip = -1) => {
        const endpoints =
          at === last
            ? [`${bpf.server.ip4} node-a`]
            : Array.from({ length: perService }, (_, e) => `${elsewhere(at, e)} node-b`).filter(
                (_, e) => e !== skip,
              );
        const facts = sliceFacts(aSlice(endpoints, { name: `s${at}-1`, service: `s${at}` }));
        slices.set(facts.key, facts);
        return facts.key;
      };
      for (let at = 0; at < count; at++) {
        const ports = at === last ? { ports: [HTTP, { ...HTTP, name: 'echo', port: ECHO.port }] } : {};
        const spec = { clusterIP: serviceAddress(at), clusterIPs: [serviceAddress(at)], ...ports };
        const facts = serviceFacts(aService(spec, { name: `s${at}` }));
        services.set(facts.key, facts);
        slice(at);
      }
      const echo = sliceFacts(
        aSlice([`${bpf.server.ip4} node-a`], {
          ...{ name: `s${last}-2`, service: `s${last}`, portName: 'echo', port: ECHO.target },
        }),
      );
      slices.set(echo.key, echo);
      const planner = new ServicePlanner({ services, slices }, aNode({ nodePortAddresses: [] }));
      const began = performance.now();
      engine.apply(planner.planAll());
      const programmedMs = performance.now() - began;
      const iptablesMs = rules ? loadIptables(iptables, count) : 0;
      const nftMs = rules ? loadNft(nft, count) : 0;

      const vip = serviceAddress(last);
      const times: Record<string, number[]> = {};
      const note = (name: string, ms: number) => {
        times[name] = [...(times[name] ?? []), ms];
      };
      for (let round = 0; round < rounds; round++) {
        note('plain', connect(plain, plain.server.ip4, 8080));
        note('socket', connect(bpf, vip, 80, true));
        note('direct', connect(bpf, bpf.server.ip4, 8080, true));
        note('tc', connect(bpf, vip, 80));
        note('plain packet', roundTrip(plain, plain.server.ip4, ECHO.target));
        note('socket packet', roundTrip(bpf, vip, ECHO.port, true));
        note('tc packet', roundTrip(bpf, vip, ECHO.port));
        if (!rules) continue;
        note('iptables', connect(iptables, vip, 80));
        note('nft', connect(nft, vip, 80));
        note('iptables packet', roundTrip(iptables, vip, ECHO.port));
        note('nft packet', roundTrip(nft, vip, ECHO.port));
      }
      const ms = Object.fromEntries(Object.entries(times).map(([name, list]) => [name, median(list)]));
      const label = count.toLocaleString('en');
      const add = (name: string, own: string, baseline: string, other: string) =>
        rows.push({ name, ms: ms[own]!, baseline, baselineMs: ms[other]! });
      add(`connect, ${label} Services, socket hook`, 'socket', 'plain routing', 'plain');
      add(`connect, ${label} Services, socket hook`, 'socket', 'the same to the pod itself', 'direct');
      add(`connect, ${label} Services, tc at the pod link`, 'tc', 'plain routing', 'plain');
      const packet = `round trip of an open connection, ${label} Services`;
      add(`${packet}, socket hook`, 'socket packet', 'plain routing', 'plain packet');
      add(`${packet}, tc`, 'tc packet', 'plain routing', 'plain packet');
      if (!rules) continue;
      add(`${packet}, tc`, 'tc packet', 'iptables', 'iptables packet');
      add(`${packet}, tc`, 'tc packet', 'nft verdict map', 'nft packet');
      add(`connect, ${label} Services, socket hook`, 'socket', 'nft verdict map', 'nft');
      add(`connect, ${label} Services, socket hook`, 'socket', 'iptables, last of them', 'iptables');
      rows.push(
        {
          name: `program ${label} Services x ${ENDPOINTS}`,
          ms: programmedMs,
          baseline: 'nft -f, 1 endpoint each',
          baselineMs: nftMs,
        },
        {
          name: `program ${label} Services x ${ENDPOINTS}`,
          ms: programmedMs,
          baseline: 'iptables-restore, 1 endpoint each',
          baselineMs: iptablesMs,
        },
      );
      if (count > 1) {
        const changes: number[] = [];
        for (let n = 0; n < 2000; n++) {
          const key = slice((n * 7919) % last, n % ENDPOINTS);
          const start = performance.now();
          engine.apply(planner.plan([], [key]));
          changes.push(performance.now() - start);
        }
        const changeMs = median(changes);
        const p99 = changes[Math.floor(changes.length * 0.99)]!;
        const nftChange = changeNft(nft);
        rows.push(
          {
            name: `one endpoint change at ${label}, p50`,
            ms: changeMs,
            baseline: 'nft -f, one element',
            baselineMs: nftChange,
          },
          { name: `one endpoint change at ${label}, p99`, ms: p99, baseline: 'p50', baselineMs: changeMs },
        );
      }
    }
  } finally {
    engine?.remove();
    for (const server of servers) server.kill('SIGKILL');
    for (const { node } of lanes) await node[Symbol.asyncDispose]();
    rmSync(folder, { recursive: true, force: true });
  }
  return rows;
}

function loadIptables({ node, server }: Lane, count: number): number {
  const rules = ['*nat', ':SERVICES - [0:0]', '-F', '-X'];
  rules.push(':SERVICES - [0:0]', '-A PREROUTING -j SERVICES');
  for (let at = 0; at < count; at++) {
    rules.push(`:SVC${at} - [0:0]`, `:SEP${at} - [0:0]`);
    const target = at === count - 1 ? server.ip4 : elsewhere(at, 0);
    rules.push(
      `-A SERVICES -d ${serviceAddress(at)}/32 -p tcp -m tcp --dport 80 -j SVC${at}`,
      ...(at === count - 1
        ? [
            `-A SERVICES -d ${serviceAddress(at)}/32 -p tcp -m tcp --dport ${ECHO.port} -j DNAT --to-destination ${target}:${ECHO.target}`,
          ]
        : []),
      `-A SVC${at} -j SEP${at}`,
      `-A SEP${at} -p tcp -m tcp -j DNAT --to-destination ${target}:8080`,
    );
  }
  const began = performance.now();
  execFileSync('ip', ['netns', 'exec', node.prefix, 'iptables-legacy-restore'], {
    input: `${rules.join('\n')}\nCOMMIT\n`,
  });
  return performance.now() - began;
}

function loadNft({ node, server }: Lane, count: number): number {
  const lines = [
    'add table ip bench',
    'delete table ip bench',
    'table ip bench {',
    'map services { type ipv4_addr . inet_proto . inet_service : verdict; }',
    'chain pre { type nat hook prerouting priority dstnat; ip daddr . meta l4proto . th dport vmap @services; }',
  ];
  for (let at = 0; at < count; at++) {
    const target = at === count - 1 ? server.ip4 : elsewhere(at, 0);
    lines.push(`chain sep${at} { meta l4proto tcp dnat to ${target}:8080; }`);
    lines.push(`chain svc${at} { goto sep${at}; }`);
  }
  lines.push('}');
  const elements = Array.from(
    { length: count },
    (_, at) => `${serviceAddress(at)} . tcp . 80 : goto svc${at}`,
  );
  lines.push(`add element ip bench services { ${elements.join(', ')} }`);
  const echo = `${serviceAddress(count - 1)} . tcp . ${ECHO.port}`;
  lines.push(`add chain ip bench echo { meta l4proto tcp dnat to ${server.ip4}:${ECHO.target}; }`);
  lines.push(`add element ip bench services { ${echo} : goto echo }`);
  const began = performance.now();
  execFileSync('ip', ['netns', 'exec', node.prefix, 'nft', '-f', '-'], { input: `${lines.join('\n')}\n` });
  return performance.now() - began;
}

function changeNft({ node }: Lane): number {
  const times: number[] = [];
  for (let n = 0; n < 7; n++) {
    const input = `add chain ip bench new${n} { accept; }\nadd element ip bench services { 10.97.0.${n} . tcp . 80 : goto new${n} }\n`;
    const began = performance.now();
    execFileSync('ip', ['netns', 'exec', node.prefix, 'nft', '-f', '-'], { input });
    times.push(performance.now() - began);
  }
  return median(times);
}

if (startedAlone(import.meta.url)) {
  const { values } = parseArgs({
    options: {
      json: { type: 'boolean', default: false },
      rounds: { type: 'string', default: '7' },
      services: { type: 'string', default: '1,1000,10000' },
    },
  });
  const counts = values.services.split(',').map(Number);
  printRows(await bench({ rounds: Number(values.rounds), counts }), values.json);
}
