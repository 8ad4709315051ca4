/** Bad input as a user meets it: each is told with a code, what is wrong, and what to do; nothing is harmed. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ApiClient, loadKubeconfig, resources } from '../../src/client/index.ts';
import { installCni } from '../../src/cni/index.ts';
import { cgroupRoot } from '../../src/kernel/cgroup/index.ts';
import { startAgain, stopProcess } from '../../src/lab/restart.ts';
import { execPlugin } from '../lib/cnitool.ts';
import { freePort, type Lab, podOf, portolan, portolanCommand, run, startLab } from '../lib/lab.ts';
import { until } from '../lib/until.ts';

let lab: Lab;
let folder: string;
before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'pt-cli-'));
  lab = await startLab('--nodes', '2', '--no-direct-routing', '--pod-link', 'bridge');
});
after(async () => {
  await lab?.down();
  rmSync(folder, { recursive: true, force: true });
});

/** Everything of a lab's name that is on this machine. */
function traces(name: string): string[] {
  const list = (path: string) =>
    existsSync(path) ? readdirSync(path).map((entry) => join(path, entry)) : [];
  const processes = readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(`/run/${name}/`);
      } catch {
        return false;
      }
    });
  return [
    ...[...list('/run'), ...list('/run/netns'), ...list('/sys/fs/bpf'), ...list(cgroupRoot())].filter(
      (path) => path.split('/').some((part) => part === name || part.startsWith(`${name}-`)),
    ),
    ...processes.map((pid) => `process ${pid}`),
  ];
}

test('wrong usage ends with 2 and says what is wrong', async () => {
  for (const [args, want] of [
    [['lab', 'up', '--bogus'], /unknown option '--bogus'/],
    [['lab', 'frob'], /unknown command 'frob'/],
    [['lab', 'up', '--nodes', 'x'], /--nodes <count>.*'x' is invalid/],
    [['frob'], /unknown command 'frob'/],
    [['lab', 'exec'], /missing required argument 'node'/],
    [['completion', 'tcsh'], /want bash, zsh or fish/],
    [['agent'], /required option '--kubeconfig <path>' not specified/],
  ] as const) {
    const { status, stderr } = await portolan(args, { env: { KUBECONFIG: undefined } });
    assert.equal(status, 2, args.join(' '));
    assert.match(stderr, want);
    assert.doesNotMatch(stderr, / at .*\.[tj]s:\d/, 'no stack');
  }
});

test('output that finds no room is a failure, told in a line; a reader that has seen enough is none', async () => {
  const command = portolanCommand.map((word) => `'${word}'`).join(' ');
  const full = await run('sh', ['-c', `${command} --help > /dev/full`]);
  assert.deepEqual(
    [full.status, full.stderr],
    [1, 'error: Cannot write to standard output: ENOSPC: no space left on device, write\n'],
  );
  const enough = await run('sh', ['-c', `${command} completion bash | head -n 1`]);
  assert.deepEqual([enough.status, enough.stderr], [0, '']);
});

