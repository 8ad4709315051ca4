/**
 * CNI ADD, 20 at a time: inside the agent, over its socket, and as a runtime sees it (executing the plugin), beside
 * Debian's containernetworking-plugins (bridge + host-local + portmap). Rounds alternate; figures are medians.
 *
 *   node test/bench/cni.ts [--json] [rounds]
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { conflist, decodeAnswer, encodeCall, installCni } from '../../src/cni/index.ts';
import { createNetns, deleteNetns, type Netns } from '../../src/kernel/netns/index.ts';
import { execPlugin } from '../lib/cnitool.ts';

export interface CniFigures {
  readonly parallel: number;
  /** From the accepted connection to the answer, ms. */
  readonly agentP50Ms: number;
  readonly agentP99Ms: number;
  /** CPU of all threads of the agent for one ADD over its socket, ms: says more than times where others work too. */
  readonly agentCpuMs: number;
  /** From connecting to having the answer, the wait for the 19 others included. */
  readonly socketP50Ms: number;
  readonly socketP99Ms: number;
  /** Executing the plugin, process start included. */
  readonly execP50Ms: number;
  readonly delP50Ms: number;
  /** One after the other, nothing else going on. */
  readonly singleExecMs: number;
  /** bridge + host-local + portmap; undefined when the package is not installed. */
  readonly referenceP50Ms: number | undefined;
  readonly referenceDelP50Ms: number | undefined;
  readonly referenceSingleMs: number | undefined;
}

const REFERENCE = '/usr/lib/cni';
const quantile = (values: number[], at: number) =>
  values.sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * at))]!;

/** CPU that a process has used, ms: /proc/PID/task/TID/schedstat, in nanoseconds. */
function cpuMs(pid: number): number {
  let ns = 0;
  for (const tid of readdirSync(`/proc/${pid}/task`))
    ns += Number(readFileSync(`/proc/${pid}/task/${tid}/schedstat`, 'utf8').split(' ')[0]);
  return ns / 1e6;
}

/** Milliseconds of each of the works, all started at once. */
async function timed(works: (() => Promise<unknown>)[]): Promise<number[]> {
  return Promise.all(
    works.map(async (work) => {
      const start = performance.now();
      await work();
      return performance.now() - start;
    }),
  );
}

