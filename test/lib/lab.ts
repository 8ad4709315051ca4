/** A private lab for a test: its own name and port, driven by the command line as a user drives it. */
import assert from 'node:assert/strict';
import { execFile, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cgroupRoot, removeCgroup } from '../../src/kernel/cgroup/index.ts';
import { distPath } from '../../src/kernel/paths.ts';
import { kubectls } from './kubectl.ts';

export interface Outcome {
  status: number;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  /** Text on standard input. */
  input?: string;
  env?: NodeJS.ProcessEnv;
  timeoutMs?: number;
}

/** Runs a program to its end; a failure is an outcome, not an exception. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = execFile(
      command,
      args,
      {
        encoding: 'utf8',
        maxBuffer: 64 << 20,
        timeout: options.timeoutMs ?? 60_000,
        env: { ...process.env, NO_COLOR: '1', ...options.env },
      },
      (error, stdout, stderr) => {
        const code = (error as { code?: unknown } | null)?.code;
        resolve({ status: error ? (typeof code === 'number' ? code : -1) : 0, stdout, stderr });
      },
    );
    // A program that ends without reading its input is none of ours to judge.
    child.stdin?.on('error', () => {});
    child.stdin?.end(options.input ?? '');
  });
}

/** The command line of the bundle, as ./portolan would start it, without its look at what must be built. */
export const portolanCommand: readonly string[] = [
  process.execPath,
  '--disable-warning=ExperimentalWarning',
  '--max-semi-space-size=4',
  distPath('portolan.js'),
];

export function portolan(args: readonly string[], options?: RunOptions): Promise<Outcome> {
  return run(portolanCommand[0]!, [...portolanCommand.slice(1), ...args], options);
}

/** A port of 127.0.0.1 that nobody listens on now. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}

export interface PodLinkRow {
  containerId: string;
  pod: string;
  netns: string;
  hostLink: string;
  addresses: string[];
  state: string;
}

export interface UpReport {
  name: string;
  nodes: { name: string; ready: boolean; podCidrs: string[]; pods: { name: string; ready: boolean }[] }[];
  probes: { from: string; to: string; family: 4 | 6; micros?: number; failure?: string }[];
  kubeconfig: string;
}

const open = new Set<Lab>();
let watched = false;

/** A test that is cut off must not leave a cluster behind. */
function watchExit(): void {
  if (watched) return;
  watched = true;
  process.on('exit', () => {
    for (const lab of open)
      spawnSync(portolanCommand[0]!, [...portolanCommand.slice(1), 'lab', 'down', '--name', lab.name]);
  });
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => process.exit(1));
}

/** A running lab. */
export class Lab {
  readonly name: string;
  readonly port: number;
  readonly kubeconfig: string;
  report: UpReport | undefined;
  readonly #home = mkdtempSync(join(tmpdir(), 'pt-lab-'));
  readonly #kubectl = kubectls().at(-1)!.path;

  constructor(name: string, port: number) {
    this.name = name;
    this.port = port;
    this.kubeconfig = `/run/${name}/apiserver/admin.kubeconfig`;
    open.add(this);
    watchExit();
  }

  /** `portolan lab VERB --name ... ARGS` */
  cli(verb: string, ...args: string[]): Promise<Outcome> {
    return portolan(['lab', verb, '--name', this.name, ...args], { timeoutMs: 120_000 });
  }

  /** kubectl, whatever its outcome. */
  tryKubectl(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
    return run(this.#kubectl, ['--kubeconfig', this.kubeconfig, ...args], {
      ...options,
      env: { HOME: this.#home },
    });
  }

  /** kubectl that must succeed; its output. */
  async kubectl(args: readonly string[], options: RunOptions = {}): Promise<string> {
    const { status, stdout, stderr } = await this.tryKubectl(args, options);
    assert.equal(status, 0, `kubectl ${args.join(' ')}: ${stderr}${stdout}`);
    return stdout;
  }

  async get<T = Record<string, unknown>>(...args: string[]): Promise<T> {
    return JSON.parse(await this.kubectl(['get', ...args, '-o', 'json'])) as T;
  }

  apply(manifest: unknown): Promise<string> {
    const objects = Array.isArray(manifest) ? { apiVersion: 'v1', kind: 'List', items: manifest } : manifest;
    return this.kubectl(['apply', '-f', '-'], {
      input: typeof objects === 'string' ? objects : JSON.stringify(objects),
    });
  }

  netns(node: string): string {
    return `/run/netns/${this.name}-${node}`;
  }

  cgroup(node: string, part: 'host' | 'pods' = 'host'): string {
    return join(cgroupRoot(), this.name, node, part);
  }

  /** A cgroup that is no node's: no socket hook sees what is in it. */
  get outside(): string {
    return join(cgroupRoot(), `${this.name}-outside`);
  }