test('bad values are told with a code and a remedy: exit 2 for an option, 1 for what is not there', async () => {
  const missing = '/nonexistent/config';
  for (const [args, want] of [
    [['lab', 'up', '--name', 'Bad_Name'], /error\[LAB_BAD_OPTION\].*--name Bad_Name.*want up to 31/],
    [['lab', 'up', '--nodes', '0'], /LAB_BAD_OPTION.*--nodes 0: want 1 to/],
    [['lab', 'up', '--backend', 'wireguard'], /LAB_BAD_OPTION.*want vxlan or host-gw/],
    [['lab', 'status', '--name', 'pt-none'], /error\[LAB_NOT_RUNNING\]/],
    [['doctor', 'firewall', '--cluster-cidr', 'foo'], /error\[ADDR_BAD_CIDR\].*"foo"/],
    [
      ['lab', 'exec', '--name', lab.name, 'node9', '--', 'true'],
      /LAB_NO_SUCH_NODE.*\n {2}Its nodes are node1, node2/,
    ],
    [
      ['lab', 'restart', '--name', lab.name, 'etcd'],
      /LAB_NO_SUCH_PROCESS.*\n {2}It has apiserver, controllers, node1/,
    ],
    [['agent', '--kubeconfig', missing], /CLIENT_KUBECONFIG_UNREADABLE.*ENOENT/],
    [['agent', '--kubeconfig', missing, '--backend', 'x'], /AGENT_BAD_OPTION.*vxlan or host-gw/],
    [
      ['agent', '--kubeconfig', missing, '--cluster-cidr', '10.0.0.0/8,10.244.0.0/16'],
      /AGENT_CIDR_OVERLAP.*10\.0\.0\.0\/8 and 10\.244/,
    ],
    [['agent', '--kubeconfig', missing, '--cluster-cidr', '10.0.0/8'], /AGENT_BAD_OPTION.*10\.0\.0\/8/],
    [
      [
        'apiserver',
        '--data-dir',
        join(folder, 'a'),
        '--service-cidr',
        '10.96.0.0/16',
        '--cluster-cidr',
        '10.0.0.0/8',
      ],
      /API_CIDR_OVERLAP.*"10\.96\.0\.0\/16" overlaps --cluster-cidr "10\.0\.0\.0\/8"/,
    ],
    [['controller', '--kubeconfig', missing, '--cluster-cidr', '10.0.0.0/8,10.1.0.0/16'], /error\[/],
    [['status', '--state-dir', join(folder, 'none')], /error\[AGENT_NOT_RUNNING\]/],
  ] as const) {
    const { status, stderr } = await portolan([
      ...args,
      ...(args[0] === 'agent' ? ['--state-dir', join(folder, 's')] : []),
    ]);
    assert.equal(status, /_BAD_OPTION|ADDR_BAD_CIDR/.test(stderr) ? 2 : 1, `${args.join(' ')}: ${stderr}`);
    assert.match(stderr, want, args.join(' '));
    assert.match(stderr, /\n {2}\S/, 'a remedy on a line of its own');
    assert.doesNotMatch(stderr, /INTERNAL| at .*\.[tj]s:\d/, args.join(' '));
  }
});

test('without root: the commands that need it say so, help works', async () => {
  const nobody = (...args: string[]) =>
    run('setpriv', [
      ...['--reuid', '65534', '--regid', '65534', '--clear-groups', '--', ...portolanCommand, ...args],
    ]);
  for (const [args, want] of [
    [['lab', 'up'], /error\[LAB_NEEDS_ROOT\]: Cannot run lab up: not root\n {2}.*sudo/],
    [['lab', 'down'], /LAB_NEEDS_ROOT/],
    [['lab', 'exec', 'node1', '--', 'true'], /LAB_NEEDS_ROOT/],
    [['lab', 'kubectl', '--name', lab.name, 'get', 'pods'], /LAB_NEEDS_ROOT/],
    [
      ['agent', '--kubeconfig', '/dev/null', '--state-dir', '/tmp/pt-nobody'],
      /KERNEL_NEEDS_ROOT.*\n {2}.*sudo/,
    ],
    [['status', '--state-dir', `/run/${lab.name}/node1`], /error\[AGENT_/],
    [['cleanup', '--state-dir', `/run/${lab.name}/node1`], /error\[KERNEL_NEEDS_ROOT/],
    [['apiserver', '--data-dir', '/root/none'], /error\[API_DATA_DIR/],
  ] as const) {
    const { status, stderr } = await nobody(...args);
    assert.equal(status, 1, `${args.join(' ')}: ${stderr}`);
    assert.match(stderr, want, args.join(' '));
    assert.doesNotMatch(stderr, /INTERNAL/, args.join(' '));
  }
  const { status, stdout } = await nobody('--help');
  assert.equal(status, 0);
  assert.match(stdout, /Examples:/);
});

test('a port in use is told before anything is made', async () => {
  const holder = createServer();
  const port = await freePort();
  await new Promise<void>((resolve) => holder.listen(port, '127.0.0.1', resolve));
  try {
    const name = `pt-port-${process.pid}`;
    const { status, stderr } = await portolan(['lab', 'up', '--name', name, '--port', String(port)]);
    assert.equal(status, 1);
    assert.match(
      stderr,
      new RegExp(`error\\[LAB_PORT_IN_USE\\].*${port} of 127\\.0\\.0\\.1 is in use\\n {2}.*--port`),
    );
    assert.deepEqual(traces(name), []);
    const server = await portolan(
      ['apiserver', '--data-dir', join(folder, 'busy'), '--listen', `127.0.0.1:${port}`],
      {
        timeoutMs: 20_000,
      },
    );
    assert.equal(server.status, 1);
    assert.match(server.stderr, /error\[API_PORT_IN_USE\].*is in use\n {2}.*--listen/);
  } finally {
    holder.close();
  }
});

test('a kernel without a needed feature is told by its name and the version that has it', async () => {
  const env = { PORTOLAN_FAKE_MISSING: 'socketHooks' };
  const args = ['agent', '--kubeconfig', lab.kubeconfig, '--state-dir', join(folder, 'old')];
  // In a namespace of its own: an agent that starts although it should not must not do so on this machine's network.
  const { status, stderr } = await run(
    'unshare',
    ['--net', ...portolanCommand, ...args, '--service-engine', 'ebpf', '--node-ip', '192.0.2.9'],
    { env, timeoutMs: 20_000 },
  );
  assert.equal(status, 1, stderr);
  assert.match(
    stderr,
    /error\[KERNEL_FEATURE_MISSING\]: Cannot use cgroup socket hooks.*\n {2}Requires Linux >= 5\.8/,
  );
  assert.equal(existsSync(join(folder, 'old')), false, 'nothing was made');
});

test('broken manifests are refused with the field, and nothing of them is kept', async () => {
  const pod = podOf('broken', ['true']);
  const service = (spec: object) => ({
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 'broken' },
    spec,
  });
  for (const [manifest, want] of [
    ['apiVersion: v1\nkind: Pod\nmetadata: {name: broken\n', /error (parsing|converting)/],
    [{ ...pod, kind: 'Pood' }, /no matches for kind "Pood"/],
    [{ ...pod, spec: { ...pod.spec, contaners: [] } }, /unknown field "spec\.contaners"/],
    [{ ...pod, spec: {} }, /spec\.containers: Required value/],
    [{ ...pod, metadata: { name: 'Not_A_Name' } }, /metadata\.name: Invalid value: "Not_A_Name"/],
    [
      { ...pod, spec: { ...pod.spec, restartPolicy: 'Sometimes' } },
      /spec\.restartPolicy: Unsupported value: "Sometimes"/,
    ],
    [
      { ...pod, spec: { ...pod.spec, terminationGracePeriodSeconds: 'soon' } },
      /terminationGracePeriodSeconds/,
    ],
    [
      service({ ports: [{ port: 99_999 }] }),
      /spec\.ports\[0\]\.port: Invalid value: 99999: must be between 1 and 65535/,
    ],
    [service({ ports: [{ port: 80 }], clusterIP: '192.0.2.1' }), /spec\.clusterIPs?.*192\.0\.2\.1/],
    [service({ ports: [{ port: 80 }], clusterIP: '10.96.0.80' }), /10\.96\.0\.80.*already allocated/],
    [service({ ports: [] }), /spec\.ports: Required value/],
    [{ ...pod, metadata: { name: 'broken', namespace: 'nowhere' } }, /namespaces "nowhere" not found/],
  ] as const) {
    const input = typeof manifest === 'string' ? manifest : JSON.stringify(manifest);
    const { status, stderr } = await lab.tryKubectl(['apply', '-f', '-'], { input });
    assert.equal(status, 1, `${input}: ${stderr}`);
    assert.match(stderr, want);
  }
  const { stderr } = await lab.tryKubectl(['get', 'pod,svc', 'broken']);
  assert.match(stderr, /"broken" not found/);
});

test('a CNI configuration with a misspelt key is refused with the key that was meant', async () => {
  const [binDir, confDir] = [join(folder, 'bin'), join(folder, 'conf')];
  installCni({ binDir, confDir, socketPath: `/run/${lab.name}/node1/cni.sock` });
  const config = { cniVersion: '1.1.0', name: 'portolan', type: 'portolan-cni', mtuu: 1400 };
  const env = {
    CNI_COMMAND: 'ADD',
    CNI_CONTAINERID: 'x1',
    CNI_NETNS: '/run/netns/none',
    CNI_IFNAME: 'eth0',
    CNI_PATH: binDir,
  };
  const { status, stdout } = await execPlugin(join(binDir, 'portolan-cni'), env, JSON.stringify(config));
  assert.notEqual(status, 0);
  const told = JSON.parse(stdout) as { code: number; msg: string; details?: string };
  assert.ok(told.code > 0);
  assert.match(`${told.msg} ${told.details}`, /"mtuu".*"mtu"/);
});

test('a foreign link called flannel.1 is named with a remedy and never deleted; all is well when it goes', async () => {
  await stopProcess(lab.name, 'node2', false);
  await lab.mustExec('node2', ['ip', 'link', 'del', 'flannel.1']);
  await lab.mustExec('node2', ['ip', 'link', 'add', 'flannel.1', 'type', 'bridge']);
  await startAgain(lab.name, 'node2');
  const status = await until(
    async () => {
      const outcome = await lab.cli('exec', 'node2', '--', ...portolanCommand, 'status');
      return /flannel\.1/.test(outcome.stdout.split('problem')[1] ?? '') && outcome;
    },
    { what: 'the problem in "portolan status"' },
  );
  assert.equal(status.status, 1);
  assert.match(status.stdout, /problem overlay: .*"flannel\.1".*bridge.*\n {2}\S/);
  await sleep(1000);
  const [link] = await lab.jsonExec<{ linkinfo: { info_kind: string } }[]>('node2', [
    ...['ip', '-j', '-d', 'link', 'show', 'flannel.1'],
  ]);
  assert.equal(link!.linkinfo.info_kind, 'bridge', 'still there');
  await lab.mustExec('node2', ['ip', 'link', 'del', 'flannel.1']);
  await until(async () => (await lab.cli('exec', 'node2', '--', ...portolanCommand, 'status')).status === 0, {
    what: 'no problem',
  });
});

test('chains that somebody else keeps are left alone, whatever they are called', async () => {
  const mine = `table ip portolanish {
  chain mine { type filter hook input priority 0; tcp dport 1 drop
  }
}
table ip6 mine {
  chain overlay_input {
  }
}
`;
  const { stderr } = await lab.exec('node2', ['nft', '-f', '-'], { input: mine });
  assert.equal(stderr, '');
  await stopProcess(lab.name, 'node2', false);
  await startAgain(lab.name, 'node2');
  await sleep(500);
  const tables = await lab.mustExec('node2', ['nft', 'list', 'ruleset']);
  assert.match(tables, /table ip portolanish \{\s+chain mine/);
  assert.match(tables, /table ip6 mine/);
  assert.deepEqual((await lab.ask<{ changes: string[] }>('node2', 'overlay', 'plan')).changes, []);
  await lab.exec('node2', ['nft', '-f', '-'], {
    input: 'delete table ip portolanish; delete table ip6 mine',
  });
});

test('a full disk: the store refuses with a clear error, goes on reading, loses nothing, and recovers', async () => {
  const disk = join(folder, 'disk');
  mkdirSync(disk);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', disk]);
  const port = await freePort();
  const start = () =>
    spawn(
      portolanCommand[0]!,
      [
        ...portolanCommand.slice(1),
        'apiserver',
        '--data-dir',
        join(disk, 'data'),
        '--listen',
        `127.0.0.1:${port}`,
      ],
      {
        stdio: ['ignore', 'ignore', 'pipe'],
      },
    );
  let server = start();
  const ended = (child: typeof server) =>
    new Promise<number | null>((resolve) => child.once('exit', resolve));
  let client: ApiClient | undefined;
  const connect = () =>
    until(
      async () => {
        const file = join(disk, 'data/admin.kubeconfig');
        if (!existsSync(file)) return undefined;
        const one = new ApiClient(loadKubeconfig(file));
        try {
          await one.raw('GET', '/readyz', undefined, { retryForMs: 0 });
          return one;
        } catch {
          one.close();
          return undefined;
        }
      },
      { what: 'the API server on the small disk' },
    );
  try {
    client = await connect();
    const kept: string[] = [];
    let refusal: Error | undefined;
    for (let at = 0; at < 200 && !refusal; at++) {
      const name = `big-${at}`;
      try {
        await client.create(
          resources.configMaps,
          {
            apiVersion: 'v1',
            kind: 'ConfigMap',
            metadata: { name, namespace: 'default' },
            data: { text: String(at).repeat(30_000) },
          } as never,
          { retryForMs: 0 },
        );
        kept.push(name);
      } catch (error) {
        refusal = error as Error;
      }
    }
    assert.ok(refusal, 'the disk is full at last');
    assert.match(refusal.message, /disk is full/i);
    const list = async () =>
      (await client!.listAll(resources.configMaps, { namespace: 'default' }))
        .map(({ metadata }) => metadata.name)
        .filter((name) => name.startsWith('big-'))
        .sort();
    assert.deepEqual(await list(), [...kept].sort(), 'reads go on');
    // Started on the full disk: all is there, or it says why it cannot.
    server.kill('SIGKILL');
    await ended(server);
    client.close();
    client = undefined;
    server = start();
    let said = '';
    server.stderr!.on('data', (part: Buffer) => (said += part));
    const first = await Promise.race([ended(server), connect().then((one) => (client = one))]);
    if (typeof first === 'number') assert.match(said, /error\[STORE_FULL\].*disk is full/);
    else {
      assert.deepEqual(await list(), [...kept].sort(), 'a start on the full disk keeps all');
      server.kill('SIGKILL');
      await ended(server);
    }
    (client as ApiClient | undefined)?.close();
    client = undefined;
    execFileSync('mount', ['-o', 'remount,size=32m', disk]);
    server = start();
    client = await connect();
    assert.deepEqual(await list(), [...kept].sort(), 'nothing was lost');
    await client.create(resources.configMaps, {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'after', namespace: 'default' },
    } as never);
  } finally {
    client?.close();
    server.kill('SIGKILL');
    if (server.exitCode === null && server.signalCode === null) await ended(server);
    execFileSync('umount', [disk]);
  }
});

test('Ctrl-C at any point of lab up leaves nothing', async () => {
  for (const [at, title] of ['Underlay', 'API server', 'Controllers', 'Agents'].entries()) {
    const name = `pt-int-${process.pid}-${at}`;
    const child = spawn(
      portolanCommand[0]!,
      [
        ...portolanCommand.slice(1),
        'lab',
        'up',
        '--name',
        name,
        '--nodes',
        '1',
        '--port',
        String(await freePort()),
      ],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    let said = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (part: Buffer) => (said += part));
    const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
    // Somewhere in the step after this one.
    await until(() => said.includes(`✔ ${title}`), { everyMs: 5, what: () => `step ${title}: ${said}` });
    await sleep(at * 40);
    const begun = performance.now();
    child.kill('SIGINT');
    assert.equal(await ended, 130, said);
    assert.match(said, /interrupted; everything that was made has been removed/);
    assert.deepEqual(traces(name), [], title);
    assert.ok(performance.now() - begun < 15_000, 'it does not wait for what it waited for');
  }
});

test('a lab up that is killed in the middle is ended by lab down', async () => {
  const name = `pt-ruin-${process.pid}`;
  const words = ['lab', 'up', '--name', name, '--nodes', '1', '--port', String(await freePort())];
  const child = spawn(portolanCommand[0]!, [...portolanCommand.slice(1), ...words], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (part: Buffer) => (said += part));
  const ended = new Promise((resolve) => child.once('exit', resolve));
  try {
    await until(() => said.includes('✔ Controllers'), { everyMs: 5, what: () => said });
    child.kill('SIGKILL');
    await ended;
    // Its processes go on: that counts as running, and "down" ends it.
    const refused = await portolan(words);
    assert.match(refused.stderr, /LAB_RUNNING/);
    assert.equal((await portolan(['lab', 'down', '--name', name])).status, 0);
    assert.deepEqual(traces(name), []);
    const again = await portolan(words);
    assert.equal(again.status, 0, again.stderr);
  } finally {
    child.kill('SIGKILL');
    await portolan(['lab', 'down', '--name', name]);
  }
  assert.deepEqual(traces(name), []);
});

test('cleanup names what it would remove, refuses beside a running agent, and leaves nothing of ours', async () => {
  const flags = ['--cni-bin-dir', join(folder, 'bin2'), '--cni-conf-dir', join(folder, 'conf2')];
  const cleanup = (...more: string[]) =>
    lab.cli('exec', 'node1', '--', ...portolanCommand, 'cleanup', ...flags, ...more);
  const busy = await cleanup();
  assert.equal(busy.status, 1);
  assert.match(busy.stderr, /error\[AGENT_RUNNING\]/);
  await stopProcess(lab.name, 'node1', false);
  await lab.mustExec('node1', ['ip', 'link', 'add', 'mine', 'type', 'bridge']);
  await lab.mustExec('node1', ['ip', 'route', 'add', '10.77.0.0/24', 'via', '172.31.0.12']);
  const links = async () =>
    (await lab.jsonExec<{ ifname: string }[]>('node1', ['ip', '-j', 'link']))
      .map(({ ifname }) => ifname)
      .sort();
  const before = await links();
  assert.ok(before.includes('flannel.1') && before.includes('portolan0'));
  const dry = await cleanup('--dry-run');
  assert.equal(dry.status, 0, dry.stderr);
  assert.match(dry.stdout, /ip link del flannel\.1/);
  assert.match(dry.stdout, /nft delete table ip portolan/);
  assert.match(dry.stdout, /^ip link del po[0-9a-f]{11}$/m);
  assert.match(dry.stdout, /^ip link del portolan0$/m);
  assert.match(dry.stdout, new RegExp(`/sys/fs/bpf/${lab.name}/node1`));
  assert.deepEqual(await links(), before, 'a dry run removes nothing');
  const done = await cleanup();
  assert.equal(done.status, 0, done.stderr);
  assert.deepEqual(await links(), ['eth0', 'lo', 'mine']);
  const { stdout: routes } = await lab.exec('node1', ['ip', 'route']);
  assert.doesNotMatch(routes, /proto 250/);
  assert.match(routes, /10\.77\.0\.0\/24/);
  assert.doesNotMatch(await lab.mustExec('node1', ['nft', 'list', 'ruleset']), /portolan/);
  assert.deepEqual(
    [
      ...readdirSync('/run/netns').filter((name) => name.startsWith(`${lab.name}-node1-`)),
      ...(existsSync(`/sys/fs/bpf/${lab.name}/node1`) ? ['bpffs'] : []),
      ...(existsSync(`/run/${lab.name}/node1`) ? readdirSync(`/run/${lab.name}/node1`) : []),
      ...(existsSync(lab.cgroup('node1', 'pods'))
        ? readdirSync(lab.cgroup('node1', 'pods'), { withFileTypes: true })
        : []
      )
        .filter((entry) => typeof entry === 'string' || entry.isDirectory())
        .map(String),
    ],
    [],
  );
  const again = await cleanup('--dry-run');
  assert.equal(again.stdout.trim(), 'nothing to remove');
});
