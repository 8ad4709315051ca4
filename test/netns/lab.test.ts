import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { type Lab, podOf, portolan, portolanCommand, run, serviceOf, startLab } from '../lib/lab.ts';
import { until } from '../lib/until.ts';

const root = join(import.meta.dirname, '../..');
const WEB = ['busybox', 'httpd', '-f', '-p', '8080', '-h', '/usr/share'];

let lab: Lab;
before(async () => {
  lab = await startLab('--dual-stack', '--no-direct-routing');
});
after(() => lab?.down());

/** Seconds until TCP connects or is refused; the errno's name or "ok". */
async function connect(
  from: { node: string; pod?: string },
  address: string,
  port: number,
  timeoutMs = 2000,
) {
  const script = `
    const socket = require('node:net').connect({ host: ${JSON.stringify(address)}, port: ${port} });
    socket.setTimeout(${timeoutMs}, () => { console.log('ETIMEDOUT'); process.exit(); });
    socket.on('connect', () => { console.log('ok'); process.exit(); });
    socket.on('error', (error) => { console.log(error.code); process.exit(); });`;
  const command = [process.execPath, '-e', script];
  const { stdout, stderr } = from.pod
    ? await lab.podExec(from.node, from.pod, command)
    : await lab.exec(from.node, command);
  return stdout.trim() || stderr;
}

test('lab up --json ends with every probe answered, in both families, nodes Ready and pods spread', () => {
  const { nodes, probes } = lab.report!;
  assert.equal(nodes.length, 3);
  for (const node of nodes) {
    assert.equal(node.ready, true);
    assert.equal(node.pods.length, 1, `one pod on ${node.name}`);
    assert.equal(node.podCidrs.length, 2);
  }
  // 6 sources (nodes, pods) to 3 pods and one Service, twice.
  assert.equal(probes.length, 48);
  for (const probe of probes) assert.ok(probe.micros !== undefined, JSON.stringify(probe));
});

test('VXLAN carries what crosses nodes: flannel.1 counts it', async () => {
  const packets = async () => {
    const [link] = await lab.jsonExec<{ stats64: { tx: { packets: number } } }[]>('node1', [
      ...['ip', '-j', '-s', 'link', 'show', 'flannel.1'],
    ]);
    return link!.stats64.tx.packets;
  };
  const target = lab.report!.nodes[1]!.pods[0] as unknown as { ips: string[] };
  const first = await packets();
  await lab.mustExec('node1', ['ping', '-c', '5', '-i', '0.01', '-W', '5', '-q', target.ips[0]!]);
  assert.ok((await packets()) >= first + 5);
});

test('a second lab up with the same name is refused and harms nothing', async () => {
  const { status, stderr } = await lab.cli('up', '--port', '1');
  assert.equal(status, 1);
  assert.match(stderr, /error\[LAB_RUNNING\]: Cannot start lab ".*": it is running\n {2}.*lab down/);
  assert.equal((await lab.cli('status')).status, 0);
});

test('kubectl get, describe, logs and events work as anywhere', async () => {
  const wide = await lab.cli('kubectl', 'get', 'nodes,pods,svc', '-o', 'wide');
  assert.equal(wide.status, 0, wide.stderr);
  assert.match(wide.stdout, /node\/node1 +Ready/);
  assert.match(wide.stdout, /pod\/hello-1 +1\/1 +Running/);
  assert.match(wide.stdout, /service\/hello +ClusterIP +10\.96\.0\.80/);
  const described = await lab.kubectl(['describe', 'pod', 'hello-1']);
  assert.match(described, /Status: +Running/);
  assert.match(described, /Started container|Started/);
  assert.match(await lab.kubectl(['describe', 'svc', 'hello']), /Endpoints: +\S+:8080/);
  assert.match(await lab.kubectl(['describe', 'node', 'node1']), /PodCIDRs: +10\.244\./);
  await lab.apply(podOf('talker', ['sh', '-c', 'echo one; echo two; exec sleep 1000']));
  await lab.waitReady('app=talker');
  assert.equal(await lab.kubectl(['logs', 'talker']), 'one\ntwo\n');
  assert.equal(await lab.kubectl(['logs', 'talker', '--tail=1']), 'two\n');
  assert.match(await lab.kubectl(['get', 'events']), /talker/);
});

