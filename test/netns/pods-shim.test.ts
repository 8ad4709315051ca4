import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { distPath } from '../../src/kernel/paths.ts';
import { startWithChannel } from '../../src/kernel/process/channel.ts';
import { identify } from '../../src/kernel/process/identity.ts';
import { encodeRequest } from '../../src/pods/process/request.ts';

const shim = distPath('native/pod-shim');

/** What the shim answers to these bytes; undefined when it ends without an answer. */
async function answer(role: string, bytes: Uint8Array, end = false): Promise<string[] | undefined> {
  const channel = await startWithChannel(shim, [role, 'test'], bytes);
  if (end) channel.close();
  const words = await channel.next();
  channel.close();
  return words;
}

const request = (fields: Parameters<typeof encodeRequest>[0], ...mounts: unknown[]) =>
  encodeRequest(fields, mounts as Parameters<typeof encodeRequest>[1]);

test('the shim refuses every request that is not as it should be, and says why', async () => {
  const raw = (...words: string[]) => Buffer.from(`${words.join('\0')}\0\0`);
  const self = identify(process.pid)!;
  const process_ = { pid: self.pid, start: self.startTicks };
  const cases: [string, Uint8Array, RegExp][] = [
    ['sandbox', raw('portolan-pod/2'), /another version/],
    ['sandbox', raw('portolan-pod/1', 'dir'), /a word without "="/],
    ['sandbox', raw('portolan-pod/1', 'color=red'), /unknown key "color"/],
    ['sandbox', raw('portolan-pod/1', 'dir=/a', 'dir=/b'), /"dir" comes twice/],
    ['sandbox', raw('portolan-pod/1', 'dir=/a'), /"hostname" is missing/],
    ['sandbox', raw('portolan-pod/1', 'uid=12x'), /"uid" is not a number/],
    ['sandbox', raw('portolan-pod/1', 'uid='), /"uid" is not a number/],
    ['sandbox', raw('portolan-pod/1', 'uid=1234567890123456789'), /"uid" is not a number/],
    ['sandbox', raw('portolan-pod/1', 'target=/x'), /"target" comes before a mount/],
    ['sandbox', raw('portolan-pod/1', 'mount=floppy'), /unknown mount "floppy"/],
    ['sandbox', request({ dir: '/no/such', hostname: 'h' }), /open "\/no\/such"/],
    [
      'sandbox',
      request({ dir: '/tmp', hostname: 'h', netns: '/no/netns' }),
      /enter network namespace "\/no\/netns"/,
    ],
    ['container', request({ dir: '/tmp', log: '/dev/null' }), /"arg" is missing/],
    ['container', request({ dir: '/tmp', log: '/dev/null', arg: ['true'] }), /"pid" is missing/],
    [
      'exec',
      request({ arg: ['true'], pid: self.pid, start: self.startTicks + 1 }),
      /another process has its number/,
    ],
    ['exec', request({ arg: ['true'], pid: 999_999_999, start: 1 }), /open process/],
    ['exec', request({ arg: ['true'], ...process_, cgroup: '/no/cgroup' }), /open "\/no\/cgroup"/],
  ];
  for (const [role, bytes, want] of cases) {
    const words = await answer(role, bytes);
    assert.equal(words?.[0], 'error', `${role} ${want}`);
    assert.match(words![2]!, want);
  }
});

test('a request cut at any place starts nothing', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'pt-shim-'));
  try {
    const whole = request({
      dir: folder,
      hostname: 'cut',
      volume: ['a:65536'],
      sysctl: ['net.core.somaxconn=1'],
    });
    for (let size = 0; size < whole.length; size++) {
      const words = await answer('sandbox', whole.subarray(0, size), true);
      assert.notEqual(words?.[0], 'ok', `cut after ${size} bytes`);
    }
    assert.deepEqual(readdirSync(folder), []);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('random requests never crash the shim', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'pt-shim-'));
  const keys = [
    'dir',
    'arg',
    'env',
    'mount',
    'target',
    'source',
    'size',
    'place-file',
    'uid',
    'group',
    'caps',
    'volume',
    'x',
    '',
  ];
  const values = [
    '',
    '/',
    'layer',
    'tmpfs',
    '1',
    '-1',
    '../..',
    'a'.repeat(5000),
    '/no/such',
    '\xff\xfe',
    '%s%n',
  ];
  let seed = 7;
  const pick = <T>(list: T[]) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return list[seed % list.length]!;
  };
  try {
    mkdirSync(join(folder, 'mnt'));
    for (let i = 0; i < 150; i++) {
      const words = ['portolan-pod/1'];
      for (let n = 0; n < 1 + (i % 12); n++) words.push(`${pick(keys)}=${pick(values)}`);
      const told = await answer(
        pick(['sandbox', 'container', 'exec']),
        Buffer.from(`${words.join('\0')}\0\0`, 'latin1'),
      );
      assert.equal(told?.[0], 'error', words.join(' '));
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('nothing of a request shows in argv, and wrong usage is told', () => {
  assert.throws(
    () => execFileSync(shim, ['dance'], { stdio: 'pipe' }),
    (error: { status?: number; stderr?: Buffer }) =>
      error.status === 2 && /usage: pod-shim/.test(String(error.stderr)),
  );
});
