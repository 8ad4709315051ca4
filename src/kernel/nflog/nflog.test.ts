import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { isNetError } from '../../errors/index.ts';
import { NlWriter } from '../netlink/index.ts';
import { readPacketFlow } from './flow.ts';
import { readLoggedPacket } from './packet.ts';

const hex = (text: string) => Uint8Array.from(Buffer.from(text.replaceAll(/\s/g, ''), 'hex'));
/** 10.0.0.1:40000 > 10.0.0.2:80, tcp, no options */
const TCP4 = hex(
  '4500 0028 0000 4000 4006 0000 0a00 0001 0a00 0002 9c40 0050 00000000 00000000 5002 ffff 0000 0000',
);
/** fd00::1 > fd00::2, a hop-by-hop header of 8 bytes, then udp 53 > 5353 */
const UDP6 = hex(
  '6000 0000 0010 0040 fd00 0000 0000 0000 0000 0000 0000 0001 fd00 0000 0000 0000 0000 0000 0000 0002' +
    '1100 0000 0000 0000 0035 14e9 0008 0000',
);

const shown = (packet: Uint8Array) => {
  const flow = readPacketFlow(packet);
  return (
    flow &&
    `${flow.protocolName} ${flow.source} ${flow.sourcePort} ${flow.destination} ${flow.destinationPort}`
  );
};

test('a packet is read to its ports, past IPv6 extension headers', () => {
  assert.equal(shown(TCP4), 'tcp 10.0.0.1 40000 10.0.0.2 80');
  assert.equal(shown(UDP6), 'udp fd00::1 53 fd00::2 5353');
});

test('a later fragment and a packet that is cut have no ports', () => {
  const later = TCP4.slice();
  later[7] = 1;
  assert.equal(shown(later), 'tcp 10.0.0.1 undefined 10.0.0.2 undefined');
  assert.equal(shown(TCP4.subarray(0, 22)), 'tcp 10.0.0.1 undefined 10.0.0.2 undefined');
  assert.equal(shown(TCP4.subarray(0, 19)), undefined);
});

test('whatever bytes come, a packet is read or refused', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 120 }), (bytes) => {
      const flow = readPacketFlow(bytes);
      assert.ok(flow === undefined || flow.source.family === flow.destination.family);
    }),
  );
});

test('a message is read: prefix, interfaces, payload', () => {
  const writer = new NlWriter(256);
  writer.reset().begin(0x400, 0, 1);
  writer.u8(2).u8(0).u8(0).u8(7);
  writer.attribute(10, () => writer.string('drop np x/y'));
  writer.attribute(4, () => writer.u32be(3));
  writer.attribute(9, () => writer.bytes(TCP4));
  writer.end();
  const { prefix, inInterface, outInterface, payload } = readLoggedPacket(writer.written.slice(16));
  assert.deepEqual([prefix, inInterface, outInterface], ['drop np x/y', 3, 0]);
  assert.deepEqual([...payload], [...TCP4]);
});

test('whatever bytes come, a message is read or refused as malformed', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      try {
        readLoggedPacket(bytes);
      } catch (error) {
        assert.ok(isNetError(error, 'NETLINK_MALFORMED'), String(error));
      }
    }),
  );
});