test('the tour of the README works: guestbook, exec, status, a deleted route comes back', async () => {
  const tour = /## Five minutes\n\n```\n([\s\S]*?)```/.exec(
    readFileSync(join(root, 'README.md'), 'utf8'),
  )![1]!;
  const lines = tour
    .split('\n')
    .map((line) => line.replace(/ {2,}#.*/, '').trim())
    .filter((line) => line && !/lab (up|down)/.test(line));
  assert.ok(lines.length >= 8, tour);
  const told: string[] = [];
  for (const line of lines) {
    const words = [...line.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, bare]) => quoted ?? bare!);
    const [sudo, program, command, verb, ...rest] = words;
    if (program === 'nsenter') {
      const netns = command!.replace('portolan-lab-underlay', `${lab.name}-underlay`);
      const { status, stdout, stderr } = await run('nsenter', [netns, verb!, ...rest]);
      assert.equal(status, 0, `${line}: ${stderr}${stdout}`);
      assert.match(stdout, /Guestbook/, line);
      continue;
    }
    assert.deepEqual([sudo, program, command], ['sudo', './portolan', 'lab'], line);
    const args = rest.map((word) => (word.startsWith('examples/') ? join(root, word) : word));
    const { status, stdout, stderr } = await lab.cli(verb!, ...args);
    assert.equal(status, 0, `${line}: ${stderr}${stdout}`);
    told.push(stdout);
  }
  const text = told.join('\n');
  assert.match(text, /Guestbook, served by frontend-\d\nhello/);
  assert.match(text, /nothing to change/);
  assert.match(told.at(-1)!, /10\.244\.1\.0\/24/);
});

test('status, overlay plan, overlay list, pod list, service list, maps and diff speak JSON and text', async () => {
  const status = await lab.ask<Record<string, unknown>>('node1', 'status');
  assert.equal(status['ready'], true);
  assert.deepEqual(status['problems'], []);
  const { changes } = await lab.ask<{ changes: string[] }>('node1', 'overlay', 'plan');
  assert.deepEqual(changes, []);
  const peers = await lab.ask<{ node: string; via: string }[]>('node1', 'overlay', 'list');
  assert.deepEqual(
    peers.map(({ node, via }) => `${node} ${via}`),
    ['node2 vxlan', 'node2 vxlan', 'node3 vxlan', 'node3 vxlan'],
    'one row a family',
  );
  const pods = await lab.ask<{ name: string; phase: string }[]>('node1', 'pod', 'list');
  assert.ok(pods.some(({ name, phase }) => name.startsWith('hello') && phase === 'Running'));
  const services = await lab.ask<{ service: string; state: string }[]>('node1', 'service', 'list');
  assert.ok(services.some(({ service, state }) => service === 'default/hello' && state === 'done'));
  const maps = await lab.ask<string[]>('node1', 'service', 'maps');
  assert.ok(
    maps.some((line) => /10\.96\.0\.80:80\/TCP.*10\.244\.0\.\d+:8080/.test(line)),
    maps.join('\n'),
  );
  const shown = await lab.ask<{ ports: { backends: { state: string }[]; entries: string[] }[] }>(
    'node1',
    'service',
    'show',
    'default/hello',
    '--seconds',
    '0.1',
  );
  assert.ok(shown.ports[0]!.backends.some(({ state }) => state === 'ready'));
  assert.ok(shown.ports[0]!.entries.some((line) => line.startsWith('lb_frontends[10.96.0.80:80/TCP] = id ')));
  const packet = await lab.ask<{ verdict: string; service: string; client: string; entries: string[] }>(
    'node1',
    ...['service', 'explain', 'default/hello', '--from', '172.31.0.1', '--to', '10.96.0.80:80/tcp'],
  );
  assert.deepEqual([packet.verdict, packet.service, packet.client], ['forward', 'default/hello', 'outside']);
  assert.match(packet.entries.join('\n'), /lb_tables\[\d+\] entry .*\n.*lb_backends\[\d+\] = 10\.244\./s);
  await until(
    async () => {
      const diff = await lab.ask<{ missing: string[]; unwanted: string[] }>('node1', 'service', 'diff');
      return diff.missing.length + diff.unwanted.length === 0;
    },
    { what: 'an empty service diff' },
  );
  for (const words of [
    ['status'],
    ['overlay', 'plan'],
    ['pod', 'list'],
    ['service', 'list'],
    ['service', 'show', 'hello', '--seconds', '0'],
    ['service', 'explain', 'hello', '--to', '10.96.0.80:80/tcp'],
    ['service', 'maps'],
  ]) {
    const { status: code, stdout } = await lab.cli('exec', 'node2', '--', ...portolanCommand, ...words);
    assert.equal(code, 0, words.join(' '));
    assert.ok(stdout.trim(), words.join(' '));
  }
  const labStatus = JSON.parse((await lab.cli('status', '--json')).stdout) as {
    nodes: unknown[];
    processes: { running: boolean; rssBytes: number }[];
  };
  assert.equal(labStatus.nodes.length, 3);
  assert.equal(labStatus.processes.length, 5);
  assert.ok(labStatus.processes.every((one) => one.running && one.rssBytes > 0));
});

