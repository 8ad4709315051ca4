import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import test from 'node:test';
import { distPath } from '../paths.ts';
import { KIND } from './btf.ts';
import { leavesOf, sameLeaves, translator } from './map-layout.ts';
import { readObjectFile } from './object-file.ts';

const path = distPath('bpf/lb_pod.bpf.o');

test('leavesOf() flattens structs and arrays of structs', {
  skip: !existsSync(path) && 'bpf is not built',
}, () => {
  const { btf } = readObjectFile(readFileSync(path), 'lb_pod');
  const leaves = leavesOf(btf, btf.find('lb_flow_set', KIND.STRUCT)!.id);
  assert.deepEqual(leaves[0], { name: 'tag', offset: 0, size: 32 });
  assert.ok(leaves.some(({ name, offset }) => name === 'flow.3.vip' && offset === 64 + 192));
  assert.deepEqual(leavesOf(btf, btf.find('__u32', KIND.TYPEDEF)!.id), [{ name: '', offset: 0, size: 4 }]);
  assert.ok(sameLeaves(leaves, leaves));
  assert.ok(!sameLeaves(leaves, leaves.slice(1)));
});

test('a value keeps what both layouts name, wherever it lies and however wide it is now', () => {
  const old = [
    { name: 'a', offset: 0, size: 2 },
    { name: 'gone', offset: 2, size: 2 },
    { name: 'b', offset: 4, size: 4 },
  ];
  const now = [
    { name: 'b', offset: 0, size: 4 },
    { name: 'fresh', offset: 4, size: 4 },
    { name: 'a', offset: 8, size: 4 },
  ];
  const translate = translator({ leaves: old, size: 8 }, { leaves: now, size: 12 });
  assert.deepEqual(
    [...translate(Uint8Array.of(1, 2, 9, 9, 5, 6, 7, 8))],
    [5, 6, 7, 8, 0, 0, 0, 0, 1, 2, 0, 0],
  );
  const grown = translator({ leaves: undefined, size: 2 }, { leaves: now, size: 4 });
  assert.deepEqual([...grown(Uint8Array.of(1, 2))], [1, 2, 0, 0]);
  const one = translator(
    { leaves: [{ name: '', offset: 0, size: 4 }], size: 4 },
    { leaves: [{ name: '', offset: 0, size: 8 }], size: 8 },
  );
  assert.deepEqual([...one(Uint8Array.of(1, 2, 3, 4))], [1, 2, 3, 4, 0, 0, 0, 0]);
});
