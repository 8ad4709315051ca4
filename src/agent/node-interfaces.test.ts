import assert from 'node:assert/strict';
import test from 'node:test';
import { parseIp } from '../addr/index.ts';
import { wantedInterfaces } from './node-interfaces.ts';

const links = [
  { ifindex: 1, name: 'lo' },
  { ifindex: 2, name: 'eth0' },
  { ifindex: 3, name: 'flannel.1' },
  { ifindex: 4, name: 'po0123456789a' },
  { ifindex: 5, name: 'flannel-v6.1' },
  { ifindex: 6, name: 'portolan0' },
];
const at = (ifindex: number, text: string, tentative = false) => ({
  ifindex,
  address: parseIp(text),
  tentative,
});
const addresses = [
  at(1, '127.0.0.1'),
  at(2, '198.51.100.1'),
  at(2, '192.168.0.10'),
  at(2, 'fe80::1'),
  at(2, 'fd00::10'),
  at(3, '10.244.1.0'),
  at(4, '169.254.1.1'),
  at(5, 'fd00:10:244:1::', true),
  at(5, 'fe80::5'),
  at(6, '10.244.1.1'),
];

test('links with an address of the node and tunnels are served, with the addresses that backends answer to', () => {
  const own = new Set(['10.244.1.1', '192.168.0.10', '127.0.0.1', '169.254.9.9']);
  assert.deepEqual(wantedInterfaces(links, addresses, own), [
    { ifindex: 2, kind: 'node', addresses: { ip4: '192.168.0.10', ip6: 'fd00::10' } },
    { ifindex: 3, kind: 'overlay', addresses: { ip4: '10.244.1.0', ip6: undefined } },
    { ifindex: 5, kind: 'overlay', addresses: { ip4: undefined, ip6: undefined } },
  ]);
});

test('a link without an address of the node is left alone', () => {
  assert.deepEqual(wantedInterfaces(links.slice(0, 2), addresses, new Set(['10.0.0.1'])), []);
});
