import assert from 'node:assert/strict';
import test from 'node:test';
import { readLogPrefix } from './logging.ts';

test('a prefix tells verdict, direction and what decided', () => {
  assert.deepEqual(readLogPrefix('denied np default deny ingress: isolated by x/deny and 2 more'), {
    verdict: 'denied',
    direction: 'ingress',
    by: 'default deny, isolated by x/deny and 2 more',
  });
  assert.deepEqual(readLogPrefix('allowed np x/web egress[3]'), {
    verdict: 'allowed',
    direction: 'egress',
    by: 'x/web egress[3]',
  });
  assert.deepEqual(readLogPrefix('denied cnp tenants ingress[1] others too'), {
    verdict: 'denied',
    direction: 'ingress',
    by: 'ClusterNetworkPolicy tenants ingress[1] others too',
  });
});

test('prefixes of other rules are nothing', () => {
  for (const prefix of ['', 'denied', 'IN=eth0 ', 'denied np x/y sideways[0]'])
    assert.equal(readLogPrefix(prefix), undefined);
});
