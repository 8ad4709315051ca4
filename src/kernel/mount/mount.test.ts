import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { mountsBelow, parseMountinfo } from './index.ts';

test('parseMountinfo() reads mount points with blanks, and any number of optional fields', () => {
  const text = [
    '36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue',
    String.raw`40 35 0:5 / /a\040b\134c rw shared:1 master:2 propagate_from:3 - tmpfs none rw`,
    '41 35 0:5 / /plain rw - proc proc rw',
    'broken line',
    '',
  ].join('\n');
  assert.deepEqual(parseMountinfo(text), [
    { mountPoint: '/mnt2', fsType: 'ext3' },
    { mountPoint: '/a b\\c', fsType: 'tmpfs' },
    { mountPoint: '/plain', fsType: 'proc' },
  ]);
});

test('parseMountinfo() survives any text', () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      for (const { mountPoint } of parseMountinfo(text)) assert.ok(mountPoint.startsWith('/'));
    }),
  );
});

test('mountsBelow() names what must be detached before a folder is deleted, the innermost first', () => {
  const mounts = ['/', '/run', '/run/lab', '/run/lab/a', '/run/lab/a/b/c', '/run/lab2/a'].map(
    (mountPoint) => ({
      mountPoint,
      fsType: 'tmpfs',
    }),
  );
  assert.deepEqual(mountsBelow('/run/lab', mounts), ['/run/lab/a/b/c', '/run/lab/a']);
});
