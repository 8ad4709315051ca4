import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isNetError } from '../../errors/net-error.ts';
import { impersonated } from './authenticate.ts';

const admin = { name: 'admin', groups: ['system:masters', 'system:authenticated'] };
const node = { name: 'system:node:n1', groups: ['system:nodes', 'system:authenticated'] };

test('an admin acts for anyone, with the groups that are named and no others', () => {
  assert.equal(impersonated(admin, {}), admin);
  assert.deepEqual(impersonated(admin, { 'impersonate-user': 'bob' }), {
    name: 'bob',
    groups: ['system:authenticated'],
  });
  const headers = { 'impersonate-user': 'system:node:n2', 'impersonate-group': 'system:nodes, more' };
  assert.deepEqual(impersonated(admin, headers).groups, ['system:nodes', 'more', 'system:authenticated']);
});

test('nobody else acts for another, and groups need a user', () => {
  const code = (wanted: string) => (error: unknown) => isNetError(error, wanted);
  assert.throws(() => impersonated(node, { 'impersonate-user': 'admin' }), code('API_FORBIDDEN'));
  assert.throws(
    () => impersonated(node, { 'impersonate-user': 'x', 'impersonate-group': 'system:masters' }),
    code('API_FORBIDDEN'),
  );
  assert.throws(
    () => impersonated(admin, { 'impersonate-group': 'system:masters' }),
    code('API_BAD_REQUEST'),
  );
});
