import assert from 'node:assert/strict';
import { once } from 'node:events';
import test, { after, before } from 'node:test';
import { type Lab, podOf, run, serviceOf, startLab } from '../lib/lab.ts';
import { until } from '../lib/until.ts';

const WEB = ['busybox', 'httpd', '-f', '-p', '8080', '-h', '/usr/share'];

let lab: Lab;
before(async () => {
  lab = await startLab('--dual-stack', '--no-direct-routing');
});
after(() => lab?.down());

test('a hostPort leads to its pod from outside, and a second pod that wants it is told who has it', async () => {
  const statusOf = (url: string) => ['curl', '-s', '-m', '3', '-o', '/dev/null', '-w', '%{http_code}', url];
  const underlay = (url: string) =>
    run('sh', lab.inside(lab.netns('underlay'), lab.outside, statusOf(url)).slice(1));
  const [node] = await lab
    .get<{ items: { status: { addresses: { type: string; address: string }[] } }[] }>('nodes')
    .then(({ items }) => items);
  const addresses = node!.status.addresses.filter(({ type }) => type === 'InternalIP');
  assert.equal(addresses.length, 2);
  const pod = (name: string) =>
    podOf(name, WEB, { nodeName: 'node1', container: { ports: [{ containerPort: 8080, hostPort: 8765 }] } });
  await lab.apply(pod('hosted'));
  await lab.waitReady('app=hosted');
  for (const { address } of addresses) {
    const url = `http://${address.includes(':') ? `[${address}]` : address}:8765/`;
    await until(async () => /^[234]\d\d$/.test((await underlay(url)).stdout), { what: `${url} answers` });
    // By the node itself, at loopback as well.
    const { stdout } = await lab.exec('node1', statusOf('http://127.0.0.1:8765/'));
    assert.match(stdout, /^[234]\d\d$/);
  }
  // Bound past the scheduler, which would not have done so.
  await lab.apply(pod('late'));
  await until(
    async () => {
      const { items } = await lab.get<{
        items: { reason: string; message: string; involvedObject: { name: string } }[];
      }>('events');
      return items.some(
        ({ reason, message, involvedObject }) =>
          reason === 'HostPortConflict' &&
          involvedObject.name === 'late' &&
          message.includes('pod "default/hosted"'),
      );
    },
    { what: 'an Event HostPortConflict' },
  );
  await lab.kubectl(['delete', 'pod', 'hosted', 'late', '--wait=false']);
});

test('load balancers that ask a node hear when it is about to go, and those of a Service that its port is taken', async () => {
  const ask = async (path: string) => {
    const { stdout } = await lab.exec('node2', [
      ...['curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', '--max-time', '5'],
      `http://172.31.0.11:10256${path}`,
    ]);
    return stdout;
  };
  const become = (path: string, code: string) => until(async () => (await ask(path)) === code);
  await become('/healthz', '200');
  await lab.kubectl(['taint', 'node', 'node1', 'ToBeDeletedByClusterAutoscaler=1:NoSchedule']);
  await become('/healthz', '503');
  assert.equal(await ask('/livez'), '200');
  await lab.kubectl(['taint', 'node', 'node1', 'ToBeDeletedByClusterAutoscaler-']);
  await become('/healthz', '200');

  const script =
    'import socket,time; s=socket.create_server(("0.0.0.0",31999)); print("on",flush=True); time.sleep(99)';
  const other = lab.start(lab.netns('node1'), lab.cgroup('node1'), ['python3', '-c', script]);
  await once(other.stdout, 'data');
  const local = { type: 'LoadBalancer', externalTrafficPolicy: 'Local', healthCheckNodePort: 31_999 };
  await lab.apply(serviceOf('asked', { app: 'hello' }, [{ port: 80 }], local));
  const events = async () =>
    (await lab.kubectl(['get', 'events', '--field-selector=involvedObject.name=asked'])).replace(/ +/g, ' ');
  const says = (text: RegExp) => until(async () => text.test(await events()));
  await says(/FailedToStartServiceHealthcheck service\/asked node1: .*EADDRINUSE/);
  other.kill();
  await says(/ServiceHealthcheckStarted service\/asked node1: /);
  // `describe` asks for Events by the uid of the Service.
  assert.match(await lab.kubectl(['describe', 'service', 'asked']), /FailedToStartServiceHealthcheck/);
  await lab.kubectl(['delete', 'service', 'asked']);
});

