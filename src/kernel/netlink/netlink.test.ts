import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { parseCidr, parseIp, parseMac } from '../../addr/index.ts';
import { isNetError } from '../../errors/index.ts';
import { readNftEvent } from '../nft/index.ts';
import {
  addRoute,
  changeBridgePort,
  createLink,
  replaceAddr,
  replaceFdb,
  replaceNeigh,
} from '../rtnl/index.ts';
import { readEvent } from '../rtnl/monitor.ts';
import {
  attributeTable,
  encodeText,
  NlWriter,
  nlMac,
  nlString,
  nlU32,
  readAck,
  readMessages,
  textRoom,
} from './index.ts';

/** Requests are laid out as the kernel's own notifications are, so they are samples for the readers too. */
const samples = [
  createLink({
    name: 'flannel.1',
    kind: 'vxlan',
    mac: parseMac('02:00:00:00:00:01'),
    mtu: 1450,
    up: true,
    vxlan: { vni: 1, local: parseIp('192.0.2.1'), lowerIfindex: 2 },
  }),
  replaceAddr({ ifindex: 3, address: parseIp('10.244.1.0'), prefixLength: 32 }),
  addRoute({
    destination: parseCidr('10.244.2.0/24'),
    gateway: parseIp('10.244.2.0'),
    oif: 3,
    onlink: true,
    mtu: 1400,
  }),
  addRoute({
    destination: parseCidr('fd00::/64'),
    nexthops: [{ ifindex: 3, gateway: parseIp('fe80::1') }, { ifindex: 4 }],
  }),
  replaceNeigh({ ifindex: 3, destination: parseIp('10.244.2.0'), mac: parseMac('02:00:00:00:00:02') }),
  replaceFdb({ ifindex: 3, destination: parseIp('192.0.2.2'), mac: parseMac('02:00:00:00:00:02') }),
  // As the kernel tells of it: RTM_NEWLINK.
  { request: { ...changeBridgePort(7, { isolated: true, mcastFlood: false }).request, type: 16 } },
].map(({ request }) => {
  const writer = new NlWriter(16).begin(request.type, 1, 7);
  request.write(writer);
  return Uint8Array.from(writer.end().written);
});

test('what the writers write, the readers read', () => {
  const events = samples.map((bytes) => readEvent([...readMessages(bytes)][0]!)!);
  assert.deepEqual(
    events.map((event) => event.topic),
    ['link', 'addr', 'route', 'route', 'neigh', 'fdb', 'port'],
  );
  const [link, , route, multipath, , fdb, port] = events;
  assert.ok(link?.topic === 'link' && link.link.vxlan?.vni === 1 && link.link.mtu === 1450);
  assert.equal(String(link.link.vxlan.local4), '192.0.2.1');
  assert.ok(route?.topic === 'route' && route.route.onlink && route.route.mtu === 1400);
  assert.ok(multipath?.topic === 'route');
  assert.deepEqual(
    multipath.route.nexthops?.map((hop) => `${hop.ifindex} ${hop.gateway}`),
    ['3 fe80::1', '4 undefined'],
  );
  assert.ok(port?.topic === 'port' && port.port.ifindex === 7);
  assert.deepEqual(port.port.port, { isolated: true, mcastFlood: false });
  assert.ok(fdb?.topic === 'fdb' && String(fdb.fdb.destination) === '192.0.2.2');
});

/** Runs a reader; only a clear refusal may come out of bad bytes. */
function refusesOrReads(read: () => void): void {
  try {
    read();
  } catch (error) {
    if (isNetError(error, 'NETLINK_MALFORMED') || isNetError(error, 'ADDR_BAD_CIDR')) return;
    throw error;
  }
}

test('a message cut at any byte is read or refused, never misread past its end', () => {
  for (const sample of samples)
    for (let length = 0; length < sample.length; length++) {
      const cut = sample.slice(0, length);
      // With the true length in the header, a cut datagram is refused ...
      if (length > 0)
        assert.throws(
          () => [...readMessages(cut)],
          (error) => isNetError(error, 'NETLINK_MALFORMED'),
        );
      // ... and with a length made to fit, the readers of the tables meet the end at every place.
      if (length >= 16) {
        new DataView(cut.buffer).setUint32(0, length, true);
        refusesOrReads(() => {
          for (const message of readMessages(cut)) readEvent(message);
        });
      }
    }
});

test('random and mutated bytes are read or refused', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.integer({ min: 0, max: 40 }), (bytes, type) => {
      refusesOrReads(() => [...readMessages(bytes)]);
      refusesOrReads(() => readEvent({ type, body: bytes }));
      refusesOrReads(() => readNftEvent({ type: (10 << 8) | (type % 16), body: bytes }));
      refusesOrReads(() =>
        readAck({ type: 2 + (type & 1), flags: 0x200 | ((type & 2) << 7), sequence: 0, body: bytes }),
      );
    }),
    { numRuns: 1000 },
  );
  fc.assert(
    fc.property(
      fc.constantFrom(...samples),
      fc.array(fc.tuple(fc.nat(199), fc.nat(255)), { minLength: 1, maxLength: 6 }),
      (sample, changes) => {
        const bytes = Uint8Array.from(sample);
        for (const [at, value] of changes) if (at >= 16) bytes[at % bytes.length] = value;
        refusesOrReads(() => {
          for (const message of readMessages(bytes)) readEvent(message);
        });
      },
    ),
    { numRuns: 1000 },
  );
});

test('an extended ack tells errno, words and offset', () => {
  const writer = new NlWriter().begin(2, 0x300, 9);
  writer.u32(-22).u32(44).u16(24).u16(5).u32(9).u32(0);
  writer.attribute(1, () => writer.string('Invalid prefix'));
  writer.attribute(2, () => writer.u32(20));
  const [message] = [...readMessages(writer.end().written)];
  assert.deepEqual(readAck(message!), { errno: 22, message: 'Invalid prefix', offset: 20 });
});

test('unknown attributes are skipped, because newer kernels add them; short known ones are refused', () => {
  const table = attributeTable('a thing', {
    name: [3, 'NAME', nlString],
    size: [4, 'SIZE', nlU32],
    mac: [5, 'MAC', nlMac],
  });
  const writer = new NlWriter();
  writer.attribute(99, () => writer.u32(1));
  table.write(writer, { name: 'x', size: 7, mac: parseMac('02:00:00:00:00:01') });
  assert.deepEqual(table.read(writer.written), { name: 'x', size: 7, mac: '02:00:00:00:00:01' });
  const short = new NlWriter();
  short.attribute(4, () => short.u16(1));
  assert.throws(
    () => table.read(short.written),
    (error) =>
      isNetError(error, 'NETLINK_MALFORMED') && /SIZE of a thing: want 4 bytes, got 2/.test(error.message),
  );
});

test('text is written as UTF-8 with a NUL behind it, whatever it holds, and nothing else', () => {
  const texts = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.string({ unit: 'grapheme-ascii' }),
    fc.constant(''),
  );
  fc.assert(
    fc.property(texts, fc.nat(9), (text, at) => {
      const target = new Uint8Array(at + textRoom(text));
      const length = encodeText(text, target, at);
      // Halves of surrogate pairs become U+FFFD in both.
      assert.deepEqual(Buffer.from(target.subarray(at, at + length)), Buffer.from(`${text}\0`));
      assert.ok(target.subarray(at + length).every((byte) => byte === 0));
    }),
    { numRuns: 500 },
  );
});
