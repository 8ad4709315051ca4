import assert from 'node:assert/strict';
import test from 'node:test';
import { parseIp } from '../../../addr/index.ts';
import { type ConntrackEntry, IPS } from '../../../kernel/conntrack/index.ts';
import { endpointStruct, passedKeyStruct, passedStruct, readAddress } from './layout.ts';
import { planPassed } from './passed-flows.ts';

function entry(protocol: number, status: number, replyTo = '10.244.1.5'): ConntrackEntry {
  return {
    family: 4,
    original: {
      protocol,
      source: parseIp('10.244.1.5'),
      sourcePort: 40_000,
      destination: parseIp('10.96.0.10'),
      destinationPort: 53,
    },
    reply: {
      protocol,
      source: parseIp('10.244.2.9'),
      sourcePort: 8053,
      destination: parseIp(replyTo),
      destinationPort: 40_000,
    },
    status,
    mark: 0,
    timeoutSeconds: 100,
    id: 1,
    zone: 0,
    raw: new Uint8Array(),
  };
}

const side = (bytes: Uint8Array) => {
  const { address, port, protocol } = endpointStruct.decode(bytes);
  return `${readAddress(address)}:${port}/${protocol}`;
};

function planned(entries: ConntrackEntry[], id: number | undefined): string[] {
  const context = {
    timeouts: { unanswered: 30, answered: 120 },
    jiffiesPerSecond: 100,
    backendId: () => id,
  };
  return planPassed(entries, context).map(([key, value]) => {
    const { client, vip } = passedKeyStruct.decode(key);
    const { backend, backend_port, backend_id, idle } = passedStruct.decode(value);
    return `${side(client)} > ${side(vip)} is ${readAddress(backend)}:${backend_port} id ${backend_id} idle ${idle}`;
  });
}

test('an open connection passes whatever became of its backend', () => {
  for (const id of [undefined, 7])
    assert.deepEqual(planned([entry(6, IPS.DST_NAT | IPS.ASSURED)], id), [
      '10.244.1.5:40000/6 > 10.96.0.10:53/6 is 10.244.2.9:8053 id 0 idle 0',
    ]);
});

test('datagrams pass as long as their backend is there and conntrack surely remembers them', () => {
  assert.deepEqual(planned([entry(17, IPS.DST_NAT | IPS.ASSURED)], 7), [
    '10.244.1.5:40000/17 > 10.96.0.10:53/17 is 10.244.2.9:8053 id 7 idle 11700',
  ]);
  assert.deepEqual(planned([entry(17, IPS.DST_NAT)], 7), [
    '10.244.1.5:40000/17 > 10.96.0.10:53/17 is 10.244.2.9:8053 id 7 idle 2700',
  ]);
  assert.deepEqual(planned([entry(17, IPS.DST_NAT)], undefined), []);
});

test('answers to a masqueraded client pass, too; what is not sent elsewhere is nobody’s', () => {
  assert.deepEqual(planned([entry(6, IPS.DST_NAT | IPS.SRC_NAT, '192.168.0.1')], 7), [
    '10.244.1.5:40000/6 > 10.96.0.10:53/6 is 10.244.2.9:8053 id 0 idle 0',
    '10.244.2.9:8053/6 > 192.168.0.1:40000/6 is 10.244.2.9:8053 id 0 idle 0',
  ]);
  assert.deepEqual(planned([entry(6, IPS.SRC_NAT), entry(132, IPS.DST_NAT)], 7), []);
});
