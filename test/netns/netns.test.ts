import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readlinkSync, statSync } from 'node:fs';
import test from 'node:test';
import { isNetError } from '../../src/errors/index.ts';
import { createNetns, deleteNetns, netnsExists, openNetns } from '../../src/kernel/netns/index.ts';

const name = `pt-ns-${process.pid}`;

test('createNetns() makes a namespace that ip(8) lists and can enter, and leaves this process where it was', () => {
  const before = readlinkSync('/proc/thread-self/ns/net');
  using made = createNetns(name);
  try {
    assert.equal(readlinkSync('/proc/thread-self/ns/net'), before);
    const listed = JSON.parse(execFileSync('ip', ['-j', 'netns', 'list'], { encoding: 'utf8' })) as {
      name: string;
    }[];
    assert.ok(listed.some((entry) => entry.name === name));
    const inside = execFileSync('ip', ['netns', 'exec', name, 'readlink', '/proc/self/ns/net'], {
      encoding: 'utf8',
    });
    assert.equal(inside.trim(), `net:[${made.inode}]`);
    assert.notEqual(`net:[${made.inode}]`, before);
    assert.throws(
      () => createNetns(name),
      (error) => isNetError(error, 'NETNS_EXISTS'),
    );
  } finally {
    deleteNetns(name);
  }
  assert.equal(netnsExists(name), false);
  assert.throws(() => statSync(`/run/netns/${name}`));
  deleteNetns(name);
});

test('openNetns() names the namespace that does not exist', () => {
  assert.throws(
    () => openNetns('pt-no-such'),
    (error) => isNetError(error, 'NETNS_MISSING') && /pt-no-such/.test(error.message),
  );
});
