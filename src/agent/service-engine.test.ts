import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { isNetError } from '../errors/index.ts';
import { chooseEngine } from './service-engine.ts';

// Once a node lost its Services for as long as one agent lived: a probe had met a pending signal, "auto" took that for
// a kernel without eBPF, and the other engine took what was pinned away.
test('auto falls back to nftables on a kernel without eBPF, and never where eBPF serves already', (t) => {
  const bpffs = mkdtempSync(join(tmpdir(), 'portolan-engine-'));
  const before = process.env['PORTOLAN_FAKE_MISSING'];
  process.env['PORTOLAN_FAKE_MISSING'] = 'hashMaps';
  t.after(() => {
    if (before === undefined) delete process.env['PORTOLAN_FAKE_MISSING'];
    else process.env['PORTOLAN_FAKE_MISSING'] = before;
    rmSync(bpffs, { recursive: true });
  });
  const chosen = chooseEngine('auto', bpffs);
  assert.equal(chosen.name, 'nftables');
  assert.match(chosen.because ?? '', /not eBPF: .*hash maps/);
  mkdirSync(join(bpffs, 'lb-v1'));
  assert.deepEqual(chooseEngine('auto', bpffs), { name: 'ebpf', because: undefined });
  assert.equal(chooseEngine('nftables', bpffs).name, 'nftables');
  assert.throws(
    () => chooseEngine('ebpf', bpffs),
    (error) => isNetError(error, 'KERNEL_FEATURE_MISSING'),
  );
});
