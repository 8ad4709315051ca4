/** Load balancer addresses without a cloud: given by a pool, announced by one node, moved when it dies. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test, { after, before } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startAgain } from '../../src/lab/restart.ts';
import { type Lab, podOf, run, serviceOf, startLab } from '../lib/lab.ts';
import { until } from '../lib/until.ts';

const POOL = { v4: '172.31.0.200', v6: 'fd00:172:31::200' };
let lab: Lab;

interface ServiceObject {
  status: { loadBalancer: { ingress?: { ip: string; ipMode: string }[] }; conditions?: { type: string }[] };
}

/** Runs a command where clients outside the cluster are. */
const outside = (...command: string[]) =>
  run('nsenter', [`--net=${lab.netns('underlay')}`, '--', ...command], { timeoutMs: 20_000 });
/** Whether a client outside is answered within so many seconds. */
async function curl(address: string, { port = 80, seconds = 10 } = {}): Promise<boolean> {
  const host = address.includes(':') ? `[${address}]` : address;
  const words = ['curl', '-s', '-m', String(seconds), '-o', '/dev/null', `http://${host}:${port}/`];
  return (await outside(...words)).status === 0;
}
/** The one MAC at which the outside finds an address; '' when nobody answers. */
async function macOf(address: string): Promise<string> {
  await outside('ip', 'neigh', 'flush', 'to', address);
  await outside('ping', '-c', '1', '-W', '1', address);
  const { stdout } = await outside('ip', '-j', 'neigh', 'show', 'to', address);
  return (JSON.parse(stdout || '[]') as { lladdr?: string }[])[0]?.lladdr ?? '';
}
/** The same of somebody who answers, however slow it is. */
const someMacOf = (address: string) => until(() => macOf(address), { what: `an answer for ${address}` });
async function macOfNode(node: string): Promise<string> {
  const [link] = await lab.jsonExec<{ address: string }[]>(node, ['ip', '-j', 'link', 'show', 'eth0']);
  return link!.address;
}
/** All MACs that answer three questions for an IPv4 address; asked again when nobody was fast enough. */
const answering = (address: string) =>
  until(
    async () => {
      const macs = await answeringNow(address);
      return macs.length > 0 && macs;
    },
    { what: `an answer for ${address}` },
  );
async function answeringNow(address: string): Promise<string[]> {
  const { stdout } = await outside('busybox', 'arping', '-c', '3', '-w', '3', '-I', 'underlay', address);
  return [...new Set(stdout.match(/\[([0-9a-f]{2}:){5}[0-9a-f]{2}\]/g) ?? [])].map((mac) => mac.slice(1, -1));
}
const leaseOf = async (address: string) =>
  (
    await lab.get<{ spec: { holderIdentity: string; renewTime: string } }>(
      'lease',
      '-n',
      'kube-system',
      `portolan-l2-${address}`,
    )
  ).spec;
const holderOf = async (address: string) => (await leaseOf(address)).holderIdentity;
const renewedAt = async (address: string) => (await leaseOf(address)).renewTime;
const pidOf = (title: string) => {
  const state = JSON.parse(readFileSync(`/run/${lab.name}/lab.json`, 'utf8')) as {
    processes: { title: string; pid: number }[];
  };
  return state.processes.find((one) => one.title === title)!.pid;
};

before(async () => {
  lab = await startLab('--dual-stack');
  await lab.apply([
    {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: {
        name: 'pool',
        namespace: 'kube-system',
        labels: { 'portolan.dev/load-balancer-pool': 'true' },
      },
      data: { ranges: '172.31.0.200-172.31.0.210, fd00:172:31::200-fd00:172:31::20f' },
    },
    podOf('web', ['busybox', 'httpd', '-f', '-p', '8080', '-h', '/usr/share'], {
      nodeName: 'node2',
      port: 8080,
    }),
    serviceOf('web', { app: 'web' }, [{ port: 80, targetPort: 8080 }], {
      type: 'LoadBalancer',
      ipFamilyPolicy: 'RequireDualStack',
    }),
  ]);
  await lab.waitReady('app=web');
});
after(() => lab?.down());

