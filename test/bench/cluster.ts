/**
 * A control plane and one node's agent as processes of the bundle, all in the network namespace of this process,
 * which must be one of its own: API server, controllers, agent, and many Services that nobody asks for.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { issueControllerKubeconfig, issueNodeKubeconfig, kubeconfigText } from '../../src/apiserver/index.ts';
import { ensureBpffs } from '../../src/kernel/bpf/index.ts';
import { cgroupRoot, ensureCgroup, removeCgroup } from '../../src/kernel/cgroup/index.ts';
import { distPath } from '../../src/kernel/paths.ts';
import { type Access, accessOf, call } from '../lib/api-access.ts';

export const NODE = 'bench-node';
/** Address of the node, and of the one endpoint that answers. */
export const NODE_IP = '192.0.2.1';
const PORT = 6443;

export interface RunningAgent {
  readonly pid: number;
  readonly cgroup: string;
  /** From starting the process until all Services are in the data path. */
  readonly readyMs: number;
  /** The same from when it began to list. */
  readonly syncMs: number;
  stop(): Promise<void>;
}

export class BenchCluster {
  readonly folder = mkdtempSync(join(tmpdir(), 'pt-bench-cl-'));
  readonly #children: ChildProcess[] = [];
  readonly #closing: (() => Promise<void> | void)[] = [];
  readonly #bpffs = ensureBpffs(join(this.folder, 'bpf'));
  access!: Access;
  #agents = 0;
  #services = 0;

  /** Starts API server and controllers. */
  async start(): Promise<void> {
    const ip = (words: string) => execFileSync('ip', words.split(' '));
    ip('link set lo up');
    ip('link add eth0 type veth peer name far');
    ip(`addr add ${NODE_IP}/24 dev eth0`);
    ip('link set eth0 up');
    ip('link set far up');
    ip('route add default via 192.0.2.254');
    const dataDir = join(this.folder, 'api');
    const server = this.spawn(
      'apiserver',
      ...['--data-dir', dataDir, '--listen', `127.0.0.1:${PORT}`, '--cluster-cidr', '10.0.0.0/10'],
    );
    this.serverPid = server.pid!;
    for (let tries = 0; ; tries++) {
      try {
        this.access = accessOf(join(dataDir, 'admin.kubeconfig'));
        if ((await call(this.access, 'GET', '/readyz')).status === 200) break;
      } catch (error) {
        if (tries > 200) throw error;
      }
      await sleep(50);
    }
    const url = `https://127.0.0.1:${PORT}`;
    const write = (name: string, text: string) => {
      const path = join(this.folder, name);
      writeFileSync(path, text, { mode: 0o600 });
      return path;
    };
    const controller = write(
      'controller.kubeconfig',
      kubeconfigText(await issueControllerKubeconfig(dataDir, url)),
    );
    write('node.kubeconfig', kubeconfigText(await issueNodeKubeconfig(dataDir, NODE, url)));
    await this.post('/api/v1/namespaces', { metadata: { name: 'bench' } });
    // A kubelet's work.
    await this.post('/api/v1/nodes', { metadata: { name: NODE } });
    this.spawn(
      'controller',
      ...['--kubeconfig', controller, '--cluster-cidr', '10.0.0.0/10'],
      ...['--node-monitor-grace-period', '3600', '--log-level', 'error'],
    );
  }

  serverPid = 0;

