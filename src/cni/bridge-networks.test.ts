import assert from 'node:assert/strict';
import test from 'node:test';
import { parseCidr } from '../addr/index.ts';
import { isNetError } from '../errors/net-error.ts';
import { bridgeNetworks, refuseNoRoom } from './bridge-networks.ts';

const cidrs = (...texts: string[]) => texts.map(parseCidr);
const old = { kind: 'bridge', networks: cidrs('10.244.1.0/24', 'fd00:1::/64') };

test('the bridge is the gateway of networks to come and of those that pods on it have', () => {
  const texts = (...args: Parameters<typeof bridgeNetworks>) => bridgeNetworks(...args)?.map(String);
  assert.equal(texts([], []), undefined);
  assert.equal(texts([], [{ kind: 'routed', networks: cidrs('10.9.0.0/24') }]), undefined);
  assert.deepEqual(texts([], [old, old]), ['10.244.1.0/24', 'fd00:1::/64']);
  assert.deepEqual(texts(cidrs('10.244.7.0/24', '10.244.1.0/24', '10.0.0.0/31'), [old]), [
    '10.244.7.0/24',
    '10.244.1.0/24',
    'fd00:1::/64',
  ]);
});

test('a network without room for a gateway is refused', () => {
  refuseNoRoom(cidrs('10.0.0.0/30', 'fd00::/126'));
  for (const small of ['10.0.0.0/31', '10.0.0.1/32', 'fd00::/127'])
    assert.throws(
      () => refuseNoRoom(cidrs('10.0.0.0/24', small)),
      (error) => isNetError(error, 'PODLINK_BRIDGE_NO_ROOM'),
    );
});