test('a Service gets an address of each family and answers to clients outside', async () => {
  const ingress = await until(
    async () => {
      const { status } = await lab.get<ServiceObject>('service', 'web');
      return status.loadBalancer.ingress;
    },
    { what: 'addresses' },
  );
  assert.deepEqual(ingress, [
    { ip: POOL.v4, ipMode: 'VIP' },
    { ip: POOL.v6, ipMode: 'VIP' },
  ]);
  for (const address of [POOL.v4, POOL.v6]) await until(() => curl(address), { what: `curl ${address}` });
});

test('exactly the node with the Lease answers', async () => {
  const holder = await holderOf(POOL.v4);
  assert.equal(await someMacOf(POOL.v4), await macOfNode(holder));
  // Two answers to one question would be seen here.
  assert.deepEqual(await answering(POOL.v4), [await macOfNode(holder)]);
});

/** What Events tell of announcing that is no news of who does it. */
async function conflicts(): Promise<string[]> {
  const { items } = await lab.get<{ items: { reason: string; message: string }[] }>('events');
  const told = items.filter(({ reason }) => reason.startsWith('Address')).map(({ message }) => message);
  assert.ok(told.length >= 2, JSON.stringify(told));
  return told.filter((message) => !/^node\d announces /.test(message));
}

test('nodes that looked for the address while another one was elected tell nobody of a conflict', async () => {
  assert.deepEqual(await conflicts(), []);
});

test('the leader is killed: soon another node answers, and it alone', async (t) => {
  const before = await holderOf(POOL.v4);
  const pid = pidOf(`agent of ${before}`);
  // A client that knows the old MAC, and goes on asking.
  assert.ok(await curl(POOL.v4));
  t.after(() => startAgain(lab.name, before, 60));
  process.kill(pid, 'SIGKILL');
  const killedAt = performance.now();
  const old = await macOfNode(before);
  const mac = await until(
    async () => {
      const now = await macOf(POOL.v4);
      return now !== '' && now !== old && now;
    },
    // 2.1 to 2.3 s on a quiet machine, 4.4 s on one with sixteen times as much to do as it can; a Lease of the usual
    // duration would take 15 s or more.
    { seconds: 12, everyMs: 20, what: 'another node' },
  );
  console.log(`fail-over of the address took ${Math.round(performance.now() - killedAt)} ms`);
  assert.ok(await curl(POOL.v4));
  const now = await holderOf(POOL.v4);
  assert.notEqual(now, before);
  assert.equal(mac, await macOfNode(now));
  const restart = await lab.cli('restart', before);
  assert.equal(restart.status, 0, restart.stderr);
  await sleep(2_000);
  assert.equal(await someMacOf(POOL.v4), mac, 'the old leader does not take it back');
});

test('with the API away the address stays where it is; a leader that slept past its Lease is silent', async () => {
  const leader = await holderOf(POOL.v4);
  const leaderMac = await macOfNode(leader);
  const api = pidOf('API server');
  process.kill(api, 'SIGSTOP');
  try {
    await sleep(3_000);
    assert.deepEqual(await answering(POOL.v4), [leaderMac]);
  } finally {
    process.kill(api, 'SIGCONT');
  }
  // Who goes on, or is elected, has renewed the Lease by its own clock; nobody answers beside it.
  const renewed = await renewedAt(POOL.v4);
  await until(async () => (await renewedAt(POOL.v4)) !== renewed, { what: 'a renewal' });
  assert.equal((await answering(POOL.v4)).length, 1);
  const holder = await holderOf(POOL.v4);
  const agent = pidOf(`agent of ${holder}`);
  const mac = await macOfNode(holder);
  process.kill(agent, 'SIGSTOP');
  let successor: string;
  try {
    successor = await until(
      async () => {
        const now = await macOf(POOL.v4);
        return now !== '' && now !== mac && now;
      },
      { seconds: 12, what: 'a successor' },
    );
    // Questions that wait for the sleeper when it wakes up.
    await outside('busybox', 'arping', '-c', '1', '-w', '1', '-I', 'underlay', POOL.v4);
  } finally {
    process.kill(agent, 'SIGCONT');
  }
  assert.deepEqual(await answering(POOL.v4), [successor]);
});

