import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { afterEach } from 'node:test';
import { isNetError, type NetError } from '../../../errors/index.ts';
import { bpfFeatures } from '../../../kernel/bpf/index.ts';
import { ENGINE_NEEDS } from './needs.ts';
import { openObjects } from './objects.ts';

afterEach(() => {
  delete process.env.PORTOLAN_FAKE_MISSING;
});

const keyOf = (name: string) => Object.entries(bpfFeatures).find(([, feature]) => feature.name === name)![0];

test('on a kernel that lacks something indispensable the engine says what, since when, and where to read', () => {
  const folder = mkdtempSync(join(tmpdir(), 'portolan-needs-'));
  try {
    for (const { feature, without } of ENGINE_NEEDS) {
      if (without !== undefined) continue;
      process.env.PORTOLAN_FAKE_MISSING = keyOf(feature.name);
      assert.throws(
        () => openObjects(folder, {}),
        (error: NetError) => {
          assert.ok(isNetError(error, 'KERNEL_FEATURE_MISSING'));
          assert.equal(error.message, `Cannot use ${feature.name}: this kernel has none`);
          assert.match(error.remedy, /^Requires Linux >= \d.*docs\/kernels\.md/);
          return true;
        },
      );
      assert.deepEqual(readdirSync(folder), []);
    }
  } finally {
    rmdirSync(folder);
  }
});

test('every need says what it is for and since which kernel it is there', () => {
  for (const { feature, usedFor } of ENGINE_NEEDS) {
    assert.match(feature.requires, /^Linux >= \d+\.\d+/);
    assert.notEqual(usedFor, '');
  }
});
