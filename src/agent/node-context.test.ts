import assert from 'node:assert/strict';
import test from 'node:test';
import { parseCidr, parseIp } from '../addr/index.ts';
import { nodeContext } from './node-context.ts';

const input = {
  nodeName: 'node-a',
  zone: 'a',
  addresses: [parseIp('192.0.2.7'), parseIp('2001:db8::7')],
  local: ['192.0.2.7', '10.0.0.7', '169.254.1.1', 'fe80::1', '127.0.0.1', '::1', 'fd00::7'].map((ip) =>
    parseIp(ip),
  ),
};

test('nodePorts are at the primary addresses and at loopback, unless networks are named', () => {
  const at = (...networks: string[]) =>
    nodeContext({
      ...input,
      nodePortAddresses: networks.map((text) => (text === 'primary' ? text : parseCidr(text))),
    }).nodePortAddresses;
  assert.deepEqual(nodeContext(input).nodePortAddresses, ['192.0.2.7', '2001:db8::7', '127.0.0.1', '::1']);
  assert.deepEqual(at('primary'), ['192.0.2.7', '2001:db8::7']);
  assert.deepEqual(at('10.0.0.0/8', 'primary'), ['10.0.0.7', '192.0.2.7', '2001:db8::7']);
  assert.deepEqual(at('127.0.0.0/8'), ['127.0.0.1']);
  assert.deepEqual(at('::/0'), ['2001:db8::7', '::1', 'fd00::7']);
  assert.deepEqual(at('172.16.0.0/12'), []);
});

test('local addresses are all but those of links, and loopback is always there', () => {
  assert.deepEqual(nodeContext(input).localAddresses, [
    '192.0.2.7',
    '2001:db8::7',
    '10.0.0.7',
    '127.0.0.1',
    '::1',
    'fd00::7',
  ]);
  assert.deepEqual(nodeContext({ ...input, local: [] }).localAddresses, [
    '192.0.2.7',
    '2001:db8::7',
    '127.0.0.1',
    '::1',
  ]);
});
