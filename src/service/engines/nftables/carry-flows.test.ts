import assert from 'node:assert/strict';
import test from 'node:test';
import { parseIp } from '../../../addr/index.ts';
import type { ConntrackEntry } from '../../../kernel/conntrack/index.ts';
import type { TranslatedFlow } from '../../translated-flow.ts';
import { planCarry } from './carry-flows.ts';

type End = readonly [address: string, port: number];
const end = ([address, port]: End) => ({ address: parseIp(address), port });
const tuple = (protocol: number, [source, sourcePort]: End, [destination, destinationPort]: End) => ({
  protocol,
  source: parseIp(source),
  sourcePort,
  destination: parseIp(destination),
  destinationPort,
});

const CLIENT: End = ['10.244.1.5', 40_000];
const VIP: End = ['10.96.0.10', 80];
const BACKEND: End = ['10.244.2.9', 8080];
const NODE: End = ['192.168.0.1', 51_234];

function entry(protocol: number, original: [End, End], reply: [End, End], more = {}): ConntrackEntry {
  return {
    family: 4,
    original: tuple(protocol, ...original),
    reply: tuple(protocol, ...reply),
    status: 2 | 4 | 8,
    mark: 0,
    timeoutSeconds: 1000,
    id: 1,
    zone: 0,
    raw: new Uint8Array(),
    ...more,
  };
}

function flow(more: Partial<TranslatedFlow> = {}): TranslatedFlow {
  return {
    protocol: 6,
    client: end(CLIENT),
    vip: end(VIP),
    backend: end(BACKEND),
    source: undefined,
    replied: true,
    ...more,
  };
}

/** `10.244.1.5:40000 > 10.96.0.10:80 to 10.244.2.9:8080 as 192.168.0.1:51234, state 3` */
function text(plan: ReturnType<typeof planCarry>): string[] {
  const said = ({ address, port }: { address: unknown; port: number }) => `${address}:${port}`;
  return [
    ...plan.remove.map(({ original, reply }) => `- ${original.destination} ${reply.destination}`),
    ...plan.make.map(
      ({ client, target, backend, source, tcpState }) =>
        `+ ${said(client)} > ${said(target)} to ${said(backend)}${source ? ` as ${said(source)}` : ''}${tcpState ? `, state ${tcpState}` : ''}`,
    ),
  ];
}

test('a flow takes the place of what conntrack saw of it behind the program', () => {
  const seen = entry(6, [CLIENT, BACKEND], [BACKEND, CLIENT], { tcpState: 5 });
  const other = entry(6, [['10.244.1.5', 40_001], BACKEND], [BACKEND, ['10.244.1.5', 40_001]]);
  assert.deepEqual(text(planCarry([flow()], [other, seen])), [
    '- 10.244.2.9 10.244.1.5',
    '+ 10.244.1.5:40000 > 10.96.0.10:80 to 10.244.2.9:8080, state 5',
  ]);
});

test('a client that rules masqueraded is seen as before', () => {
  const seen = entry(6, [CLIENT, BACKEND], [BACKEND, NODE], { tcpState: 3 });
  assert.deepEqual(text(planCarry([flow()], [seen])), [
    '- 10.244.2.9 192.168.0.1',
    '+ 10.244.1.5:40000 > 10.96.0.10:80 to 10.244.2.9:8080 as 192.168.0.1:51234, state 3',
  ]);
});

test('of two flows of one port of a client, the one by another port is seen as before, and the other one stays itself', () => {
  const MOVED: End = ['10.244.1.5', 48_192];
  const first = entry(6, [CLIENT, BACKEND], [BACKEND, CLIENT], { tcpState: 5 });
  const second = entry(6, [MOVED, BACKEND], [BACKEND, NODE], { tcpState: 3 });
  const other = flow({ vip: end(['10.96.0.11', 80]), source: end(MOVED) });
  assert.deepEqual(text(planCarry([other, flow()], [first, second])), [
    '- 10.244.2.9 192.168.0.1',
    '- 10.244.2.9 10.244.1.5',
    '+ 10.244.1.5:40000 > 10.96.0.11:80 to 10.244.2.9:8080 as 192.168.0.1:51234, state 3',
    '+ 10.244.1.5:40000 > 10.96.0.10:80 to 10.244.2.9:8080, state 5',
  ]);
});

test('a flow past conntrack keeps the port that its engine gave it', () => {
  assert.deepEqual(text(planCarry([flow({ source: end(NODE) })], [])), [
    '+ 10.244.1.5:40000 > 10.96.0.10:80 to 10.244.2.9:8080 as 192.168.0.1:51234, state 3',
  ]);
  assert.deepEqual(text(planCarry([flow({ replied: false })], [])), [
    '+ 10.244.1.5:40000 > 10.96.0.10:80 to 10.244.2.9:8080, state 1',
  ]);
});

test('what the backend began in the meantime, or somebody sent to the VIP, goes', () => {
  const fromBackend = entry(17, [BACKEND, CLIENT], [CLIENT, BACKEND]);
  const toVip = entry(17, [CLIENT, VIP], [['10.244.3.3', 8080], CLIENT]);
  assert.deepEqual(text(planCarry([flow({ protocol: 17 })], [fromBackend, toVip])), [
    '- 10.96.0.10 10.244.1.5',
    '- 10.244.1.5 10.244.2.9',
    '+ 10.244.1.5:40000 > 10.96.0.10:80 to 10.244.2.9:8080',
  ]);
});
