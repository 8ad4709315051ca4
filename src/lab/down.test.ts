import assert from 'node:assert/strict';
import test from 'node:test';
import { isOfLab } from './down.ts';

test("isOfLab() knows a lab's own processes, and nobody else's", () => {
  const node = ['/usr/bin/node', '/opt/portolan/dist/portolan.js'];
  const agent = [...node, 'agent', '--state-dir', '/run/blue/node1'];
  assert.equal(isOfLab('blue', agent), true);
  assert.equal(isOfLab('blue', ['nsenter', '--net=/run/netns/blue-node1', '--', ...agent]), true);
  assert.equal(isOfLab('blu', agent), false, 'a longer name');
  assert.equal(isOfLab('blue', [...node, 'status', '--state-dir', '/run/blue/node1']), false, 'a question');
  assert.equal(isOfLab('blue', ['tail', '-f', '/run/blue/node1.log']), false);
  assert.equal(isOfLab('blue', [...node, 'agent', '--state-dir', '/run/portolan']), false);
});
