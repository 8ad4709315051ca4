import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { identify } from '../../src/kernel/process/identity.ts';
import type { PodAgentConfig } from '../lib/pod-agent.ts';
import { logLines, startPod, type TestNode, testNode, until } from '../lib/pods.ts';

const sh = (script: string) => ['sh', '-c', script];

/** Pids that the records name: process 1 of sandboxes, containers and their monitors. */
function recordedPids(stateDir: string): { kind: string; pid: number }[] {
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

function killPid(pid: number) {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It ended in between.
  }
}

class Agent {
  readonly child: ChildProcess;
  readonly lines: AsyncIterator<string>;
  errors = '';

  constructor(config: PodAgentConfig) {
    this.child = spawn(
      process.execPath,
      [join(import.meta.dirname, '../lib/pod-agent.ts'), JSON.stringify(config)],
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

function agentConfig(node: TestNode, count: number): PodAgentConfig {
  const { stateDir, cgroupRoot } = node;
  return { stateDir, cgroupRoot, netnsPrefix: node.options.netnsPrefix!, count };
}

test('the log is in CRI format, long lines come in parts, and files rotate at their bound', async () => {
  await using node = testNode();
  node.options.logMaxBytes = 100_000;
  node.options.logFiles = 3;
  const runner = await node.open();
  const { id, logPath } = await startPod(
    node,
    runner,
    sh(`echo one; echo two >&2; printf 'a%.0s' $(seq 20000); echo; printf end`),
  );
  await until('end', () => runner.container(id)!.state === 'exited');
  const lines = readFileSync(logPath, 'utf8').trimEnd().split('\n');
  for (const line of lines)
    assert.match(line, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) [FP] /);
  const parts = lines.filter((line) => / stdout /.test(line)).map((line) => line.split(' ').slice(2));
  assert.deepEqual(
    parts.map(([tag, text]) => [tag, text!.length]),
    [
      ['F', 3],
      ['P', 16384],
      ['F', 20000 - 16384],
      ['F', 3],
    ],
  );
  assert.deepEqual(logLines(logPath, 'stderr'), ['two']);
  const many = await startPod(node, runner, sh('seq -w 1 20000; exec sleep 60'));
  await until('written', () => logLines(many.logPath).at(-1) === '20000');
  const files = [many.logPath, `${many.logPath}.1`, `${many.logPath}.2`];
  for (const file of files) assert.ok(existsSync(file), file);
  assert.ok(!existsSync(`${many.logPath}.3`));
  const all = files.toReversed().flatMap((file) => logLines(file).map(Number));
  assert.deepEqual(
    all,
    Array.from({ length: all.length }, (_, i) => 20_000 - all.length + 1 + i),
    'none lost between files',
  );
  assert.deepEqual(await node.leftovers(runner), []);
});

test('stopping sends SIGTERM, waits the grace, then kills everything the container started', async () => {
  await using node = testNode();
  const runner = await node.open();
  const polite = await startPod(
    node,
    runner,
    sh('trap "echo bye; exit 4" TERM; while :; do sleep 0.01; done'),
  );
  const stubborn = await startPod(
    node,
    runner,
    sh('trap "" TERM; sleep 3601 & while :; do sleep 0.01; done'),
  );
  await sleep(50);
  await runner.stopContainer(polite.id, 5_000);
  assert.equal(runner.container(polite.id)!.exitCode, 4);
  assert.deepEqual(logLines(polite.logPath), ['bye']);
  const startedMs = performance.now();
  await runner.stopContainer(stubborn.id, 200);
  assert.ok(performance.now() - startedMs >= 195);
  assert.equal(runner.container(stubborn.id)!.exitCode, 137);
  const inside = execFileSync(
    'ps',
    ['-eo', 'args=', '--ppid', String(runner.sandbox(stubborn.sandboxId)!.pid)],
    {
      encoding: 'utf8',
    },
  );
  assert.ok(
    !inside.includes('sleep 3601') ||
      !execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' }).includes('sleep 3601'),
  );
  assert.deepEqual(await node.leftovers(runner), []);
});

test('when a monitor is killed its container goes, and the runner says so', async () => {
  await using node = testNode();
  const runner = await node.open();
  const { id } = await startPod(node, runner, sh('sleep 3602 & exec sleep 3603'));
  const { pid } = runner.container(id)!;
  const monitor = recordedPids(node.stateDir).find((one) => one.kind === 'monitor')!;
  killPid(monitor.pid);
  const ended = await until('end', () => {
    const status = runner.container(id)!;
    return status.state === 'exited' && status;
  });
  assert.deepEqual([ended.reason, ended.exitCode], ['MonitorLost', 137]);
  // Its parent was the monitor, so it is the host's first process that takes the zombie away, some time.
  assert.equal(identify(pid!), undefined);
  assert.doesNotMatch(execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' }), /sleep 360[23]/);
  assert.deepEqual(await node.leftovers(runner), []);
});

test('an agent that is killed finds its pods again, with their logs complete', async () => {
  await using node = testNode();
  const config = agentConfig(node, 3);
  const first = new Agent(config);
  assert.equal(await first.next(), 'started');
  assert.equal(await first.ask('ready?'), 'ready');
  const before = recordedPids(node.stateDir)
    .map((one) => one.pid)
    .sort();
  assert.equal(before.length, 9);
  await first.killed();
  await sleep(150);
  const second = new Agent(config);
  assert.equal(await second.next(), 'started');
  assert.equal(await second.ask('ready?'), 'ready');
  assert.deepEqual(
    recordedPids(node.stateDir)
      .map((one) => one.pid)
      .sort(),
    before,
  );
  const [folder] = readdirSync(join(node.stateDir, 'pods/logs'));
  const log = join(node.stateDir, 'pods/logs', folder!, 'c/0.log');
  const times = readFileSync(log, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => Date.parse(line.split(' ')[0]!));
  for (let i = 1; i < times.length; i++)
    assert.ok(times[i]! - times[i - 1]! < 1000, 'no gap while nobody was there');
  await second.ask('drop');
  assert.equal(second.errors, '');
  assert.deepEqual(await node.leftovers(await node.open()), []);
});

test('fifty random kills of agent, sandboxes, monitors and containers leave nothing behind', async (t) => {
  await using node = testNode();
  const config = agentConfig(node, 6);
  let seed = Number(process.env['SEED'] ?? Date.now() % 100_000);
  t.diagnostic(`SEED=${seed}`);
  const random = () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return seed / 2 ** 32;
  };
  let agent = new Agent(config);
  node.closers.push(() => agent.killed());
  assert.equal(await agent.next(), 'started');
  const kinds: Record<string, number> = {};
  for (let i = 0; i < 50; i++) {
    await sleep(random() * 40);
    const pids = recordedPids(node.stateDir);
    const victim = random() < 0.2 ? undefined : pids[Math.floor(random() * pids.length)];
    const kind = victim?.kind ?? 'agent';
    kinds[kind] = (kinds[kind] ?? 0) + 1;
    if (victim) {
      killPid(victim.pid);
      continue;
    }
    await agent.killed();
    agent = new Agent(config);
    // Sometimes killed again before it has even looked around.
    if (random() < 0.7) assert.equal(await agent.next(), 'started', agent.errors);
  }
  t.diagnostic(JSON.stringify(kinds));
  await agent.killed();
  agent = new Agent(config);
  assert.equal(await agent.next(), 'started', agent.errors);
  assert.equal(await agent.ask('ready?'), 'ready', agent.errors);
  const pids = recordedPids(node.stateDir);
  assert.equal(pids.length, 18, JSON.stringify(pids));
  const inGroups = execFileSync('sh', ['-c', `cat $(find ${node.cgroupRoot} -name cgroup.procs) | wc -l`], {
    encoding: 'utf8',
  });
  // A pod is process 1, a monitor, the shell, its sleep, and the sleep of the moment.
  assert.ok(Number(inGroups) <= 6 * 5, `${inGroups} processes`);
  await agent.ask('drop');
  const addresses = readdirSync(join(node.stateDir, 'addresses'));
  assert.deepEqual(addresses, []);
  for (const { pid } of pids)
    assert.ok(!existsSync(`/proc/${pid}/root`) || readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z'));
  assert.deepEqual(await node.leftovers(await node.open()), []);
});
