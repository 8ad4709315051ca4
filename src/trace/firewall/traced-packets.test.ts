import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { parseIp } from '../../addr/index.ts';
import { isNetError } from '../../errors/index.ts';
import { changesText, type NftTraceEvent, readNftTrace } from '../../kernel/nft/index.ts';
import { traceChanges } from './trace-flow.ts';
import { TracedPackets } from './traced-packets.ts';

const flow = {
  source: parseIp('10.0.0.1'),
  destination: parseIp('10.0.0.2'),
  protocol: 6,
  protocolName: 'tcp',
  sourcePort: 1000,
  destinationPort: 80,
};

function event(part: Partial<NftTraceEvent>): NftTraceEvent {
  return {
    id: 7,
    family: 'ip',
    table: 'filter',
    chain: 'FORWARD',
    type: 'rule',
    handle: 4n,
    verdict: 'continue',
    to: undefined,
    iif: 2,
    oif: 0,
    headers: undefined,
    ...part,
  };
}

const headers = (mark: string) => ({ flow, mark });

test('a packet ends at its drop, with every rule that it met and none of the tracing itself', () => {
  const packets = new TracedPackets('mine', new Map([['ip filter FORWARD 4', 'ip daddr 10.0.0.2 drop']]));
  const events = [
    event({ table: 'mine', chain: 'prerouting', headers: headers('1 5') }),
    event({ table: 'mine', chain: 'prerouting', type: 'policy', handle: undefined, verdict: 'accept' }),
    event({ type: 'rule', handle: 9n, verdict: 'jump', to: 'DOCKER', headers: headers('1 5'), oif: 3 }),
    event({ chain: 'DOCKER', handle: undefined }),
    event({ chain: 'DOCKER', type: 'return', handle: undefined }),
    event({ verdict: 'drop' }),
  ];
  for (const each of events) packets.add(each, 0);
  const [packet, ...none] = packets.take(0);
  assert.deepEqual(none, []);
  assert.deepEqual(
    packet!.steps.map(({ chain, rule, verdict }) => `${chain}: ${rule}: ${verdict}`),
    ['ip filter FORWARD: a rule: jump DOCKER', 'ip filter FORWARD: ip daddr 10.0.0.2 drop: drop'],
  );
  assert.deepEqual([packet!.droppedBy?.handle, packet!.iif, packet!.oif], [4, 2, 3]);
});

test('a number that is used again is another packet; one without a beginning is left out; silence ends one', () => {
  const packets = new TracedPackets('mine', new Map());
  packets.add(event({ id: 9 }), 0);
  packets.add(event({ headers: headers('1 5') }), 0);
  assert.deepEqual(packets.take(5), []);
  packets.add(event({ headers: headers('2 6') }), 10);
  const [before, ...none] = packets.take(15);
  assert.deepEqual([before?.steps.length, before?.droppedBy, none], [1, undefined, []]);
  assert.deepEqual(packets.take(100), []);
  assert.equal(packets.take(300).length, 1);
  assert.deepEqual(packets.take(300, true), []);
});

test('packets are told in the order in which they began, also when a later one ends first', () => {
  const packets = new TracedPackets('mine', new Map());
  packets.add(event({ id: 1, headers: headers('1 5'), iif: 1 }), 0);
  packets.add(event({ id: 2, headers: headers('2 6'), iif: 2, verdict: 'drop' }), 10);
  assert.deepEqual(packets.take(20), []);
  packets.add(event({ id: 1, verdict: 'accept' }), 30);
  assert.deepEqual(
    packets.take(500).map(({ iif }) => iif),
    [1, 2],
  );
});

test('the table of the tracing goes with its owner and marks packets there and back', () => {
  const to = parseIp('10.0.0.2');
  const text = changesText(traceChanges('t', { from: parseIp('10.0.0.1'), to, protocol: 'tcp', port: 80 }));
  const limit = 'limit rate 20/second burst 20 packets meta nftrace set 1';
  assert.equal(
    text.replaceAll(/ comment "[^"]*"/g, ''),
    [
      'add table ip t { flags owner; }',
      ...['prerouting', 'output'].flatMap((chain) => [
        `add chain ip t ${chain} { type filter hook ${chain} priority -500; policy accept; }`,
        `add rule ip t ${chain} ip saddr 10.0.0.1 ip daddr 10.0.0.2 meta l4proto tcp th dport 80 ${limit}`,
        `add rule ip t ${chain} ip saddr 10.0.0.2 ip daddr 10.0.0.1 meta l4proto tcp th sport 80 ${limit}`,
      ]),
      '',
    ].join('\n'),
  );
});

/** Rule 4 of "ip filter FORWARD" drops a SYN: nfgenmsg, then type, id, table, chain, handle, verdict, iif, oif, headers. */
const SAMPLE = Buffer.from(
  '0200000a' +
    '0800040000000003' +
    '08000600deadbeef' +
    '0b00010066696c74657200' +
    '00' +
    '0c000200464f525741524400' +
    '0c0003000000000000000004' +
    '0c000580' +
    '0800010000000000' +
    '08000a0000000002' +
    '08000c0000000003' +
    '18000800' +
    '4500003c1234400040060000' +
    '0a0000010a000002' +
    '18000900' +
    '03e80050000000050000000050020000' +
    '00000000',
  'hex',
);

test('a trace of the kernel is read', () => {
  const found = readNftTrace({ type: 0xa11, body: SAMPLE });
  assert.deepEqual(
    { ...found, headers: undefined },
    {
      id: 0xdeadbeef,
      family: 'ip',
      table: 'filter',
      chain: 'FORWARD',
      type: 'rule',
      handle: 4n,
      verdict: 'drop',
      to: undefined,
      iif: 2,
      oif: 3,
      headers: undefined,
    },
  );
  const { flow: seen, mark } = found!.headers!;
  assert.equal(
    `${seen.source}:${seen.sourcePort} ${seen.destination}:${seen.destinationPort}`,
    '10.0.0.1:1000 10.0.0.2:80',
  );
  assert.equal(mark, `${0x1234} 5`);
  assert.equal(readNftTrace({ type: 0xa10, body: SAMPLE }), undefined);
});

test('readNftTrace() reads or refuses cut, changed and random bytes', () => {
  const survives = (body: Uint8Array) => {
    try {
      readNftTrace({ type: 0xa11, body });
    } catch (error) {
      if (!isNetError(error, 'NETLINK_MALFORMED')) throw error;
    }
  };
  for (let length = 0; length <= SAMPLE.length; length++) survives(SAMPLE.subarray(0, length));
  for (let at = 0; at < SAMPLE.length; at++)
    for (const value of [0, 1, 0x7f, 0xff]) {
      const broken = Uint8Array.from(SAMPLE);
      broken[at] = value;
      survives(broken);
    }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 250 }), survives), { numRuns: 500 });
});
