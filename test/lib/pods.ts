/** A process runner with a state folder, a cgroup and a fake network of its own, and what tests ask of it. */
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { ensureCgroup, removeCgroup } from '../../src/kernel/cgroup/index.ts';
import { ProcessRunner, type ProcessRunnerOptions } from '../../src/pods/process/runner.ts';
import type { ContainerConfig, NetworkRequest, PodNetwork, SandboxConfig } from '../../src/pods/types.ts';

const run = promisify(execFile);
let counter = 0;

/** Remembers who has an address; the namespace keeps its loopback only. */
export class FakeNetwork implements PodNetwork {
  readonly attached = new Map<string, string>();
  failNext: Error | undefined;
  #next = 1;

  async add(request: NetworkRequest) {
    if (this.failNext) {
      const error = this.failNext;
      this.failNext = undefined;
      throw error;
    }
    let ip = this.attached.get(request.sandboxId);
    if (!ip) {
      ip = `10.99.${this.#next >> 8}.${this.#next & 255}`;
      this.#next++;
      this.attached.set(request.sandboxId, ip);
    }
    return { ips: [ip] };
  }

  async del(request: NetworkRequest) {
    this.attached.delete(request.sandboxId);
  }
}

/** Where cgroup2 is: alone, or beside version 1. */
export const cgroup2 = existsSync('/sys/fs/cgroup/cgroup.procs')
  ? '/sys/fs/cgroup'
  : '/sys/fs/cgroup/unified';

export interface TestNode extends AsyncDisposable {
  stateDir: string;
  cgroupRoot: string;
  network: FakeNetwork;
  options: ProcessRunnerOptions;
  open(): Promise<ProcessRunner>;
  /** Called before everything is taken away, also after a failed test. */
  closers: (() => Promise<void>)[];
  /** Ends everything and says what was left behind; empty when nothing. */
  leftovers(runner: ProcessRunner): Promise<string[]>;
}

export function testNode(): TestNode {
  const name = `pt-pods-${process.pid}-${counter++}`;
  const stateDir = mkdtempSync(join(tmpdir(), `${name}-`));
  const cgroupRoot = join(cgroup2, name);
  ensureCgroup(cgroupRoot);
  const network = new FakeNetwork();
  const netnsPrefix = `${name}-`;
  const options: ProcessRunnerOptions = { stateDir, cgroupRoot, network, netnsPrefix, log: () => {} };
  const removeAll = async (runner: ProcessRunner) => {
    for (const sandbox of runner.sandboxes()) await runner.removeSandbox(sandbox.id);
    await runner.close();
  };
  const closers: (() => Promise<void>)[] = [];
  return {
    stateDir,
    cgroupRoot,
    network,
    options,
    closers,
    async open() {
      const runner = await ProcessRunner.open(options);
      closers.unshift(() => runner.close());
      return runner;
    },
    async leftovers(runner) {
      await removeAll(runner);
      const left: string[] = [];
      const mounts = readFileSync('/proc/self/mountinfo', 'utf8');
      if (mounts.includes(name)) left.push('mounts');
      if (network.attached.size > 0) left.push('addresses');
      const { stdout: names } = await run('ip', ['netns', 'list']);
      if (names.includes(netnsPrefix)) left.push(`network namespaces ${names}`);
      const { stdout: groups } = await run('find', [cgroupRoot, '-mindepth', '1', '-type', 'd']);
      if (groups.trim()) left.push(`cgroups ${groups}`);
      for (const kind of ['sandboxes', 'containers']) {
        const { stdout } = await run('find', [join(stateDir, 'pods', kind), '-mindepth', '1']);
        if (stdout.trim()) left.push(`records ${stdout}`);
      }
      return left;
    },
    async [Symbol.asyncDispose]() {
      for (const close of closers) await close();
      await removeAll(
        await ProcessRunner.open({ ...options, network: { add: network.add, del: async () => {} } }),
      );
      await removeCgroup(cgroupRoot);
      rmSync(stateDir, { recursive: true, force: true });
    },
  };
}

export function sandboxConfig(overrides: Partial<SandboxConfig> = {}): SandboxConfig {
  const number = counter++;
  return {
    metadata: {
      name: `pod-${number}`,
      namespace: 'default',
      uid: `uid-${process.pid}-${number}`,
      attempt: 0,
    },
    hostname: `pod-${number}`,
    hostNetwork: false,
    dns: { servers: ['10.96.0.10'], searches: ['default.svc.cluster.local'], options: ['ndots:5'] },
    sysctls: {},
    memoryVolumes: [],
    hostAliases: [],
    labels: {},
    annotations: {},
    ...overrides,
  };
}

export function containerConfig(
  node: TestNode,
  command: string[],
  overrides: Partial<ContainerConfig> = {},
): ContainerConfig {
  const number = counter++;
  return {
    name: `c${number}`,
    attempt: 0,
    image: 'busybox',
    command,
    workingDir: '/',
    env: [],
    mounts: [],
    security: {
      uid: 0,
      gid: 0,
      groups: [],
      privileged: false,
      addCapabilities: [],
      dropCapabilities: [],
      noNewPrivileges: false,
    },
    logPath: join(node.stateDir, `logs/${number}/0.log`),
    terminationMessagePath: '/dev/termination-log',
    ...overrides,
  };
}

/** Starts a command in a new sandbox; returns both ids. */
export async function startPod(
  node: TestNode,
  runner: ProcessRunner,
  command: string[],
  overrides: { sandbox?: Partial<SandboxConfig>; container?: Partial<ContainerConfig> } = {},
): Promise<{ sandboxId: string; id: string; logPath: string }> {
  const sandboxId = await runner.runSandbox(sandboxConfig(overrides.sandbox));
  const config = containerConfig(node, command, overrides.container);
  const id = await runner.createContainer(sandboxId, config);
  await runner.startContainer(id);
  return { sandboxId, id, logPath: config.logPath };
}

/** Text of the log lines of a stream, without time and tag; rotated files are not read. */
export function logLines(path: string, stream = 'stdout'): string[] {
  if (!existsSync(path)) return [];
  return readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line.split(' ')[1] === stream)
    .map((line) => line.split(' ').slice(3).join(' '));
}
