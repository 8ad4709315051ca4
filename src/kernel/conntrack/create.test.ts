import assert from 'node:assert/strict';
import test from 'node:test';
import { parseIp } from '../../addr/index.ts';
import { NlWriter } from '../netlink/index.ts';
import { type TranslatedConnection, writeConnection } from './create.ts';
import { readEntry } from './entry.ts';

const end = (address: string, port: number) => ({ address: parseIp(address), port });
const shown = ({ source, sourcePort, destination, destinationPort, protocol }: Record<string, unknown>) =>
  `${protocol} ${source}:${sourcePort} > ${destination}:${destinationPort}`;

function written(connection: TranslatedConnection): Uint8Array {
  const writer = new NlWriter(512);
  writer.begin(0x100, 0, 1);
  writer
    .u8(connection.client.address.family === 4 ? 2 : 10)
    .u8(0)
    .u16be(0);
  writeConnection(writer, connection);
  writer.end();
  const NLMSGHDR = 16;
  return writer.written.slice(NLMSGHDR);
}

test('a new connection is written as the kernel shows one that has no translation yet', () => {
  for (const [client, vip, backend] of [
    ['10.244.1.5', '10.96.0.10', '10.244.2.9'],
    ['fd00::5', 'fd00:96::a', 'fd00:2::9'],
  ] as const) {
    const bytes = written({
      protocol: 6,
      client: end(client, 40_000),
      target: end(vip, 80),
      backend: end(backend, 8080),
      source: end(backend, 61_000),
      replied: true,
      assured: true,
      tcpState: 3,
      timeoutSeconds: 432_000,
      mark: 5,
    });
    const entry = readEntry(bytes)!;
    assert.equal(shown({ ...entry.original }), `6 ${client}:40000 > ${vip}:80`);
    assert.equal(shown({ ...entry.reply }), `6 ${vip}:80 > ${client}:40000`);
    assert.deepEqual(
      [entry.status, entry.tcpState, entry.timeoutSeconds, entry.mark],
      [2 | 4 | 8, 3, 432_000, 5],
    );
    // Where it goes: an attribute for each kind of NAT, with the address as first and last one.
    const times = Buffer.from(bytes)
      .toString('hex')
      .split(Buffer.from(parseIp(backend).toBytes()).toString('hex'));
    assert.equal(times.length - 1, 4);
  }
});
