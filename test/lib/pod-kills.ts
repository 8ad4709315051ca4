/** Killing from outside: the agent of pod-agent.ts as a process, and the processes that the records name. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { identify } from '../../src/kernel/process/identity.ts';
import type { PodAgentConfig } from './pod-agent.ts';
import type { TestNode } from './pods.ts';

/** Pids that the records name: process 1 of sandboxes, containers and their monitors. */
export function recordedPids(stateDir: string): { kind: string; pid: number }[] {
  const found: { kind: string; pid: number }[] = [];
  for (const kind of ['sandboxes', 'containers']) {
    const folder = join(stateDir, 'pods', kind);
    for (const id of existsSync(folder) ? readdirSync(folder) : []) {
      const path = join(folder, id, 'pid');
      if (!existsSync(path) || existsSync(join(folder, id, 'exit'))) continue;
      const [pid, start, monitor, monitorStart] = readFileSync(path, 'utf8').trim().split(' ').map(Number);
      if (isThat(pid, start)) found.push({ kind: kind === 'sandboxes' ? 'sandbox' : 'container', pid: pid! });
      if (isThat(monitor, monitorStart)) found.push({ kind: 'monitor', pid: monitor! });
    }
  }
  return found;
}

function isThat(pid: number | undefined, startTicks: number | undefined): boolean {
  const found = pid === undefined ? undefined : identify(pid);
  return found !== undefined && found.startTicks === startTicks;
}

export function killPid(pid: number) {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It ended in between.
  }
}

export class Agent {
  readonly child: ChildProcess;
  readonly lines: AsyncIterator<string>;
  errors = '';

  constructor(config: PodAgentConfig) {
    this.child = spawn(
      process.execPath,
      [join(import.meta.dirname, 'pod-agent.ts'), JSON.stringify(config)],
      {
        stdio: ['pipe', 'pipe', 'pipe'],
      },
    );
    this.child.stderr!.on('data', (chunk: Buffer) => {
      this.errors += chunk;
    });
    this.lines = createInterface({ input: this.child.stdout! })[Symbol.asyncIterator]();
  }

  async next(): Promise<string | undefined> {
    const { value, done } = await this.lines.next();
    return done ? undefined : value;
  }

  async ask(line: string): Promise<string | undefined> {
    this.child.stdin!.write(`${line}\n`);
    return this.next();
  }

  async killed(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.child.once('exit', resolve));
    this.child.kill('SIGKILL');
    await ended;
  }
}

export function agentConfig(node: TestNode, count: number): PodAgentConfig {
  const { stateDir, cgroupRoot } = node;
  return { stateDir, cgroupRoot, netnsPrefix: node.options.netnsPrefix!, count };
}
