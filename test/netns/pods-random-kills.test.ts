/** Pods under random kills: whatever dies whenever, the node comes back to what it should run and leaks nothing. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, agentConfig, killPid, recordedPids } from '../lib/pod-kills.ts';
import { testNode } from '../lib/pods.ts';

const PODS = 4;

test('fifty kills of the pod runner, and fifty of sandboxes, monitors and containers, leave nothing behind', async (t) => {
  await using node = testNode();
  const config = agentConfig(node, PODS);
  let seed = Number(process.env['SEED'] ?? Date.now() % 100_000);
  t.diagnostic(`SEED=${seed}`);
  const random = () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return seed / 2 ** 32;
  };
  let agent = new Agent(config);
  node.closers.push(() => agent.killed());
  const kinds: Record<string, number> = {};
  for (let i = 0; i < 50; i++) {
    // Sometimes it is killed before it has even looked around, sometimes in the middle of starting pods.
    if (random() < 0.6) assert.equal(await agent.next(), 'started', agent.errors);
    await sleep(random() * 60);
    const pids = recordedPids(node.stateDir);
    const victim = pids[Math.floor(random() * pids.length)];
    if (victim) {
      kinds[victim.kind] = (kinds[victim.kind] ?? 0) + 1;
      killPid(victim.pid);
    }
    await sleep(random() * 30);
    await agent.killed();
    agent = new Agent(config);
  }
  t.diagnostic(JSON.stringify(kinds));
  assert.equal(await agent.next(), 'started', agent.errors);
  assert.equal(await agent.ask('ready?'), 'ready', agent.errors);
  const pids = recordedPids(node.stateDir);
  assert.equal(pids.length, PODS * 3, JSON.stringify(pids));
  const groups = `cat $(find ${node.cgroupRoot} -name cgroup.procs) | wc -l`;
  const inGroups = Number(execFileSync('sh', ['-c', groups], { encoding: 'utf8' }));
  // A pod is process 1, a monitor, the shell, its sleep, and the sleep of the moment.
  assert.ok(inGroups <= PODS * 5, `${inGroups} processes`);
  await agent.ask('drop');
  assert.deepEqual(readdirSync(join(node.stateDir, 'addresses')), []);
  assert.deepEqual(recordedPids(node.stateDir), []);
  const alive = execFileSync('ps', ['-eo', 'pid=,stat='], { encoding: 'utf8' });
  for (const { pid } of pids) assert.doesNotMatch(alive, new RegExp(`^ *${pid} [^Z]`, 'm'));
  assert.deepEqual(await node.leftovers(await node.open()), []);
});