export async function benchCni(rounds = 7, parallel = 20): Promise<CniFigures> {
  const prefix = `pbc${process.pid}`;
  const folder = mkdtempSync(join(tmpdir(), 'portolan-bench-cni-'));
  const made: string[] = [];
  const namespace = (name: string): Netns => {
    made.push(`${prefix}-${name}`);
    return createNetns(`${prefix}-${name}`);
  };
  const node = namespace('node');
  const other = namespace('ref');
  const pods = Array.from({ length: parallel }, (_, index) => namespace(`p${index}`));
  const { plugin } = installCni({
    binDir: join(folder, 'bin'),
    confDir: join(folder, 'net.d'),
    socketPath: join(folder, 'cni.sock'),
  });
  const agent = spawn(
    process.execPath,
    [join(import.meta.dirname, '../lib/cni-agent.ts'), folder, node.path],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  try {
    const lines = createInterface({ input: agent.stdout });
    await once(lines, 'line');
    const agentTimes = async (): Promise<number[]> => {
      const line = once(lines, 'line');
      agent.kill('SIGUSR2');
      return JSON.parse((await line)[0]);
    };
    const { plugins, name } = conflist() as { plugins: [object]; name: string };
    const config = JSON.stringify({ ...plugins[0], name, cniVersion: '1.0.0' });
    const env = (command: string, pod: Netns) => ({
      CNI_COMMAND: command,
      CNI_CONTAINERID: pod.path.split('/').at(-1)!,
      CNI_NETNS: pod.path,
      CNI_IFNAME: 'eth0',
      CNI_PATH: REFERENCE,
      PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
    });
    const mustRun = async (path: string, command: string, pod: Netns, stdin: string) => {
      const run = await execPlugin(path, env(command, pod), stdin);
      if (run.status !== 0) throw new Error(`${path} ${command}: ${run.stdout}${run.stderr}`);
      return run.stdout;
    };
    const ours = (command: string) => (pod: Netns) => mustRun(plugin, command, pod, config);
    const overSocket = (pod: Netns) =>
      new Promise<void>((resolve, reject) => {
        const chunks: Buffer[] = [];
        const socket = connect(join(folder, 'cni.sock'));
        socket.on('data', (chunk: Buffer) => chunks.push(chunk));
        socket.on('error', reject);
        socket.on('close', () => {
          if (chunks.length === 0) return reject(new Error('the agent closed without an answer'));
          const { status, stdout } = decodeAnswer(Buffer.concat(chunks));
          if (status === 0) resolve();
          else reject(new Error(stdout));
        });
        socket.end(encodeCall(env('ADD', pod), config));
      });

    // The plugins work in their caller's namespace.
    const data = join(folder, 'host-local');
    mkdirSync(data);
    const inRef = async (path: string, command: string, pod: Netns, stdin: object) => {
      const child = spawn('nsenter', [`--net=${other.path}`, path], { env: env(command, pod) });
      child.stdin.end(JSON.stringify(stdin));
      let text = '';
      child.stdout.on('data', (chunk) => {
        text += chunk;
      });
      const [status] = await once(child, 'close');
      if (status !== 0) throw new Error(`${path} ${command}: ${text}`);
      return text;
    };
    const bridge = {
      cniVersion: '1.0.0',
      name: 'ref',
      type: 'bridge',
      bridge: 'cni0',
      isGateway: true,
      ipMasq: true,
      ipam: { type: 'host-local', dataDir: data, ranges: [[{ subnet: '10.88.0.0/16' }]] },
    };
    const portmap = { cniVersion: '1.0.0', name: 'ref', type: 'portmap' };
    const reference = (command: string) => async (pod: Netns) => {
      if (command === 'ADD') {
        const prevResult = JSON.parse(await inRef(join(REFERENCE, 'bridge'), 'ADD', pod, bridge));
        await inRef(join(REFERENCE, 'portmap'), 'ADD', pod, { ...portmap, prevResult });
      } else {
        await inRef(join(REFERENCE, 'portmap'), 'DEL', pod, portmap);
        await inRef(join(REFERENCE, 'bridge'), 'DEL', pod, bridge);
      }
    };
    const hasReference = ['bridge', 'host-local', 'portmap'].every((each) =>
      existsSync(join(REFERENCE, each)),
    );

    const all: Record<
      'agent' | 'cpu' | 'socket' | 'exec' | 'del' | 'single' | 'ref' | 'refDel' | 'refSingle',
      number[]
    > = {
      agent: [],
      cpu: [],
      socket: [],
      exec: [],
      del: [],
      single: [],
      ref: [],
      refDel: [],
      refSingle: [],
    };
    const [first] = pods as [Netns];
    for (let round = -1; round < rounds; round++) {
      const kept = (times: number[]) => (round < 0 ? [] : times); // the first round warms up
      const each = (work: (pod: Netns) => Promise<unknown>) => timed(pods.map((pod) => () => work(pod)));
      all.exec.push(...kept(await each(ours('ADD'))));
      await agentTimes();
      all.del.push(...kept(await each(ours('DEL'))));
      const before = cpuMs(agent.pid!);
      all.socket.push(...kept(await each(overSocket)));
      all.cpu.push(...kept([(cpuMs(agent.pid!) - before) / parallel]));
      all.agent.push(...kept(await agentTimes()));
      await each(ours('DEL'));
      all.single.push(...kept(await timed([() => ours('ADD')(first)])));
      await ours('DEL')(first);
      await agentTimes();
      if (!hasReference) continue;
      all.ref.push(...kept(await each(reference('ADD'))));
      all.refDel.push(...kept(await each(reference('DEL'))));
      all.refSingle.push(...kept(await timed([() => reference('ADD')(first)])));
      await reference('DEL')(first);
    }
    const p50 = (values: number[]) => quantile(values, 0.5);
    return {
      parallel,
      agentP50Ms: p50(all.agent),
      agentP99Ms: quantile(all.agent, 0.99),
      agentCpuMs: p50(all.cpu),
      socketP50Ms: p50(all.socket),
      socketP99Ms: quantile(all.socket, 0.99),
      execP50Ms: p50(all.exec),
      delP50Ms: p50(all.del),
      singleExecMs: p50(all.single),
      referenceP50Ms: hasReference ? p50(all.ref) : undefined,
      referenceDelP50Ms: hasReference ? p50(all.refDel) : undefined,
      referenceSingleMs: hasReference ? p50(all.refSingle) : undefined,
    };
  } finally {
    const exited = once(agent, 'exit');
    agent.kill('SIGKILL');
    await exited;
    for (const netns of [node, other, ...pods]) netns.close();
    for (const name of made) deleteNetns(name);
    rmSync(folder, { recursive: true, force: true });
  }
}

if (import.meta.main) {
  const args = process.argv.slice(2);
  const figures = await benchCni(Number(args.find((arg) => /^\d+$/.test(arg)) ?? 7));
  if (args.includes('--json')) process.stdout.write(`${JSON.stringify(figures)}\n`);
  else {
    const f = figures;
    const ms = (value: number | undefined) =>
      value === undefined ? 'not installed' : `${value.toFixed(1)} ms`;
    const ratio = (ours: number, theirs: number | undefined) =>
      theirs === undefined ? '' : ` (${(theirs / ours).toFixed(1)}x)`;
    process.stdout.write(
      [
        `ADD, ${f.parallel} at once, inside the agent    p50 ${ms(f.agentP50Ms)}, p99 ${ms(f.agentP99Ms)}, CPU ${f.agentCpuMs.toFixed(2)} ms each`,
        `ADD, ${f.parallel} at once, over the socket     p50 ${ms(f.socketP50Ms)}, p99 ${ms(f.socketP99Ms)}`,
        `ADD, ${f.parallel} at once, plugin executed     p50 ${ms(f.execP50Ms)}   bridge+host-local+portmap ${ms(f.referenceP50Ms)}${ratio(f.execP50Ms, f.referenceP50Ms)}`,
        `DEL, ${f.parallel} at once, plugin executed     p50 ${ms(f.delP50Ms)}   bridge+host-local+portmap ${ms(f.referenceDelP50Ms)}${ratio(f.delP50Ms, f.referenceDelP50Ms)}`,
        `ADD, alone, plugin executed          p50 ${ms(f.singleExecMs)}   bridge+host-local+portmap ${ms(f.referenceSingleMs)}${ratio(f.singleExecMs, f.referenceSingleMs)}`,
        '',
      ].join('\n'),
    );
  }
}
