import assert from 'node:assert/strict';
import test, { afterEach } from 'node:test';
import { isNetError } from '../../errors/index.ts';
import { ERRNO } from '../syscall/index.ts';
import { bpfFeatures, feature, featureVerdict, requireFeature } from './features.ts';

afterEach(() => {
  delete process.env.PORTOLAN_FAKE_MISSING;
});

test('a feature named in PORTOLAN_FAKE_MISSING counts as missing, while it is named', () => {
  process.env.PORTOLAN_FAKE_MISSING = 'ringBuffers,tcx';
  assert.equal(bpfFeatures.tcx.available(), false);
  assert.equal(bpfFeatures.ringBuffers.available(), false);
  assert.throws(
    () => requireFeature(bpfFeatures.tcx),
    (error) =>
      isNetError(error, 'KERNEL_FEATURE_MISSING') &&
      error.message.includes('tcx links') &&
      error.remedy.includes('Linux >= 6.6'),
  );
});

test('only a clear answer of a probe is remembered', () => {
  const answers = [undefined, true, false];
  const probed = feature('x', 'Linux >= 9', () => answers.shift());
  assert.equal(probed.available(), undefined);
  requireFeature(probed);
  assert.equal(probed.available(), true);
  assert.equal(probed.available(), true);
});

test('what says something about this moment only is no answer', () => {
  for (const errno of [ERRNO.EPERM, ERRNO.EAGAIN, ERRNO.EINTR, ERRNO.ENOMEM, ERRNO.EBUSY])
    assert.equal(featureVerdict(-errno), undefined, String(errno));
  assert.equal(featureVerdict(-ERRNO.EINVAL), false);
});