test('pod to pod keeps its source; pod to outside is masqueraded; to itself through its Service works', async () => {
  await lab.apply([
    podOf('asker', ['sleep', '1000'], { nodeName: 'node1' }),
    podOf('teller', ['socat', 'TCP6-LISTEN:9000,fork,reuseaddr,ipv6only=0', 'SYSTEM:echo $SOCAT_PEERADDR'], {
      nodeName: 'node3',
      port: 9000,
    }),
    serviceOf('teller', { app: 'teller' }, [{ name: 'main', port: 9000 }], {
      ipFamilyPolicy: 'RequireDualStack',
    }),
  ]);
  await lab.waitReady('app in (asker,teller)');
  type PodJson = { status: { podIPs: { ip: string }[] }; spec: { clusterIPs: string[] } };
  const [asker, teller, service] = await Promise.all([
    lab.get<PodJson>('pod', 'asker'),
    lab.get<PodJson>('pod', 'teller'),
    lab.get<PodJson>('service', 'teller'),
  ]);
  const ask = async (pod: string, node: string, address: string) => {
    const target = address.includes(':') ? `TCP6:[${address}]:9000` : `TCP4:${address}:9000`;
    const { stdout, stderr } = await lab.podExec(node, pod, ['socat', '-T2', '-', target]);
    return plainAddress(stdout.trim() || stderr);
  };
  for (const family of [0, 1]) {
    const own = plainAddress(asker.status.podIPs[family]!.ip);
    assert.equal(await ask('asker', 'node1', teller.status.podIPs[family]!.ip), own, 'pod to pod');
    assert.equal(await ask('asker', 'node1', service.spec.clusterIPs[family]!), own, 'pod to Service');
  }
  // Hairpin: the only endpoint asks its own Service.
  assert.ok(await ask('teller', 'node3', service.spec.clusterIPs[0]!));
  assert.ok(await ask('teller', 'node3', service.spec.clusterIPs[1]!));
  // The gateway of the underlay is outside of the cluster.
  const listener = lab.start(`/run/netns/${lab.name}-underlay`, lab.outside, [
    ...['socat', 'TCP6-LISTEN:9001,fork,reuseaddr,ipv6only=0', 'SYSTEM:echo $SOCAT_PEERADDR'],
  ]);
  try {
    for (const [gateway, node] of [
      ['172.31.0.1', '172.31.0.11'],
      ['fd00:172:31::1', 'fd00:172:31::b'],
    ] as const) {
      const target = gateway.includes(':') ? `TCP6:[${gateway}]:9001` : `TCP4:${gateway}:9001`;
      const seen = await until(
        async () => (await lab.podExec('node1', 'asker', ['socat', '-T2', '-', target])).stdout.trim(),
        { seconds: 5, what: `${gateway} from a pod` },
      );
      assert.equal(plainAddress(seen), plainAddress(node), 'masqueraded as the node');
    }
  } finally {
    listener.kill('SIGKILL');
  }
});

