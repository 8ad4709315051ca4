import assert from 'node:assert/strict';
import test from 'node:test';
import type { NodePolicyState } from '../policy/index.ts';
import { statesText } from './firewall-text.ts';

const ssh = (state: NodePolicyState['state']): NodePolicyState => ({
  name: 'ssh',
  uid: '',
  generation: 1,
  state,
  lockouts: [],
  problems: [],
});

test('a policy that nobody wrote would be in force; one that is written is', () => {
  assert.match(statesText([ssh('in force')], 'ssh'), /ssh +1 +would be in force/);
  assert.match(statesText([ssh('refused')], 'ssh'), /ssh +1 +refused/);
  assert.match(statesText([ssh('in force')], 'other'), /ssh +1 +in force/);
  assert.match(statesText([ssh('in force')]), /ssh +1 +in force/);
});
