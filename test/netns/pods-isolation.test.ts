import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { isNetError } from '../../src/errors/index.ts';
import { cgroup2, logLines, startPod, testNode } from '../lib/pods.ts';
import { eventually } from '../lib/until.ts';

const sh = (script: string) => ['sh', '-c', script];
const nsenter = (pid: number, ...command: string[]) =>
  execFileSync('nsenter', ['-t', String(pid), '-a', '-r', '-w', ...command], { encoding: 'utf8' }).trim();

test('a container has namespaces of its own, shared by its pod where they should be', async () => {
  await using node = testNode();
  const runner = await node.open();
  const a = await startPod(node, runner, ['sleep', '60']);
  const b = await startPod(node, runner, ['sleep', '61']);
  const sandbox = runner.sandbox(a.sandboxId)!;
  const pid = runner.container(a.id)!.pid!;
  const other = runner.container(b.id)!.pid!;
  for (const kind of ['net', 'mnt', 'pid', 'uts', 'ipc']) {
    const mine = readlinkSync(`/proc/${pid}/ns/${kind}`);
    assert.notEqual(mine, readlinkSync(`/proc/self/ns/${kind}`), `${kind} differs from the host's`);
    assert.notEqual(mine, readlinkSync(`/proc/${other}/ns/${kind}`), `${kind} differs from the other pod's`);
    if (kind !== 'mnt')
      assert.equal(mine, readlinkSync(`/proc/${sandbox.pid}/ns/${kind}`), `${kind} is the sandbox's`);
  }
  // What the node's socket programs are attached to.
  const groups = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
  assert.ok(groups.includes(`0::${node.cgroupRoot.slice(cgroup2.length)}/${a.sandboxId}/${a.id}`), groups);
  assert.equal(nsenter(pid, 'hostname'), sandbox.metadata.name);
  const processes = nsenter(pid, 'ps', '-eo', 'comm=').split('\n').sort();
  assert.deepEqual(processes, ['pod-sandbox', 'ps', 'sleep']);
  assert.deepEqual(await node.leftovers(runner), []);
});

test('the files of the host are there read-only, scratch folders are empty and writable', async () => {
  await using node = testNode();
  const runner = await node.open();
  const { id, logPath } = await startPod(
    node,
    runner,
    sh(`touch /usr/x /etc/x /x /sys/x /proc/sys/kernel/hostname 2>&1
for d in /tmp /var/tmp /run /dev/shm /root; do ls -A $d; touch $d/x && echo wrote $d; done
cat /etc/shadow; cat /etc/hostname; cat /etc/resolv.conf; ls /dev | tr '\\n' ' '; echo; ls /sys/class/net; echo >/proc/sys/kernel/core_pattern
ls /proc/kcore -l | cut -c1; cat /proc/1/comm; umount /tmp; mount -t tmpfs x /mnt; id -u; grep CapEff /proc/self/status; echo done`),
  );
  await eventually('end', () => runner.container(id)!.state === 'exited');
  const lines = logLines(logPath);
  const text = lines.join('\n');
  assert.equal(text.match(/touch: cannot touch '\/(usr|etc)?\/?x': Read-only file system/g)?.length, 3, text);
  for (const folder of ['/tmp', '/var/tmp', '/run', '/dev/shm', '/root'])
    assert.ok(lines.includes(`wrote ${folder}`), `${folder} is writable: ${text}`);
  assert.ok(!text.includes('root:'), 'no password hashes');
  assert.ok(text.includes('nameserver 10.96.0.10'));
  const devices =
    'fd full mqueue null ptmx pts random shm stderr stdin stdout termination-log tty urandom zero';
  assert.ok(text.includes(devices), text);
  assert.ok(lines.includes('lo'));
  // The usual default set is a80425fb; bit 27 is MKNOD.
  assert.ok(text.includes('CapEff:\t00000000a00425fb'), text);
  const errors = logLines(logPath, 'stderr').join('\n');
  assert.match(errors, /core_pattern: Read-only file system/);
  assert.match(errors, /umount: .*(must be superuser|not permitted|permission)/i);
  assert.ok(!existsSync('/usr/x'));
  assert.deepEqual(await node.leftovers(runner), []);
});

