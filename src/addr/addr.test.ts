import assert from 'node:assert/strict';
import { isIP } from 'node:net';
import test from 'node:test';
import fc from 'fast-check';
import { isNetError } from '../errors/index.ts';
import {
  Cidr,
  formatIpv6,
  IpAddress,
  ifIndex,
  isUnicastMac,
  localMac,
  macBytes,
  macFromBytes,
  parseCidr,
  parseInterfaceAddress,
  parseIp,
  parseMac,
  parsePort,
  tryParseIp,
} from './index.ts';

const bits128 = fc.bigInt({ min: 0n, max: (1n << 128n) - 1n });
// Runs of zero groups are what the text form is about, so they must be frequent.
const sparse128 = fc
  .array(fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 0xffff })), { minLength: 8, maxLength: 8 })
  .map((groups) => groups.reduce((value, group) => (value << 16n) | BigInt(group), 0n));
const address = fc.oneof(
  fc.integer({ min: 0, max: 0xffff_ffff }).map((value) => IpAddress.v4(value)),
  fc.oneof(bits128, sparse128).map((value) => IpAddress.v6(value)),
);
const cidr = address.chain((ip) =>
  fc.integer({ min: 0, max: ip.family === 4 ? 32 : 128 }).map((length) => Cidr.around(ip, length)),
);

test('an address survives text and bytes', () => {
  fc.assert(
    fc.property(address, (ip) => {
      assert.ok(parseIp(ip.toString()).equals(ip));
      assert.ok(IpAddress.fromBytes(ip.toBytes()).equals(ip));
      assert.equal(isIP(ip.toString()), ip.family);
    }),
  );
});

test('formatting follows RFC 5952, which the URL parser implements as well', () => {
  fc.assert(
    fc.property(sparse128, (value) => {
      if (value >> 32n === 0xffffn) return;
      assert.equal(`[${formatIpv6(value)}]`, new URL(`http://[${formatIpv6(value)}]/`).hostname);
    }),
  );
  for (const [text, want] of [
    ['2001:DB8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['0:0:0:0:0:0:0:0', '::'],
    ['1::', '1::'],
    ['::ffff:192.0.2.1', '::ffff:192.0.2.1'],
    ['64:ff9b::192.0.2.33', '64:ff9b::c000:221'],
    ['fe80:0:0:1::', 'fe80:0:0:1::'],
  ] as const)
    assert.equal(parseIp(text).toString(), want);
});

test('text that is no address is refused with its reason', () => {
  for (const text of [
    '',
    '1.2.3',
    '1.2.3.4.5',
    '01.2.3.4',
    '1.2.3.256',
    '1.2.3.4 ',
    ' 1.2.3.4',
    '1..2.3',
    '1.2.3.',
    '0x1.2.3.4',
    '1.2.3.4/24',
    ':',
    ':::',
    '1::2::3',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '1:2:3:4:5:6:7::8',
    'fe80::1%eth0',
    '12345::',
    'g::',
    '1.2.3.4::',
    '::1.2.3',
    '::1.2.3.4:5',
    '1:2:3:4:5:6:7:1.2.3.4',
    ':1::',
  ]) {
    assert.equal(tryParseIp(text), undefined, text);
    assert.throws(
      () => parseIp(text),
      (error) => isNetError(error, 'ADDR_BAD_IP'),
    );
  }
});

test('random text is read exactly when node:net takes it too', () => {
  const noise = fc.string({ unit: fc.constantFrom(...'0123456789abf:./'), maxLength: 20 });
  fc.assert(
    fc.property(noise, (text) => {
      const ip = tryParseIp(text);
      assert.equal(ip?.family ?? 0, isIP(text), text);
    }),
    { numRuns: 2000 },
  );
});

test('a network contains its addresses and no others', () => {
  fc.assert(
    fc.property(cidr, address, (network, ip) => {
      assert.ok(network.contains(network.address) && network.contains(network.last));
      assert.ok(parseCidr(network.toString()).equals(network));
      if (ip.family !== network.family) assert.equal(network.contains(ip), false);
      else {
        const inside =
          BigInt(ip.value) >= BigInt(network.address.value) && BigInt(ip.value) <= BigInt(network.last.value);
        assert.equal(network.contains(ip), inside);
      }
    }),
  );
});

test('two networks overlap exactly when one holds the first address of the other', () => {
  fc.assert(
    fc.property(cidr, cidr, (a, b) => {
      assert.equal(a.overlaps(b), a.contains(b.address) || b.contains(a.address));
      assert.equal(a.overlaps(b), b.overlaps(a));
    }),
  );
});

test('subnets and hosts are counted from 0 and end with the network', () => {
  const pods = parseCidr('10.244.0.0/16');
  assert.equal(pods.subnet(24, 3).toString(), '10.244.3.0/24');
  assert.equal(pods.subnetCount(24), 256n);
  assert.equal(pods.host(259).toString(), '10.244.1.3');
  assert.equal(parseCidr('fd00:10:244::/56').subnet(64, 255).toString(), 'fd00:10:244:ff::/64');
  assert.throws(
    () => pods.subnet(24, 256),
    (error) => isNetError(error, 'ADDR_OUT_OF_RANGE'),
  );
  assert.throws(
    () => pods.subnet(8, 0),
    (error) => isNetError(error, 'ADDR_OUT_OF_RANGE'),
  );
  assert.throws(
    () => pods.host(65536),
    (error) => isNetError(error, 'ADDR_OUT_OF_RANGE'),
  );
});

test('a CIDR with host bits is refused and the right one named; an interface address may have them', () => {
  assert.throws(
    () => parseCidr('10.244.1.5/24'),
    (error) => isNetError(error, 'ADDR_BAD_CIDR') && /10\.244\.1\.0\/24/.test(error.message),
  );
  assert.equal(parseInterfaceAddress('10.244.1.5/24').address.toString(), '10.244.1.5');
  for (const text of [
    '10.0.0.0',
    '10.0.0.0/',
    '10.0.0.0/33',
    '10.0.0.0/08',
    '::/129',
    '10.0.0.0/8/8',
    'x/8',
    '/8',
    '10.0.0.0/-1',
  ])
    assert.throws(
      () => parseCidr(text),
      (error) => isNetError(error, 'ADDR_BAD_CIDR'),
      text,
    );
});

test('MAC addresses survive bytes, and a local one is unicast and locally administered', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 6, maxLength: 6 }), (bytes) => {
      const mac = macFromBytes(bytes);
      assert.deepEqual(macBytes(mac), bytes);
      assert.equal(parseMac(mac.toUpperCase()), mac);
      assert.equal(macBytes(localMac(bytes))[0]! & 3, 2);
      assert.ok(isUnicastMac(localMac(bytes)));
    }),
  );
  for (const text of ['', '02:00:00:00:00', '02-00-00-00-00-01', '02:00:00:00:00:0g', '02:00:00:00:00:01:02'])
    assert.throws(
      () => parseMac(text),
      (error) => isNetError(error, 'ADDR_BAD_MAC'),
    );
});

test('ports and interface indexes are whole numbers in range', () => {
  assert.equal(parsePort('8472'), 8472);
  for (const port of ['', '0', '65536', '080', '+80', '80 ', 1.5, -1, 0])
    assert.throws(
      () => parsePort(port),
      (error) => isNetError(error, 'ADDR_BAD_PORT'),
    );
  assert.equal(ifIndex(7), 7);
  assert.throws(
    () => ifIndex(0),
    (error) => isNetError(error, 'ADDR_BAD_IFINDEX'),
  );
});