/** As people write it: socat(1) prints IPv6 addresses in full, and IPv4 ones mapped into them. */
function plainAddress(text: string): string {
  const bare = text.replace(/[[\]]/g, '');
  if (!bare.includes(':')) return bare;
  const short = new URL(`http://[${bare}]/`).hostname.slice(1, -1);
  const mapped = /^::ffff:([0-9a-f]+):([0-9a-f]+)$/.exec(short);
  if (!mapped) return short;
  const value = (Number.parseInt(mapped[1]!, 16) << 16) | Number.parseInt(mapped[2]!, 16);
  return [24, 16, 8, 0].map((shift) => (value >>> shift) & 255).join('.');
}

test('restart policy and readiness: a crash is restarted with back-off, an unready pod leaves its Service', async () => {
  await lab.apply([
    podOf('crasher', ['sh', '-c', 'sleep 0.2; exit 3']),
    podOf('once', ['true'], { spec: { restartPolicy: 'Never' } }),
    podOf('fragile', WEB, {
      nodeName: 'node2',
      port: 8080,
      container: {
        volumeMounts: [{ name: 'flag', mountPath: '/flag' }],
        readinessProbe: {
          exec: { command: ['sh', '-c', 'test ! -e /flag/down'] },
          periodSeconds: 1,
          failureThreshold: 1,
        },
      },
      spec: { volumes: [{ name: 'flag', emptyDir: {} }] },
    }),
    serviceOf('fragile', { app: 'fragile' }, [{ port: 80, targetPort: 'main' }], {
      clusterIP: '10.96.0.203',
    }),
  ]);
  await lab.waitReady('app=fragile');
  type PodJson = {
    metadata: { uid: string };
    status: {
      phase: string;
      containerStatuses: {
        restartCount: number;
        state: Record<string, { reason?: string; exitCode?: number }>;
        lastState: { terminated?: { exitCode: number } };
      }[];
    };
  };
  const crashed = await until(async () => {
    const { status } = await lab.get<PodJson>('pod', 'crasher');
    const one = status.containerStatuses?.[0];
    return one && one.restartCount >= 1 && one.state['waiting']?.reason === 'CrashLoopBackOff' && one;
  });
  assert.equal(crashed.lastState.terminated?.exitCode, 3);
  await until(async () => (await lab.get<PodJson>('pod', 'once')).status.phase === 'Succeeded', {
    what: 'Succeeded',
  });
  const answer = () => connect({ node: 'node1' }, '10.96.0.203', 80);
  await until(async () => (await answer()) === 'ok', { what: 'the Service' });
  const flags = readdirSync(`/run/${lab.name}/node2/pods`, { recursive: true, withFileTypes: true }).find(
    (entry) => entry.isDirectory() && entry.name === 'flag',
  );
  assert.ok(flags, 'the emptyDir of the pod');
  const flag = join(flags.parentPath, flags.name, 'down');
  const { writeFileSync, rmSync } = await import('node:fs');
  writeFileSync(flag, '');
  await until(async () => (await answer()) === 'ECONNREFUSED', { what: 'refusal of an unready pod' });
  rmSync(flag);
  await until(async () => (await answer()) === 'ok', { what: 'the pod back in its Service' });
  await lab.kubectl(['delete', 'pod', 'crasher', 'once', 'fragile', '--wait=false']);
});