test('volumes appear where the host has no such place, and links of the host do not lead them astray', async () => {
  await using node = testNode();
  const runner = await node.open();
  const empty = join(node.stateDir, 'empty');
  const config = join(node.stateDir, 'config');
  mkdirSync(empty);
  chmodSync(empty, 0o777);
  mkdirSync(config);
  writeFileSync(join(config, 'default.conf'), 'listen 80;\n');
  const { id, logPath } = await startPod(
    node,
    runner,
    sh(`cat /etc/nginx-pt/conf.d/default.conf; touch /etc/nginx-pt/conf.d/y; echo data > /data/pt/f
echo more >> /srv/one.conf; cat /srv/one.conf; touch /data/other; echo 1 > /memory-pt/m; df --output=fstype /memory-pt | tail -1
ls /var/run/pt-x >/dev/null && echo linked; head -1 /etc/passwd | cut -d: -f1; id -u; id -G; echo $FOO $HOME; pwd; exec false`),
    {
      sandbox: { memoryVolumes: [{ name: 'mem', sizeBytes: 1 << 20 }] },
      container: {
        mounts: [
          { source: { hostPath: config }, containerPath: '/etc/nginx-pt/conf.d', readonly: true },
          { source: { hostPath: empty }, containerPath: '/data/pt', readonly: false },
          { source: { hostPath: empty }, containerPath: '/var/run/pt-x', readonly: false },
          {
            source: { hostPath: join(config, 'default.conf') },
            containerPath: '/srv/one.conf',
            readonly: true,
          },
          { source: { memoryVolume: 'mem' }, containerPath: '/memory-pt', readonly: false },
        ],
        env: [{ name: 'FOO', value: 'bar baz' }],
        workingDir: '/data/pt',
        security: {
          uid: 1234,
          gid: 1235,
          groups: [1235, 77],
          privileged: false,
          addCapabilities: [],
          dropCapabilities: ['ALL'],
          noNewPrivileges: true,
        },
      },
    },
  );
  const ended = await eventually('end', () => {
    const status = runner.container(id)!;
    return status.state === 'exited' && status;
  });
  assert.equal(ended.exitCode, 1);
  assert.equal(ended.reason, 'Error');
  assert.deepEqual(logLines(logPath), [
    'listen 80;',
    'listen 80;',
    'tmpfs',
    'linked',
    'root',
    '1234',
    '1235 77',
    'bar baz /',
    '/data/pt',
  ]);
  const errors = logLines(logPath, 'stderr').join('\n');
  assert.match(errors, /conf.d\/y': Read-only file system/);
  assert.match(errors, /one.conf: (Read-only file system|Permission denied)/);
  assert.match(errors, /'\/data\/other': Read-only file system/);
  assert.equal(readFileSync(join(empty, 'f'), 'utf8'), 'data\n');
  assert.ok(!existsSync('/data/pt') && !existsSync('/memory-pt') && !existsSync('/etc/nginx-pt'));
  assert.deepEqual(await node.leftovers(runner), []);
});

test('a command that cannot be run says why, and leaves nothing running', async () => {
  await using node = testNode();
  const runner = await node.open();
  await assert.rejects(startPod(node, runner, ['/no/such/program']), (error) => {
    assert.ok(isNetError(error, 'PODS_SHIM_FAILED'));
    assert.match(error.message, /run "\/no\/such\/program"/);
    return true;
  });
  const [container] = runner.containers();
  assert.equal(container!.state, 'exited');
  assert.equal(container!.reason, 'StartError');
  assert.equal(container!.exitCode, 128);
  assert.deepEqual(await node.leftovers(runner), []);
});

test('a failing network leaves no sandbox behind', async () => {
  await using node = testNode();
  const runner = await node.open();
  node.network.failNext = new Error('no address left');
  await assert.rejects(startPod(node, runner, ['true']), (error) =>
    isNetError(error, 'PODS_SANDBOX_NETWORK'),
  );
  assert.equal(runner.sandboxes().length, 0);
  assert.deepEqual(await node.leftovers(runner), []);
});

test('exec runs beside the container, hands on code and streams, and is ended at its time', async () => {
  await using node = testNode();
  const runner = await node.open();
  const { id } = await startPod(node, runner, ['sleep', '60'], { sandbox: { hostname: 'inside' } });
  const answer = await runner.execSync(id, sh('hostname; echo oops >&2; exit 7'));
  assert.deepEqual(
    [answer.exitCode, answer.stdout.toString(), answer.stderr.toString(), answer.timedOut],
    [7, 'inside\n', 'oops\n', false],
  );
  const late = await runner.execSync(id, sh('sleep 50 & sleep 51; true'), { timeoutMs: 200 });
  assert.equal(late.timedOut, true);
  await eventually('killed commands are gone', () => {
    const listed = nsenter(runner.container(id)!.pid!, 'ps', '-eo', 'args=');
    return !listed.includes('sleep 5');
  });
  await assert.rejects(runner.execSync(id, ['/no/such']), (error) => isNetError(error, 'PODS_SHIM_FAILED'));
  const session = await runner.exec(id, ['cat'], { stdin: true });
  session.stdin!.end('through\n');
  let text = '';
  for await (const chunk of session.stdout!) text += chunk;
  assert.equal(text, 'through\n');
  assert.equal((await session.exited).exitCode, 0);
  assert.deepEqual(await node.leftovers(runner), []);
});
