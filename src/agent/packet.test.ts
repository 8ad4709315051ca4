import assert from 'node:assert/strict';
import { test } from 'node:test';
import { serviceFacts } from '../service/facts.ts';
import { planService } from '../service/plan.ts';
import { aNode, aService } from '../service/testing.ts';
import { packetAnswer } from './packet.ts';
import type { AgentParts } from './parts.ts';

const dual = { clusterIP: '10.96.0.10', clusterIPs: ['10.96.0.10', 'fd00:10:96::10'] };
const plans = new Map([
  ['default/web', planService(serviceFacts(aService(dual)), [], aNode())],
  [
    'default/named',
    planService(serviceFacts(aService({ clusterIP: 'None', clusterIPs: ['None'] })), [], aNode()),
  ],
]);
const parts = {
  controller: { plans, ownerOf: () => undefined },
  networking: { list: () => [{ addresses: ['10.244.1.2', 'fd00:10:244::2'] }] },
  engine: { explainPacket: () => ({ verdict: 'pass' }) },
} as unknown as AgentParts;
const ask = (query: Record<string, string>) => packetAnswer(parts, new URLSearchParams(query));

test('a packet from an address goes to the frontend of its family', () => {
  const from = (source: string) => ask({ service: 'default/web', source }).target;
  assert.equal(from('10.244.1.2'), '10.96.0.10:80/TCP');
  assert.equal(from('fd00:10:244::2'), '[fd00:10:96::10]:80/TCP');
  assert.equal(ask({ service: 'default/web' }).target, '10.96.0.10:80/TCP');
});

test('to a loopback address a process of the node sends, and no pod', () => {
  const asked = (query: Record<string, string>) => {
    const { source, client } = ask(query);
    return [source, client];
  };
  assert.deepEqual(asked({ to: '127.0.0.1:30080/tcp' }), ['127.0.0.1', 'node']);
  assert.deepEqual(asked({ to: '[::1]:30080/tcp' }), ['::1', 'node']);
  assert.deepEqual(asked({ to: '10.96.0.10:80/tcp' }), ['10.244.1.2', 'pod']);
  assert.deepEqual(asked({ to: '10.96.0.10:80/tcp', source: '192.0.2.7' }), ['192.0.2.7', 'outside']);
});

test('why a Service has no target, and a sender of the other family, are told', () => {
  assert.throws(() => ask({ service: 'default/named' }), /default\/named has no frontend, it is headless/);
  assert.throws(
    () => ask({ service: 'default/web', source: '10.244.1.2', to: '[fd00:10:96::10]:80/tcp' }),
    /Cannot use --from 10\.244\.1\.2: want an IPv6 address, as --to is one/,
  );
});
