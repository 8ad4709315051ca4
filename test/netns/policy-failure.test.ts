/** A policy that cannot be compiled: what was in force stays, no pod starts open, and all is well once it can be. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test from 'node:test';
import { isNetError } from '../../src/errors/index.ts';
import { cleanupPolicies, type PolicyFacts } from '../../src/policy/index.ts';
import { attachmentOf, PolicyCluster } from '../lib/policy-cluster.ts';
import { type Place, type PolicyNode, policyNet } from '../lib/policy-net.ts';
import { eventually } from '../lib/until.ts';

test('a policy whose rules throw: former rules stay, pods are refused, the agent lives and tries again', async () => {
  const net = policyNet('ppf', 1, 3);
  const [node] = net.nodes as [PolicyNode];
  const cluster = new PolicyCluster(net);
  const [controller] = cluster.controllers;
  const unhandled: unknown[] = [];
  const note = (error: unknown) => unhandled.push(error);
  process.on('unhandledRejection', note);
  try {
    const [a, b, c] = node.pods as [Place, Place, Place];
    await cluster.start();
    await cluster.pod('x/a', a, { labels: { app: 'a' } });
    await cluster.pod('y/b', b);
    cluster.apply('x', 'deny', { podSelector: {}, policyTypes: ['Ingress'] });
    await cluster.settled();
    const reaches = (to: Place) =>
      net.send([
        { from: b, to, family: 4, protocol: 'TCP', port: 80 },
        { from: b, to, family: 6, protocol: 'UDP', port: 53 },
      ]);
    const listing = () =>
      execFileSync('ip', ['netns', 'exec', node.netns, 'nft', '-s', 'list', 'ruleset'], { encoding: 'utf8' });
    assert.deepEqual(reaches(a), [false, false]);
    const before = listing();

    let broken = true;
    const facts: PolicyFacts = { ...cluster.policies.items.get('x/deny')!, key: 'x/broken', name: 'broken' };
    cluster.policies.set(
      'x/broken',
      new Proxy(facts, {
        get(target, key) {
          if (broken && key === 'podSelector') throw new Error('this selector cannot be read');
          return Reflect.get(target, key);
        },
      }),
    );
    // A change beside it, which must not be lost either.
    cluster.apply('x', 'let-b', {
      podSelector: { matchLabels: { app: 'a' } },
      ingress: [{ from: [{ namespaceSelector: {} }] }],
    });
    await assert.rejects(cluster.settled(), /cannot be read/);
    assert.equal(listing(), before);
    assert.deepEqual(reaches(a), [false, false]);
    // Whether a policy selects it cannot be known, in any namespace.
    for (const pod of ['x/new', 'z/new'])
      await assert.rejects(
        controller!.isolate(attachmentOf(c, pod, 'pending')),
        (error) => isNetError(error, 'POLICY_NO_ISOLATION') && /cannot be read/.test(error.message),
      );
    for (const pod of ['x/new', 'z/new']) await controller!.forget(attachmentOf(c, pod, 'pending'));

    broken = false;
    await eventually('tried again', () => controller!.status().state.state === 'done');
    assert.deepEqual(reaches(a), [true, true]);
    await cluster.pod('z/new', c);
    assert.deepEqual(reaches(c), [true, true]);
    assert.deepEqual(unhandled, []);
  } finally {
    process.off('unhandledRejection', note);
    await cluster.close();
    await cleanupPolicies({ netns: node.ns });
    net.close();
  }
});
