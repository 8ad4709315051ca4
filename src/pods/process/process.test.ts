import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { isNetError } from '../../errors/index.ts';
import type { SandboxConfig } from '../types.ts';
import { capabilityMask } from './capabilities.ts';
import { hostsFile, resolvConf } from './files.ts';
import { type HostView, type MountsInput, planMounts } from './mounts.ts';
import { parseContainerEnd, parseContainerRun, parseSandboxPid } from './records.ts';
import { encodeRequest, type MountOp } from './request.ts';

/** A host of folders, files and links by path. */
function host(files: Record<string, 'folder' | 'file' | `-> ${string}`>): HostView {
  const follow = (path: string): string | undefined => {
    let at = '';
    for (const part of path.split('/').filter(Boolean)) {
      at += `/${part}`;
      const found = files[at];
      if (found === undefined) return undefined;
      if (found.startsWith('-> ')) {
        const target = follow(found.slice(3));
        if (target === undefined) return undefined;
        at = target;
      }
    }
    return at || '/';
  };
  return {
    realPath: follow,
    kind(path) {
      const real = follow(path);
      return real === '/' ? 'folder' : real === undefined ? undefined : (files[real] as 'folder' | 'file');
    },
    isLink: (path) => files[path]?.startsWith('-> ') === true,
  };
}

const debian = host({
  '/etc': 'folder',
  '/etc/hosts': 'file',
  '/etc/hostname': 'file',
  '/etc/resolv.conf': '-> /run/systemd/resolve/stub-resolv.conf',
  '/etc/shadow': 'file',
  '/run': 'folder',
  '/tmp': 'folder',
  '/proc': 'folder',
  '/sys': 'folder',
  '/dev': 'folder',
  '/root': 'folder',
  '/home': 'folder',
  '/var': 'folder',
  '/var/tmp': 'folder',
  '/var/run': '-> /run',
  '/var/lib': 'folder',
});

function plan(rest: Partial<MountsInput> = {}): string[] {
  const ops = planMounts({
    hostMounts: [
      { mountPoint: '/', fsType: 'ext4' },
      { mountPoint: '/proc', fsType: 'proc' },
      { mountPoint: '/home', fsType: 'ext4' },
      { mountPoint: '/run/netns', fsType: 'tmpfs' },
      { mountPoint: '/var/lib', fsType: 'xfs' },
      { mountPoint: '/mnt/gone', fsType: 'ext4' },
      { mountPoint: '/home/auto', fsType: 'autofs' },
    ],
    host: debian,
    volumes: [],
    files: [
      { source: '/s/hosts', target: '/etc/hosts', readonly: false },
      { source: '/s/resolv', target: '/etc/resolv.conf', readonly: false },
    ],
    masked: ['/etc/shadow', '/no/such'],
    privileged: false,
    ...rest,
  });
  return ops.map(print);
}

function print(op: MountOp): string {
  const target = 'target' in op ? op.target : op.source;
  const places = 'places' in op ? op.places.map((one) => ` +${one.path}${one.file ? '' : '/'}`).join('') : '';
  const source = 'source' in op && op.kind !== 'layer' ? ` <- ${op.source}` : '';
  return `${op.kind} ${target}${source}${'readonly' in op && op.readonly ? ' ro' : ''}${places}`;
}

test('planMounts() takes the host over read-only, and makes what must be own', () => {
  assert.deepEqual(
    plan().filter((line) => !/^(mask|readonly) \/(proc|sys)/.test(line)),
    [
      'layer / +/etc/resolv.conf',
      'layer /home',
      'layer /var/lib',
      'proc /proc',
      'sysfs /sys ro',
      'dev /dev',
      'shared /dev/shm <- /shm',
      'mqueue /dev/mqueue',
      'tmpfs /tmp',
      'tmpfs /var/tmp',
      'tmpfs /run',
      'tmpfs /root',
      'mask /etc/shadow',
      'bind /etc/hosts <- /s/hosts',
      'bind /etc/resolv.conf <- /s/resolv',
    ],
  );
});

test('planMounts() makes a missing mount point on the layer it lies on, and follows links of the host', () => {
  const volume = (target: string) => ({ source: { hostPath: '/v' }, file: false, target, readonly: true });
  const lines = plan({
    volumes: [
      volume('/var/lib/app/data/deep'),
      volume('/var/lib/app/data'),
      volume('/var/run/x'),
      volume('/data'),
      volume('/home'),
      volume('/srv/../opt'),
    ],
  });
  assert.deepEqual(
    lines.filter((line) => line.startsWith('layer')),
    ['layer / +/data/ +/opt/ +/etc/resolv.conf', 'layer /home', 'layer /var/lib +/var/lib/app/data/'],
  );
  const binds = lines.filter((line) => line.includes('<- /v'));
  assert.deepEqual(binds.slice(-1), ['bind /var/lib/app/data/deep <- /v ro'], 'parents first');
  assert.ok(binds.includes('bind /run/x <- /v ro'));
});

