import assert from 'node:assert/strict';
import test from 'node:test';
import { MASQUERADE_PORTS } from '../../../kernel/nft/index.ts';
import { natRange } from './nat.ts';

const EPHEMERAL = [32_768, 60_999] as const;
const NODE_PORTS = [30_000, 32_767] as const;

test('the range for flows lies as high as it can, apart from the ports that others use', () => {
  const taken = [EPHEMERAL, NODE_PORTS, MASQUERADE_PORTS];
  assert.deepEqual(natRange(16_384, [EPHEMERAL, NODE_PORTS]), [13_616, 29_999]);
  // The further ones, right below.
  assert.deepEqual(natRange(8_192, [...taken, [13_616, 29_999]]), [5_424, 13_615]);
  assert.deepEqual(natRange(4_096, [EPHEMERAL, NODE_PORTS, MASQUERADE_PORTS]), [25_904, 29_999]);
  assert.deepEqual(natRange(4_096, [EPHEMERAL, NODE_PORTS]), [61_440, 65_535]);
  assert.deepEqual(natRange(16_384, [[1_024, 60_999]]), undefined);
  assert.deepEqual(natRange(1_024, [[10_000, 65_535], NODE_PORTS]), [8_976, 9_999]);
});
