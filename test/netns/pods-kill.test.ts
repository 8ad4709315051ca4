import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { identify } from '../../src/kernel/process/identity.ts';
import { Agent, agentConfig, killPid, recordedPids } from '../lib/pod-kills.ts';
import { logLines, startPod, testNode } from '../lib/pods.ts';
import { eventually } from '../lib/until.ts';

const sh = (script: string) => ['sh', '-c', script];

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
  await eventually('end', () => runner.container(id)!.state === 'exited');
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
  await eventually('written', () => logLines(many.logPath).at(-1) === '20000');
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
  const ended = await eventually('end', () => {
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