test('Services with a sharing key share an address; another port of it is refused or silent, not another Service', async () => {
  const shared = (name: string, port: number) => ({
    ...serviceOf(name, { app: 'web' }, [{ port, targetPort: 8080 }], { type: 'LoadBalancer' }),
    metadata: { name, annotations: { 'portolan.dev/sharing-key': 'one' } },
  });
  await lab.apply([shared('one', 8001), shared('two', 8002)]);
  const ips = await until(
    async () => {
      const all = await Promise.all(['one', 'two'].map((name) => lab.get<ServiceObject>('service', name)));
      const ips = all.flatMap(({ status }) => status.loadBalancer.ingress?.map(({ ip }) => ip) ?? []);
      return ips.length === 2 && ips;
    },
    { what: 'addresses' },
  );
  assert.equal(ips[0], ips[1]);
  for (const port of [8001, 8002]) await until(() => curl(ips[0]!, { port }), { what: `curl port ${port}` });
  assert.equal(await curl(ips[0]!, { seconds: 1 }), false);
  await lab.kubectl(['delete', 'service', 'one', 'two', '--wait=false']);
});

test('a Service that keeps client addresses is announced by a node with a pod of it', async () => {
  await lab.kubectl(['patch', 'service', 'web', '-p', '{"spec":{"externalTrafficPolicy":"Local"}}']);
  const wanted = await macOfNode('node2');
  await until(async () => (await macOf(POOL.v4)) === wanted, { what: 'node2' });
  assert.ok(await curl(POOL.v4));
});

test('figures for Prometheus: the agent at its socket, the API server for admins only', async () => {
  const socket = `/run/${lab.name}/node2/agent.sock`;
  const { stdout } = await run('curl', ['-sf', '--unix-socket', socket, 'http://agent/metrics']);
  for (const wanted of [
    /^portolan_build_info\{version="[^"]+",node="node2"\} 1$/m,
    /^portolan_api_connected 1$/m,
    /^portolan_overlay_peers 4$/m,
    /^portolan_service_programming_seconds_count [1-9]/m,
    /^portolan_service_store_limit\{store="[^"]+"\} [1-9]/m,
    /^portolan_service_verdicts_total\{reason="forward-[^"]+"\} [1-9]/m,
    /^portolan_load_balancer_addresses\{state="(leader|candidate)"\} [12]$/m,
    /^process_resident_memory_bytes [1-9]/m,
  ])
    assert.match(stdout, wanted);
  const api = await lab.kubectl(['get', '--raw', '/metrics']);
  assert.match(
    api,
    /^portolan_apiserver_request_seconds_count\{verb="create",resource="services",code="201"\} [1-9]/m,
  );
  assert.match(api, /^portolan_apiserver_watches\{resource="nodes"\} [1-9]/m);
  assert.match(api, /^portolan_apiserver_store_revision [1-9]/m);
  const node = `/run/${lab.name}/node2/node.kubeconfig`;
  const server = `https://127.0.0.1:${lab.port}`;
  const refused = await lab.tryKubectl([
    '--kubeconfig',
    node,
    '--server',
    server,
    'get',
    '--raw',
    '/metrics',
  ]);
  assert.match(refused.stderr, /[Ff]orbidden/);
});

test('an address that goes from one Service to the next has one leader all the time', async () => {
  const before = await conflicts();
  const annotations = { 'portolan.dev/load-balancer-ips': `${POOL.v4},${POOL.v6}` };
  await lab.apply([
    {
      ...serviceOf('next', { app: 'web' }, [{ port: 80, targetPort: 8080 }], {
        type: 'LoadBalancer',
        ipFamilyPolicy: 'RequireDualStack',
      }),
      metadata: { name: 'next', annotations },
    },
  ]);
  // The nodes hear at once of the Service that goes and of the one that has its address, and the Lease is given back.
  await lab.kubectl(['delete', 'service', 'web']);
  for (const address of [POOL.v4, POOL.v6]) await until(() => curl(address), { what: `curl ${address}` });
  assert.deepEqual(await answering(POOL.v4), [await macOfNode(await holderOf(POOL.v4))]);
  assert.deepEqual(await conflicts(), before);
});

test('a Service that is gone answers no more, and its Lease is gone, too', async () => {
  await lab.kubectl(['delete', 'service', 'next']);
  for (const address of [POOL.v4, POOL.v6])
    await until(async () => (await macOf(address)) === '', { what: `silence for ${address}` });
  await until(
    async () =>
      (await lab.tryKubectl(['get', 'lease', '-n', 'kube-system', `portolan-l2-${POOL.v4}`])).status !== 0,
    { what: 'no Lease' },
  );
});