  /** The words that run a command in a network namespace and a cgroup. */
  inside(netns: string, cgroup: string, command: readonly string[]): string[] {
    const enter =
      'mkdir -p "$0"; echo $$ > "$0/cgroup.procs"; net=$1; shift; exec nsenter "--net=$net" -- "$@"';
    return ['sh', '-c', enter, cgroup, netns, ...command];
  }

  /** Runs a command on a node, in its namespace and cgroup. */
  exec(node: string, command: readonly string[], options?: RunOptions): Promise<Outcome> {
    const [, ...args] = this.inside(this.netns(node), this.cgroup(node), command);
    return run('sh', args, options);
  }

  async mustExec(node: string, command: readonly string[]): Promise<string> {
    const { status, stdout, stderr } = await this.exec(node, command);
    assert.equal(status, 0, `${node}: ${command.join(' ')}: ${stderr}${stdout}`);
    return stdout;
  }

  async jsonExec<T = Record<string, unknown>[]>(node: string, command: readonly string[]): Promise<T> {
    return JSON.parse((await this.mustExec(node, command)) || '[]') as T;
  }

  /** Runs a command in the namespace and cgroup of a pod. */
  async podExec(node: string, pod: string, command: readonly string[], options?: RunOptions) {
    const [, ...args] = this.inside(await this.podNetns(node, pod), this.cgroup(node, 'pods'), command);
    return run('sh', args, options);
  }

  /** Asks an agent as `portolan ... --json` does. */
  async ask<T>(node: string, ...args: string[]): Promise<T> {
    const { stdout, stderr } = await portolan([...args, '--json'], {
      env: { PORTOLAN_STATE_DIR: `/run/${this.name}/${node}` },
    });
    assert.ok(stdout, `portolan ${args.join(' ')} on ${node}: ${stderr}`);
    return JSON.parse(stdout) as T;
  }

  podLinks(node: string): Promise<PodLinkRow[]> {
    return this.ask<PodLinkRow[]>(node, 'pod', 'links');
  }

  /** `pod` with its namespace, or one of namespace default. */
  async podNetns(node: string, pod: string): Promise<string> {
    const key = pod.includes('/') ? pod : `default/${pod}`;
    const found = (await this.podLinks(node)).find((row) => row.pod === key);
    assert.ok(found, `${pod} has no link on ${node}`);
    return found.netns;
  }

  /** Starts a command that goes on until stopped, on a node or in a namespace. */
  start(netns: string, cgroup: string, command: readonly string[]) {
    const [, ...args] = this.inside(netns, cgroup, command);
    return spawn('sh', args, { stdio: ['pipe', 'pipe', 'pipe'], env: process.env });
  }

  log(process: string): string {
    return readFileSync(`/run/${this.name}/${process}.log`, 'utf8');
  }

  waitReady(selector: string, seconds = 30): Promise<string> {
    return this.kubectl(['wait', '--for=condition=Ready', 'pod', '-l', selector, `--timeout=${seconds}s`]);
  }

  async down(): Promise<void> {
    const { status, stderr } = await this.cli('down');
    open.delete(this);
    await removeCgroup(this.outside);
    rmSync(this.#home, { recursive: true, force: true });
    assert.equal(status, 0, stderr);
  }
}

/** Starts a lab; it is gone again when that fails. PORTOLAN_POD_LINK=bridge runs any test of labs with bridged pods. */
export async function startLab(...words: string[]): Promise<Lab> {
  const kind = process.env['PORTOLAN_POD_LINK'];
  const args = kind && !words.includes('--pod-link') ? [...words, '--pod-link', kind] : words;
  const lab = new Lab(`pt-lab-${process.pid}-${open.size}`, await freePort());
  const { status, stdout, stderr } = await lab.cli('up', '--port', String(lab.port), '--json', ...args);
  if (status !== 0) {
    await lab.down();
    assert.fail(`lab up: exit ${status}: ${stderr}${stdout}`);
  }
  lab.report = JSON.parse(stdout) as UpReport;
  return lab;
}

/** A Pod as plain JSON; `command` runs as the host has it. */
export function podOf(
  name: string,
  command: readonly string[],
  options: {
    labels?: Record<string, string>;
    nodeName?: string;
    port?: number;
    container?: object;
    spec?: object;
  } = {},
) {
  const { labels = { app: name }, nodeName, port, container, spec } = options;
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, labels },
    spec: {
      terminationGracePeriodSeconds: 1,
      ...(nodeName && { nodeName }),
      containers: [
        {
          name: 'main',
          image: 'busybox',
          command,
          ...(port && { ports: [{ name: 'main', containerPort: port }] }),
          ...container,
        },
      ],
      ...spec,
    },
  };
}

/** A Service as plain JSON. */
export function serviceOf(
  name: string,
  selector: Record<string, string>,
  ports: readonly object[],
  spec: object = {},
) {
  return { apiVersion: 'v1', kind: 'Service', metadata: { name }, spec: { selector, ports, ...spec } };
}
