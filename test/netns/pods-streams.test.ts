/** exec, attach, port-forward, cp and logs of pods in a lab, by both kubectls: WebSocket (1.32) and SPDY (1.20). */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { startAgain, stopProcess } from '../../src/lab/restart.ts';
import { kubectls } from '../lib/kubectl.ts';
import { type Lab, startLab } from '../lib/lab.ts';
import { until } from '../lib/until.ts';

let lab: Lab;
const folder = mkdtempSync(join(tmpdir(), 'portolan-streams-'));
const children: ChildProcess[] = [];

const pod = (name: string, command: string[], extra: object[] = []) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace: 'default' },
  spec: {
    terminationGracePeriodSeconds: 0,
    containers: [{ name: 'main', image: 'none', command }, ...extra],
  },
});
const ticking = 'i=0; while :; do i=$((i+1)); echo tick $i; echo tock $i >&2; sleep 0.2; done';

before(async () => {
  lab = await startLab('--nodes', '2');
  const items = [
    // Listens on localhost only: a connection must be made inside the pod.
    pod('echo', ['socat', 'TCP-LISTEN:7777,bind=127.0.0.1,reuseaddr,fork', 'EXEC:cat']),
    pod('ticker', ['sh', '-c', ticking], [{ name: 'side', image: 'none', command: ['sleep', '600'] }]),
  ];
  await lab.apply(JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));
  await lab.kubectl(['wait', '--for=condition=Ready', 'pod', '--all', '--timeout=30s']);
});

after(async () => {
  for (const child of children) child.kill('SIGKILL');
  await lab?.down();
  rmSync(folder, { recursive: true, force: true });
});