test('planMounts() refuses a volume on "/" and one of the wrong type', () => {
  const volume = (target: string, file: boolean) => ({
    volumes: [{ source: { hostPath: '/v' }, file, target, readonly: false }],
  });
  assert.throws(
    () => plan(volume('/', false)),
    (error) => isNetError(error, 'PODS_BAD_REQUEST'),
  );
  assert.throws(
    () => plan(volume('/etc', true)),
    (error) => isNetError(error, 'PODS_MOUNT_TYPE'),
  );
  assert.throws(
    () => plan(volume('/etc/hostname', false)),
    (error) => isNetError(error, 'PODS_MOUNT_TYPE'),
  );
});

test('a volume on a file of the pod replaces it', () => {
  const lines = plan({
    volumes: [{ source: { hostPath: '/v' }, file: true, target: '/etc/hosts', readonly: true }],
  });
  assert.deepEqual(
    lines.filter((line) => line.includes('/etc/hosts')),
    ['bind /etc/hosts <- /v ro'],
  );
});

test('encodeRequest() writes words ended by NUL, and refuses NUL in a value and too much', () => {
  const text = encodeRequest({ dir: '/d', uid: 0, flag: true, none: undefined, arg: ['a', 'b=c'] }, [
    { kind: 'layer', source: '/', places: [{ path: '/x', file: false }] },
  ]).toString();
  assert.equal(
    text,
    [
      'portolan-pod/1',
      'dir=/d',
      'uid=0',
      'flag=1',
      'arg=a',
      'arg=b=c',
      'mount=layer',
      'source=/',
      'target=/',
      'place-folder=/x',
      '',
      '',
    ].join('\0'),
  );
  assert.throws(
    () => encodeRequest({ dir: 'a\0b' }),
    (error) => isNetError(error, 'PODS_BAD_REQUEST'),
  );
  assert.throws(() => encodeRequest({ arg: ['x'.repeat(1 << 20)] }), /at most 1048576/);
});

test('capabilityMask() has the usual default without MKNOD, and rules for ALL', () => {
  const of = (add: string[], drop: string[], privileged = false) =>
    capabilityMask({ addCapabilities: add, dropCapabilities: drop, privileged }).toString(16);
  assert.equal(of([], []), 'a00425fb');
  assert.equal(of([], ['ALL']), '0');
  assert.equal(of(['NET_ADMIN'], ['ALL']), '1000');
  assert.equal(of(['CAP_NET_ADMIN'], ['net_raw']), (0xa00425fbn + 0x1000n - 0x2000n).toString(16));
  assert.equal(of([], [], true), '1ffffffffff');
  assert.equal(of(['ALL'], ['CHOWN']), '1fffffffffe');
  assert.throws(() => of(['FLY'], []), /"FLY", which no kernel knows/);
});

test('files of the shim are read strictly', () => {
  assert.deepEqual(parseSandboxPid('12 345\n'), { pid: 12, startTicks: 345 });
  assert.deepEqual(parseContainerRun('1 2 3 4 1700000000123456789\n'), {
    process: { pid: 1, startTicks: 2 },
    monitor: { pid: 3, startTicks: 4 },
    startedAtMs: 1_700_000_000_123,
  });
  assert.deepEqual(parseContainerEnd('137 9 1700000000000000000'), {
    exitCode: 137,
    signal: 9,
    finishedAtMs: 1_700_000_000_000,
  });
  for (const bad of ['', '1', '1 2 3 4', 'a b', '-1 2', '1  2', '256 0 1', '0 99 1', '1.5 2']) {
    assert.equal(bad.split(' ').length === 2 ? parseSandboxPid(bad) : undefined, undefined, bad);
    assert.equal(parseContainerRun(bad), undefined, bad);
    assert.equal(parseContainerEnd(bad), undefined, bad);
  }
  fc.assert(
    fc.property(fc.string(), (text) => {
      parseSandboxPid(text);
      parseContainerRun(text);
      const end = parseContainerEnd(text);
      assert.ok(end === undefined || end.exitCode <= 255);
    }),
  );
});

test('hosts and resolv.conf are written as kubelet does', () => {
  const config = {
    hostname: 'web',
    hostNetwork: false,
    hostAliases: [{ ip: '1.2.3.4', hostnames: ['a', 'b'] }],
  };
  const lines = hostsFile(config as unknown as SandboxConfig, ['10.0.0.1', 'fd00::1'], '')
    .trimEnd()
    .split('\n');
  assert.deepEqual(lines.slice(-3), ['10.0.0.1\tweb', 'fd00::1\tweb', '1.2.3.4\ta\tb']);
  const own = hostsFile({ ...config, hostNetwork: true } as unknown as SandboxConfig, [], '127.0.0.1 node\n');
  assert.equal(own, '127.0.0.1 node\n1.2.3.4\ta\tb\n');
  const none = { servers: [], searches: [], options: [] };
  assert.equal(resolvConf(none, 'nameserver 9.9.9.9\n'), 'nameserver 9.9.9.9\n');
  assert.equal(
    resolvConf({ ...none, searches: ['x.y'], options: ['ndots:5'] }, '# c\nnameserver 9.9.9.9\nsearch z\n'),
    'search x.y\nnameserver 9.9.9.9\noptions ndots:5\n',
  );
});
