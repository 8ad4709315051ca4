import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { parseIp } from '../../addr/index.ts';
import { isNetError } from '../../errors/index.ts';
import { NlWriter } from '../netlink/index.ts';
import { readSocket, writeListRequest } from './message.ts';

/** An answer for a socket of AF_INET6 that speaks IPv4: 10.1.0.2:40000 -> 10.244.1.5:53. */
const MAPPED = Buffer.concat([
  Uint8Array.of(10, 1, 0, 0, 0x9c, 0x40, 0, 53),
  Buffer.from('00000000000000000000ffff0a010002', 'hex'),
  Buffer.from('00000000000000000000ffff0af40105', 'hex'),
  new Uint8Array(12),
  Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xe8, 3, 0, 0, 7, 0, 0, 0),
]);

test('readSocket() shows an IPv4 address in an IPv6 socket as IPv4', () => {
  const { handle, ...socket } = readSocket(MAPPED, 'udp');
  assert.deepEqual(
    { ...socket, local: String(socket.local), remote: String(socket.remote) },
    {
      protocol: 'udp',
      state: 'established',
      local: '10.1.0.2',
      localPort: 40000,
      remote: '10.244.1.5',
      remotePort: 53,
      uid: 1000,
      inode: 7,
    },
  );
  assert.equal(handle.family, 10);
  assert.equal(handle.id.length, 48);
});

test('readSocket() refuses cut and foreign answers', () => {
  const refused = (bytes: Uint8Array) => {
    try {
      readSocket(bytes, 'tcp');
      return false;
    } catch (error) {
      assert.ok(isNetError(error, 'NETLINK_MALFORMED'));
      return true;
    }
  };
  for (let length = 0; length < MAPPED.length; length++) assert.ok(refused(MAPPED.subarray(0, length)));
  assert.ok(refused(Buffer.concat([Uint8Array.of(7), MAPPED.subarray(1)])));
  assert.ok(refused(Buffer.concat([Uint8Array.of(2, 99), MAPPED.subarray(2)])));
  fc.assert(fc.property(fc.uint8Array({ maxLength: 120 }), (noise) => void refused(noise)));
});

test('writeListRequest() asks the kernel to compare the remote address', () => {
  const writer = new NlWriter();
  writeListRequest(writer, 2, {
    protocol: 'udp',
    states: ['established'],
    remote: parseIp('10.244.1.5'),
    remotePort: 53,
  });
  const written = Buffer.from(writer.written);
  assert.equal(written.subarray(0, 8).toString('hex'), '0211000002000000');
  // Attribute 1 of 20 bytes; operation 8, yes 16, no 20; family 2, 32 bits, port 53, address.
  assert.equal(
    written.subarray(56).toString('hex'),
    '14000100' + '08101400' + '02200000' + '35000000' + '0af40105',
  );
});