test('the Service kubernetes leads pods and nodes to the API server', async () => {
  const version = ['curl', '-sk', '-m', '10', 'https://10.96.0.1/version'];
  assert.match(await lab.mustExec('node2', version), /gitVersion/);
  assert.match(
    (await lab.podExec('node1', 'hello-1', version).then(({ stdout }) => stdout)) || '',
    /gitVersion/,
  );
});

test('a Service without endpoints refuses at once, 40 of 40, from a node and from a pod', async () => {
  await lab.apply(
    serviceOf('empty', { app: 'nobody' }, [{ port: 80 }], {
      clusterIP: '10.96.0.200',
      ipFamilyPolicy: 'PreferDualStack',
    }),
  );
  const { spec } = await lab.get<{ spec: { clusterIPs: string[] } }>('service', 'empty');
  const script = `
    const net = require('node:net');
    const once = (host) => new Promise((resolve) => {
      const begun = performance.now();
      const socket = net.connect({ host, port: 80 });
      socket.setTimeout(1000, () => { socket.destroy(); resolve('timeout'); });
      socket.on('connect', () => { socket.destroy(); resolve('connected'); });
      socket.on('error', (e) => resolve(performance.now() - begun < 250 ? e.code : e.code + ' late'));
    });
    (async () => {
      const seen = {};
      for (let i = 0; i < 40; i++) { const got = await once(process.argv[1]); seen[got] = (seen[got] ?? 0) + 1; }
      console.log(JSON.stringify(seen));
    })();`;
  await until(
    async () =>
      (await lab.ask<string[]>('node1', 'service', 'maps')).filter((line) => line.includes('10.96.0.200'))
        .length > 0,
    { what: 'the empty Service in the maps' },
  );
  for (const address of spec.clusterIPs) {
    const command = [process.execPath, '-e', script, address];
    const [fromNode, fromPod] = await Promise.all([
      lab.exec('node1', command),
      lab.podExec('node1', 'hello-1', command),
    ]);
    for (const { stdout, stderr } of [fromNode, fromPod])
      assert.equal(stdout.trim(), '{"ECONNREFUSED":40}', `${address} ${stderr}`);
  }
  // As a packet that no socket hook saw: outside of every cgroup of the node, in the namespace of the pod.
  const outside = lab.inside(await lab.podNetns('node1', 'hello-1'), lab.outside, [
    process.execPath,
    '-e',
    script,
    spec.clusterIPs[0]!,
  ]);
  const { run } = await import('../lib/lab.ts');
  const { stdout, stderr } = await run(outside[0]!, outside.slice(1));
  assert.equal(stdout.trim(), '{"ECONNREFUSED":40}', `by tc ${stderr}`);
});

test('UDP through a ClusterIP; a connected socket is closed when its backend goes', async () => {
  const echo = (name: string, nodeName: string) =>
    podOf(name, ['socat', 'UDP4-RECVFROM:5300,fork', `SYSTEM:read line; echo ${name}`], {
      nodeName,
      labels: { app: 'udp' },
      container: { ports: [{ name: 'dns', containerPort: 5300, protocol: 'UDP' }] },
    });
  await lab.apply([
    echo('udp-1', 'node2'),
    serviceOf('udp', { app: 'udp' }, [{ name: 'dns', port: 53, protocol: 'UDP', targetPort: 'dns' }], {
      clusterIP: '10.96.0.201',
    }),
  ]);
  await lab.waitReady('app=udp');
  const script = `
    const socket = require('node:dgram').createSocket('udp4');
    socket.on('message', (text) => console.log(String(text).trim()));
    // The pod's own refusal, between its end and that of its endpoint, ends nothing.
    socket.on('error', (error) => { console.log(error.code); if (error.code !== 'ECONNREFUSED') process.exit(); });
    socket.connect(53, '10.96.0.201', () => setInterval(() => socket.send('x\\n'), 50));`;
  const client = lab.start(await lab.podNetns('node1', 'hello-1'), lab.cgroup('node1', 'pods'), [
    process.execPath,
    '-e',
    script,
  ]);
  let said = '';
  client.stdout.on('data', (part: Buffer) => (said += part));
  try {
    await until(() => said.includes('udp-1'), { what: () => `an answer of udp-1: ${said}` });
    await lab.apply(echo('udp-2', 'node3'));
    await lab.waitReady('app=udp');
    await lab.kubectl(['delete', 'pod', 'udp-1', '--wait=false']);
    await until(() => /ECONNABORTED|EPIPE|udp-2/.test(said), {
      what: () => `the socket's end: ${said.slice(-200)}`,
    });
    const again = await until(
      async () =>
        (await lab.podExec('node1', 'hello-1', ['sh', '-c', 'echo x | socat -T1 -t1 - UDP4:10.96.0.201:53']))
          .stdout,
      { what: 'udp-2 for a new socket' },
    );
    assert.equal(again.trim(), 'udp-2');
  } finally {
    client.kill('SIGKILL');
  }
});

