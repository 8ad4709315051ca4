import assert from 'node:assert/strict';
import test from 'node:test';
import { readLogPrefix } from './logging.ts';
import { comment, ownerName, ruleComment } from './names.ts';

test('a prefix tells verdict, direction and what decided', () => {
  assert.deepEqual(readLogPrefix('denied np default deny ingress: isolated by x/deny and 2 more'), {
    verdict: 'denied',
    direction: 'ingress',
    by: 'default deny, isolated by x/deny and 2 more',
  });
  assert.equal(
    readLogPrefix('denied nnp default deny ingress: by edge')?.by,
    'default deny, by NodeNetworkPolicy edge',
  );
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

test('the longest names still tell whose rule it is and which one, for names that begin alike too', () => {
  const key = `${'n'.repeat(63)}/${'p'.repeat(253)}`;
  const other = `${key.slice(0, -1)}x`;
  const text = ruleComment('np', key, 'ingress[24]');
  assert.notEqual(text, ruleComment('np', other, 'ingress[24]'));
  assert.ok(text.length <= 119, 'NF_LOG_PREFIXLEN is 128 with "allowed " and its zero byte');
  assert.equal(comment(text), text);
  assert.deepEqual(readLogPrefix(`allowed ${text}`), {
    verdict: 'allowed',
    direction: 'ingress',
    by: `${ownerName(key)} ingress[24]`,
  });
  const named = ruleComment('cnp', 'p'.repeat(253), 'egress[0]', 'r'.repeat(100));
  assert.equal(
    readLogPrefix(`denied ${named}`)?.by.startsWith(`ClusterNetworkPolicy ${'p'.repeat(77)}~`),
    true,
  );
});

test('prefixes of other rules are nothing', () => {
  for (const prefix of ['', 'denied', 'IN=eth0 ', 'denied np x/y sideways[0]'])
    assert.equal(readLogPrefix(prefix), undefined);
});