  spawn(...words: string[]): ChildProcess {
    const child = spawn(
      process.execPath,
      ['--disable-warning=ExperimentalWarning', distPath('portolan.js'), ...words],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    this.#children.push(child);
    let told = '';
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      told = (told + text).slice(-2000);
    });
    child.once('exit', (code) => {
      if (code) process.stderr.write(`portolan ${words[0]} ended with ${code}: ${told}\n`);
    });
    return child;
  }

  async request(method: string, path: string, body?: object): Promise<Record<string, unknown>> {
    const type = method === 'PATCH' ? { 'content-type': 'application/merge-patch+json' } : {};
    const answer = await call(this.access, method, path, body, type);
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${JSON.stringify(answer.body)}`);
    return answer.body as Record<string, unknown>;
  }

  post(path: string, body: object): Promise<Record<string, unknown>> {
    return this.request('POST', path, body);
  }

  /** 16 at a time. */
  async inParallel(from: number, to: number, work: (n: number) => Promise<unknown>): Promise<void> {
    let next = from;
    const worker = async () => {
      for (let n = next++; n < to; n = next++) await work(n);
    };
    await Promise.all(Array.from({ length: 16 }, worker));
  }

  /** Services of ten endpoints each, until there are so many. */
  async fill(count: number): Promise<void> {
    await this.inParallel(this.#services, count, async (n) => {
      await this.post('/api/v1/namespaces/bench/services', serviceOf(`svc-${n}`));
      const endpoints = Array.from({ length: 10 }, (_, e) => ({
        addresses: [`10.${128 + (n >> 12)}.${(n >> 4) & 255}.${((n & 15) << 4) + e}`],
        conditions: { ready: true, serving: true, terminating: false },
        nodeName: `node-${e % 3}`,
      }));
      await this.post(slicesPath, sliceOf(`svc-${n}`, endpoints));
    });
    this.#services = count;
  }

  /** A fresh agent: no pins, no state of a former one. */
  async startAgent(): Promise<RunningAgent> {
    const n = this.#agents++;
    const cgroup = join(cgroupRoot(), `pt-bench-cl${process.pid}-${n}`);
    const bpffs = join(this.#bpffs, String(n));
    ensureCgroup(cgroup);
    this.#closing.push(() => removeCgroup(cgroup));
    mkdirSync(bpffs);
    const began = performance.now();
    const child = this.spawn(
      'agent',
      ...['--kubeconfig', join(this.folder, 'node.kubeconfig'), '--node-name', NODE],
      ...['--state-dir', join(this.folder, `agent-${n}`), '--bpffs', bpffs, '--cgroup', cgroup],
      ...['--cluster-cidr', '10.0.0.0/10', '--pods', 'none', '--json'],
    );
    let text = '';
    let listedAt = began;
    const readyMs = await new Promise<number>((resolve, reject) => {
      child.stderr!.on('data', (chunk: string) => {
        text += chunk;
        if (listedAt === began && text.includes('agent started')) listedAt = performance.now();
        if (text.includes('Services are programmed')) resolve(performance.now() - began);
      });
      child.once('exit', (code) => reject(new Error(`the agent ended with ${code}: ${text}`)));
    });
    return {
      pid: child.pid!,
      cgroup,
      readyMs,
      syncMs: readyMs - (listedAt - began),
      stop: () => ended(child),
    };
  }

  async close(): Promise<void> {
    for (const child of this.#children.reverse()) await ended(child);
    this.access?.agent.destroy();
    for (const close of this.#closing) await close();
    execFileSync('umount', ['-l', this.#bpffs]);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export const slicesPath = '/apis/discovery.k8s.io/v1/namespaces/bench/endpointslices';

/** Without a selector, unless one is given. */
export function serviceOf(name: string, selector?: Record<string, string>): object {
  return {
    metadata: { name },
    spec: { ...(selector && { selector }), ports: [{ name: 'http', port: 80, targetPort: 8080 }] },
  };
}

export function sliceOf(service: string, endpoints: readonly object[]): object {
  return {
    metadata: { name: `${service}-1`, labels: { 'kubernetes.io/service-name': service } },
    addressType: 'IPv4',
    endpoints,
    ports: [{ name: 'http', port: 8080, protocol: 'TCP' }],
  };
}

/** Sends SIGTERM, and SIGKILL after 5 s. */
async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.kill('SIGTERM');
  const late = setTimeout(() => child.kill('SIGKILL'), 5000);
  await exit;
  clearTimeout(late);
}

/** Resident memory in MiB now, and at its highest: VmRSS and VmHWM of /proc/PID/status are in kB. */
export function memoryMiB(pid: number): { now: number; peak: number } {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8');
  const of = (name: string) => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(text)?.[1]) / 1024;
  return { now: of('VmRSS'), peak: of('VmHWM') };
}

/** CPU time of all threads in ms, by schedstat: finer than the clock ticks of stat. */
export function cpuMs(pid: number): number {
  let sum = 0;
  for (const task of readdirSync(`/proc/${pid}/task`))
    sum += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')[0]);
  return sum / 1e6;
}