test('a connection from outside that one side has ended is kept for an hour, not for a minute', async () => {
  const silent =
    'import socket; s = socket.create_server(("", 8090)); c = s.accept()[0]; c.recv(1); c.recv(1); s.accept()';
  await lab.apply([
    podOf('silent', ['/usr/bin/python3', '-c', silent], { nodeName: 'node1', port: 8090 }),
    serviceOf('silent', { app: 'silent' }, [{ port: 80, targetPort: 8090, nodePort: 31_995 }], {
      type: 'NodePort',
    }),
  ]);
  await lab.waitReady('app=silent');
  const ending =
    'import socket, time; s = socket.create_connection(("172.31.0.11", 31995)); s.send(b"x"); s.shutdown(1); time.sleep(60)';
  const client = lab.start(lab.netns('underlay'), lab.outside, ['python3', '-c', ending]);
  try {
    const seconds = await until(
      async () => {
        const { stdout } = await lab.exec('node1', ['conntrack', '-L', '-p', 'tcp', '--state', 'CLOSE_WAIT']);
        return /tcp +6 (\d+) CLOSE_WAIT src=\S+ dst=\S+ sport=\d+ dport=8090 /.exec(stdout)?.[1];
      },
      { what: 'a half closed connection in conntrack' },
    );
    assert.ok(Number(seconds) > 3000, `${seconds} s`);
  } finally {
    client.kill('SIGKILL');
    await lab.kubectl(['delete', 'service/silent', 'pod/silent', '--wait=false']);
  }
});

test('endpoints change under an established connection, which stays', async () => {
  const echo = (name: string, nodeName: string) =>
    podOf(
      name,
      ['socat', 'TCP4-LISTEN:7000,fork,reuseaddr', `SYSTEM:while read line; do echo ${name}; done`],
      {
        nodeName,
        labels: { app: 'echo' },
        port: 7000,
      },
    );
  await lab.apply([
    echo('echo-1', 'node1'),
    echo('echo-2', 'node2'),
    echo('echo-3', 'node3'),
    serviceOf('echo', { app: 'echo' }, [{ port: 7000, targetPort: 'main' }], { clusterIP: '10.96.0.202' }),
  ]);
  await lab.waitReady('app=echo');
  await until(
    async () =>
      (await lab.ask<string[]>('node1', 'service', 'maps')).some((line) =>
        /10\.96\.0\.202:7000.*:7000, .*:7000, .*:7000/.test(line),
      ),
    { what: 'three backends' },
  );
  const client = lab.start(await lab.podNetns('node1', 'hello-1'), lab.cgroup('node1', 'pods'), [
    'socat',
    '-',
    'TCP4:10.96.0.202:7000',
  ]);
  const answers: string[] = [];
  let ended = false;
  client.on('exit', () => (ended = true));
  client.stdout.on('data', (part: Buffer) => answers.push(...String(part).trim().split('\n')));
  const ask = async () => {
    const before = answers.length;
    client.stdin.write('?\n');
    await until(() => answers.length > before, { what: 'an answer on the old connection' });
    return answers.at(-1)!;
  };
  try {
    const own = await ask();
    const others = ['echo-1', 'echo-2', 'echo-3'].filter((name) => name !== own);
    await lab.kubectl(['delete', 'pod', others[0]!]);
    assert.equal(await ask(), own);
    const seen = new Set<string>();
    for (let round = 0; round < 12; round++) {
      const { stdout } = await lab.exec('node2', [
        ...['sh', '-c', 'echo x | socat -T10 -t10 - TCP4:10.96.0.202:7000,connect-timeout=10'],
      ]);
      seen.add(stdout.trim());
    }
    assert.deepEqual([...seen].sort(), [own, others[1]!].sort(), 'new connections go to those that are left');
    assert.equal(await ask(), own);
    assert.equal(ended, false);
  } finally {
    client.kill('SIGKILL');
  }
});
