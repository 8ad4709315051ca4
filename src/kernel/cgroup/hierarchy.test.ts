import assert from 'node:assert/strict';
import test from 'node:test';
import { isNetError } from '../../errors/index.ts';
import { cgroupRoot } from './hierarchy.ts';

const LINES = {
  hybrid: '36 30 0:31 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw',
  cgroup1: '37 30 0:32 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu',
  unified: '30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate',
  bound: '99 23 0:26 /user.slice /srv/x rw - cgroup2 cgroup2 rw',
};

test('cgroupRoot() finds cgroup2 alone and beside cgroup1, and no bind mount of a part of it', () => {
  assert.equal(cgroupRoot([LINES.cgroup1, LINES.hybrid].join('\n')), '/sys/fs/cgroup/unified');
  assert.equal(cgroupRoot([LINES.bound, LINES.unified].join('\n')), '/sys/fs/cgroup');
  for (const none of ['', LINES.cgroup1, LINES.bound])
    assert.throws(
      () => cgroupRoot(none),
      (error) => isNetError(error, 'CGROUP_NO_V2'),
    );
});