for (const { path, version } of kubectls()) {
  const options = { env: { ...process.env, KUBECONFIG: '', HOME: folder }, timeout: 20_000 };
  const kubectl = (args: string[], input: string | Buffer = '') => {
    const { status, stdout, stderr } = spawnSync(path, ['--kubeconfig', lab.kubeconfig, ...args], {
      ...options,
      input,
      maxBuffer: 64 << 20,
    });
    return { status, stdout, stderr: stderr.toString(), text: stdout.toString() };
  };
  const start = (args: string[], stdin: 'ignore' | 'pipe' = 'ignore') => {
    const child = spawn(path, ['--kubeconfig', lab.kubeconfig, ...args], {
      env: options.env,
      stdio: [stdin, 'pipe', 'pipe'],
    });
    children.push(child);
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream!.on('data', (chunk: Buffer) => {
        output += chunk.toString();
      });
    return { child, output: () => output };
  };

  test(`kubectl ${version} exec: output on its own stream, and the exit status of the command`, () => {
    const { status, text, stderr } = kubectl([
      'exec',
      'echo',
      '--',
      'sh',
      '-c',
      'echo out; echo err >&2; exit 3',
    ]);
    assert.deepEqual([status, text], [3, 'out\n']);
    assert.match(stderr, /^err\n/m);
    assert.match(stderr, /exit code 3/);
    const inside = kubectl(['exec', 'echo', '--', 'sh', '-c', 'hostname; cat /proc/net/dev']).text;
    assert.match(inside, /^echo\n/);
    assert.match(inside, /eth0:/);
    assert.match(kubectl(['exec', 'ticker', '-c', 'side', '--', 'cat', '/proc/1/comm']).text, /pod-sandbox/);
  });

  test(`kubectl ${version} exec -i: megabytes in both directions arrive whole, and the end of input with them`, () => {
    const bytes = randomBytes(3 << 20);
    const sum = createHash('sha256').update(bytes).digest('hex');
    assert.ok(kubectl(['exec', '-i', 'echo', '--', 'sha256sum'], bytes).text.startsWith(sum));
    assert.ok(kubectl(['exec', '-i', 'echo', '--', 'cat'], bytes).stdout.equals(bytes));
    assert.equal(
      kubectl(['exec', 'echo', '--', 'head', '-c', '8000000', '/dev/zero']).stdout.length,
      8_000_000,
    );
  });

  test(`kubectl ${version} exec -it: a terminal with the size of the client's`, () => {
    // script(1) gives kubectl a terminal; its size is set before kubectl starts.
    const line = `stty rows 31 cols 97; exec ${path} --kubeconfig ${lab.kubeconfig} exec -it echo -- sh -c 'sleep 0.5; tty; stty size; exit 5'`;
    const { status, stdout } = spawnSync('script', ['-qec', line, '/dev/null'], { ...options, input: '' });
    assert.match(stdout.toString(), /\/dev\/pts\/\d+\r?\n31 97\r?\n/);
    assert.equal(status, 5);
  });

  test(`kubectl ${version}: a command ends when its client is gone`, async () => {
    const { child } = start(['exec', 'echo', '--', 'sleep', '98765']);
    const runs = async () =>
      (await lab.mustExec('node1', ['sh', '-c', 'ps -eo args | grep -c "^sleep 9876[5]" || true'])).trim() !==
      '0';
    await until(runs, { seconds: 10, what: 'the command runs' });
    child.kill('SIGKILL');
    await until(async () => !(await runs()), { seconds: 10, what: 'the command ended' });
  });

  test(`kubectl ${version} port-forward reaches what listens on localhost of the pod, many connections at once`, async () => {
    const { child, output } = start(['port-forward', 'pod/echo', ':7777']);
    const port = await until(() => /127\.0\.0\.1:(\d+) ->/.exec(output())?.[1], {
      seconds: 10,
      what: 'the port',
    });
    const echoed = (bytes: Buffer) =>
      new Promise<Buffer>((resolve, reject) => {
        const parts: Buffer[] = [];
        let size = 0;
        const socket = createConnection({ host: '127.0.0.1', port: Number(port) }, () => socket.write(bytes));
        socket.on('data', (part) => {
          parts.push(part);
          size += part.length;
          if (size >= bytes.length) socket.end();
        });
        socket.on('close', () => resolve(Buffer.concat(parts)));
        socket.on('error', reject);
      });
    const sent = Array.from({ length: 8 }, (_, i) => randomBytes(1000 * 4 ** (i % 5)));
    const got = await Promise.all(sent.map(echoed));
    for (const [i, bytes] of got.entries()) assert.ok(bytes.equals(sent[i]!), `${i}: ${bytes.length}`);
    child.kill('SIGTERM');
  });

  test(`kubectl ${version} port-forward says why when nothing listens there`, async () => {
    const { child, output } = start(['port-forward', 'pod/echo', ':9']);
    const port = await until(() => /127\.0\.0\.1:(\d+) ->/.exec(output())?.[1], {
      seconds: 10,
      what: 'the port',
    });
    createConnection({ host: '127.0.0.1', port: Number(port) }).on('error', () => {});
    await until(() => /localhost port 9 in the pod: ECONNREFUSED/.test(output()), {
      seconds: 10,
      what: () => `the reason in ${output()}`,
    });
    child.kill('SIGTERM');
  });

  test(`kubectl ${version} cp copies there and back`, () => {
    const [there, back] = [join(folder, `there-${version}`), join(folder, `back-${version}`)];
    writeFileSync(there, randomBytes(300_000));
    const copied = kubectl(['cp', there, `echo:/tmp/file-${version}`]);
    assert.equal(copied.status, 0, copied.stderr);
    assert.equal(kubectl(['cp', `echo:/tmp/file-${version}`, back]).status, 0);
    assert.ok(readFileSync(there).equals(readFileSync(back)));
  });

  test(`kubectl ${version} logs -f and attach follow the output`, async () => {
    const logs = start(['logs', '-f', '--tail=1', 'ticker', '-c', 'main']);
    const attached = start(['attach', 'ticker', '-c', 'main']);
    await until(() => (logs.output().match(/tick \d+/g)?.length ?? 0) > 3, {
      seconds: 10,
      what: 'log lines',
    });
    await until(() => /tick \d+/.test(attached.output()) && /tock \d+/.test(attached.output()), {
      seconds: 10,
      what: () => `both streams in ${attached.output()}`,
    });
    logs.child.kill('SIGTERM');
    attached.child.kill('SIGTERM');
  });

  test(`kubectl ${version}: an agent that is killed ends its sessions with an error, and the next one serves again`, async () => {
    const { child, output } = start(['exec', 'echo', '--', 'sh', '-c', 'echo begun; sleep 600']);
    await until(() => output().includes('begun'), { seconds: 10, what: 'the command runs' });
    const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
    const { spec } = await lab.get<{ spec: { nodeName: string } }>('pod', 'echo');
    await stopProcess(lab.name, spec.nodeName, true);
    assert.equal(await ended, 1);
    assert.match(output(), /the node of the pod was lost/);
    await startAgain(lab.name, spec.nodeName);
    await until(() => kubectl(['exec', 'echo', '--', 'echo', 'again']).text === 'again\n', {
      seconds: 15,
      what: 'exec works again',
    });
  });

  test(`kubectl ${version}: what cannot be done is told before the connection is taken over`, () => {
    assert.match(kubectl(['exec', 'nobody', '--', 'true']).stderr, /pods "nobody" not found/);
    assert.match(kubectl(['exec', 'echo', '-c', 'x', '--', 'true']).stderr, /container x is not valid/);
    const missing = kubectl(['exec', 'echo', '--', '/no/such/command']);
    assert.notEqual(missing.status, 0);
    assert.match(missing.stderr, /no\/such\/command/);
  });

  test(`kubectl ${version}: a node's credentials and the controllers' may run nothing in pods`, () => {
    for (const who of ['system:node:node1', 'system:portolan:controller']) {
      const groups = who.startsWith('system:node') ? 'system:nodes' : 'system:portolan:controllers';
      for (const verb of [
        ['exec', 'echo', '--', 'true'],
        ['attach', 'echo'],
        ['port-forward', 'pod/echo', ':7777'],
      ]) {
        const { status, stderr } = kubectl(['--as', who, '--as-group', groups, ...verb]);
        assert.notEqual(status, 0);
        assert.match(stderr, /cannot create resource "pods\/\w+"|orbidden/, `${who} ${verb[0]}: ${stderr}`);
      }
    }
  });
}