test('a hundred pods run in less than 1 GiB', async () => {
  const memory = () =>
    Number(/MemAvailable: +(\d+) kB/.exec(readFileSync('/proc/meminfo', 'utf8'))![1]) * 1024;
  const before = memory();
  type PodJson = { status: { conditions?: { type: string; status: string }[] } };
  // One list each time: "kubectl wait" asks for every pod by itself, five a second.
  const pods = async () => (await lab.get<{ items: PodJson[] }>('pods', '-l', 'app=many')).items;
  const begun = performance.now();
  await lab.kubectl(['create', '-f', '-'], {
    input: JSON.stringify({
      apiVersion: 'v1',
      kind: 'List',
      items: Array.from({ length: 100 }, (_, at) =>
        podOf(`many-${at}`, WEB, { labels: { app: 'many' }, port: 8080 }),
      ),
    }),
  });
  await until(
    async () =>
      (await pods()).filter(({ status }) =>
        status.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True'),
      ).length === 100,
    { seconds: 90, everyMs: 200, what: '100 pods Ready' },
  );
  const seconds = (performance.now() - begun) / 1000;
  const pss = podsPss(lab);
  const used = before - memory();
  const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
  console.log(
    `100 pods Ready after ${seconds.toFixed(1)} s; their processes hold ${mib(pss)} (PSS), the machine ${mib(used)} more`,
  );
  assert.ok(pss > 0 && pss < 2 ** 30, mib(pss));
  assert.ok(used < 2 ** 30, mib(used));
  const removal = performance.now();
  await lab.kubectl(['delete', 'pod', '-l', 'app=many', '--wait=false']);
  await until(async () => (await pods()).length === 0, { seconds: 60, everyMs: 200, what: '100 pods gone' });
  console.log(`and gone after ${((performance.now() - removal) / 1000).toFixed(1)} s`);
});

/** Proportional set size of everything in the pods' cgroups: proc_pid_smaps_rollup. */
function podsPss(running: Lab): number {
  let sum = 0;
  for (const node of ['node1', 'node2', 'node3'])
    for (const entry of readdirSync(running.cgroup(node, 'pods'), { recursive: true, withFileTypes: true }))
      if (entry.name === 'cgroup.procs')
        for (const pid of readFileSync(join(entry.parentPath, entry.name), 'utf8')
          .split('\n')
          .filter(Boolean))
          try {
            sum +=
              Number(/^Pss: +(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0) *
              1024;
          } catch {
            // It ended meanwhile.
          }
  return sum;
}

test('lab down leaves nothing, and a host-gw lab routes without a tunnel, pods on bridges', async () => {
  await lab.down();
  const left = [
    ...readdirSync('/run/netns').filter((name) => name.startsWith(lab.name)),
    ...readdirSync('/run').filter((name) => name === lab.name),
    ...readdirSync('/sys/fs/bpf').filter((name) => name === lab.name),
  ];
  assert.deepEqual(left, []);
  lab = await startLab('--backend', 'host-gw', '--nodes', '2', '--dual-stack', '--pod-link', 'bridge');
  assert.ok(lab.report!.probes.every(({ micros }) => micros !== undefined));
  const links = await lab.jsonExec<{ ifname: string; master?: string }[]>('node1', ['ip', '-j', 'link']);
  assert.ok(!links.some(({ ifname }) => ifname.startsWith('flannel')), 'no tunnel device');
  const routes = await lab.jsonExec<{ dst: string; gateway?: string; protocol: string }[]>('node1', [
    ...['ip', '-j', 'route', 'show', 'proto', '250'],
  ]);
  assert.ok(routes.some(({ dst, gateway }) => /^10\.244\./.test(dst) && gateway === '172.31.0.12'));
  const { status } = await portolan(['lab', 'status', '--name', lab.name, '--probe']);
  assert.equal(status, 0);
  const { podLinks } = await lab.ask<{ podLinks: { kind: string; count: number; bridged: number } }>(
    'node1',
    'status',
  );
  assert.ok(podLinks.kind === 'bridge' && podLinks.count > 0 && podLinks.bridged === podLinks.count);
  const ports = links.filter((link) => link.master === 'portolan0').map(({ ifname }) => ifname);
  assert.equal(ports.length, podLinks.count);
});
