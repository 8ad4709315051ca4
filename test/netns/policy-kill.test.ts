/**
 * kill -9 of an agent that changes policies without a pause, fifty times: while it programs, while it is gone and while
 * the next one takes over, packets are sent to an isolated pod, and none gets in.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type PolicyNet, type PolicyNode, type ProbePacket, policyNet } from '../lib/policy-net.ts';

let net: PolicyNet;
let node1: PolicyNode;
let node2: PolicyNode;
const cache = mkdtempSync(join(tmpdir(), 'pt-policy-kill-'));
before(() => {
  net = policyNet('ppk', 2, 1);
  [node1, node2] = net.nodes as [PolicyNode, PolicyNode];
});
after(() => {
  net?.close();
  rmSync(cache, { recursive: true, force: true });
});

test('kill -9 at any moment of programming opens nothing', async () => {
  const victim = node1.pods[0]!;
  const args = [node1.netns, 'node1', `x/a=${victim.ip4},${victim.ip6}`];
  const started = () =>
    new Promise<ChildProcess>((resolve, reject) => {
      const child = spawn(
        process.execPath,
        [new URL('../lib/policy-agent.ts', import.meta.url).pathname, ...args],
        {
          stdio: ['ignore', 'pipe', 'inherit'],
          // Fifty starts: most of each is reading TypeScript.
          env: { ...process.env, NODE_COMPILE_CACHE: cache },
        },
      );
      child.stdout!.once('data', () => resolve(child));
      child.once('exit', (code) => reject(new Error(`the agent ended with ${code}`)));
    });
  const kills = Number(process.env['PORTOLAN_POLICY_KILLS'] ?? 50);
  let inside = 0;
  let tried = 0;
  const hammer = () => {
    const got = net.send(
      ([4, 6] as const).flatMap((family) =>
        (['TCP', 'UDP', 'SCTP'] as const).map(
          (protocol): ProbePacket => ({ from: node2.pods[0]!, to: victim, family, protocol, port: 80 }),
        ),
      ),
    );
    tried += got.length;
    inside += got.filter(Boolean).length;
  };
  let child = await started();
  for (let kill = 0; kill < kills; kill++) {
    const end = performance.now() + 5 + Math.random() * 60;
    while (performance.now() < end) {
      hammer();
      await sleep(1);
    }
    child.kill('SIGKILL');
    for (let at = 0; at < 20; at++) {
      hammer();
      await sleep(1);
    }
    const next = started();
    let ready = false;
    void next.then(() => {
      ready = true;
    });
    while (!ready) {
      hammer();
      await sleep(2);
    }
    child = await next;
  }
  child.removeAllListeners('exit');
  child.kill('SIGKILL');
  assert.equal(inside, 0, `${inside} of ${tried} packets got in`);
  assert.ok(tried > 500, `${tried} tried`);
});
