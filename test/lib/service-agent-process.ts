/** Runs service-agent.ts for tests that kill it and start it again. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import type { AgentInput } from './service-agent.ts';
import type { ServiceNode, TestPod } from './services.ts';

export class ServiceAgentProcess {
  static readonly script = join(import.meta.dirname, 'service-agent.ts');
  #child: ChildProcess | undefined;

  /** Starts it, from another version's script if one is given; resolves after its first sync to the changes of that. */
  async start(input: AgentInput, script = ServiceAgentProcess.script): Promise<number> {
    const child = spawn(process.execPath, [script, JSON.stringify(input)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.#child = child;
    const line = await new Promise<string>((resolve, reject) => {
      child.stdout.once('data', (data: Buffer) => resolve(data.toString()));
      child.once('exit', (code) => reject(new Error(`agent ended with ${code}`)));
    });
    return Number(line.split(' ')[1]);
  }

  /** Kills it, if it runs, and waits for its end. */
  async kill(): Promise<void> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  }
}

/** Adds three pods that serve: two are endpoints all the time, the third comes and goes. */
export async function agentInput(
  node: ServiceNode,
  more: Pick<AgentInput, 'vip' | 'others' | 'affinity' | 'outside'>,
): Promise<AgentInput> {
  const servers: TestPod[] = ['one', 'two', 'three'].map((name) => node.addPod(name));
  for (const pod of servers) await node.serve(pod.name, pod.netns, pod.ip4, 8080);
  return {
    bpffs: node.bpffs,
    cgroup: node.cgroup,
    netns: node.prefix,
    podLinks: node.pods.map((pod) => pod.ifindex),
    endpoints: servers.slice(0, 2).map((pod) => pod.ip4),
    flapping: servers[2]!.ip4,
    ...more,
  };
}
