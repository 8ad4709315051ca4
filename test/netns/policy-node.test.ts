/** A node's own firewall in a lab: it refuses to lock its admin out, lets go of what nobody confirms, and holds. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { type Lab, podOf, portolan, portolanCommand, run, startLab } from '../lib/lab.ts';
import { until } from '../lib/until.ts';

let lab: Lab;
let server: ReturnType<Lab['start']>;
before(async () => {
  lab = await startLab('--nodes', '2', '--no-demo');
  server = lab.start(lab.netns('node2'), lab.cgroup('node2'), [
    ...['busybox', 'httpd', '-f', '-p', '9999', '-h', '/usr/share'],
  ]);
  await until(() => fromOutside(), { what: 'the server answers' });
});
after(async () => {
  server?.kill();
  await lab?.down();
});

const ADDRESS = '172.31.0.12';
async function connects(netns: string): Promise<boolean> {
  const command = ['curl', '-s', '-o', '/dev/null', '--max-time', '1', `http://${ADDRESS}:9999/`];
  const [, ...args] = lab.inside(netns, lab.outside, command);
  const { status } = await run('sh', args);
  return status === 0;
}
const fromOutside = () => connects(lab.netns('underlay'));
const fromPeer = () => connects(lab.netns('node1'));

const policy = (ingress: object[]) => ({
  apiVersion: 'policy.portolan.dev/v1alpha1',
  kind: 'NodeNetworkPolicy',
  metadata: { name: 'own' },
  spec: { nodeSelector: {}, priority: 10, defaultIngress: 'Deny', ingress },
});
const PEERS = { name: 'peers', action: 'Accept', from: [{ nodes: {} }] };

function firewall(args: string[], object?: unknown) {
  return portolan(['firewall', ...args, '--kubeconfig', lab.kubeconfig], {
    env: { PORTOLAN_STATE_DIR: `/run/${lab.name}/node2` },
    ...(object === undefined ? {} : { input: JSON.stringify(object) }),
  });
}
const explain = (from: string) => ['policy', 'explain', '--from', from, '--to', ADDRESS, '--port', '9999'];
interface Explained {
  from: string;
  allowed: boolean;
  reasons: string[];
}
interface State {
  state: string;
  lockouts: string[];
}
const stateOf = async () =>
  (await lab.ask<State[]>('node2', 'firewall', 'status')).map(({ state }) => state).join();

test('who may talk to whom is explained before there is any policy, by the name of a pod too', async () => {
  const pod = podOf('asks', ['sleep', '600'], { nodeName: 'node1' });
  await lab.apply(pod);
  await lab.waitReady('app=asks');
  const [told] = await lab.ask<Explained[]>('node2', ...explain('default/asks'));
  assert.match(told!.from, /^default\/asks \(10\.244\./);
  assert.equal(told!.allowed, true);
});

test('what would cut the tunnel of peers is refused before it is written, and by every node', async () => {
  // As a person does it, on the node: what leads to the API server from there comes with it.
  const onNode = ['lab', 'exec', '--name', lab.name, 'node2', '--', ...portolanCommand];
  const dry = await portolan([...onNode, 'firewall', 'apply', '-', '--dry-run'], {
    env: { KUBECONFIG: '/nonexistent' },
    input: JSON.stringify(policy([])),
  });
  assert.equal(dry.status, 1, dry.stderr);
  assert.match(dry.stdout, /refused.*the tunnel from node node1 \(172\.31\.0\.11\)/);
  assert.equal((await lab.tryKubectl(['get', 'nnp', 'own'])).status, 1);

  await lab.apply(policy([]));
  await until(async () => (await stateOf()) === 'refused', { what: 'node2 refuses it' });
  assert.equal(await fromOutside(), true);
  const events = await lab.kubectl(['get', 'events', '-A', '--field-selector', 'reason=WouldLockOut']);
  assert.match(events, /does not enforce it: it would cut/);
  await lab.kubectl(['delete', 'nnp', 'own']);
});

test('a node that may send nothing else reaches the pods that it had before', async () => {
  const ping = async (to: string) => (await lab.exec('node1', ['ping', '-c1', '-W1', to])).status === 0;
  const pod = await lab.kubectl(['get', 'pod', 'asks', '-o', 'jsonpath={.status.podIP}']);
  const api = { networks: ['172.31.0.1/32'] };
  const rules = [
    { action: 'Accept', to: [api], protocols: [{ tcp: { destinationPort: { number: 6443 } } }] },
    { action: 'Accept', to: [{ nodes: {} }] },
  ];
  const spec = { nodeSelector: {}, priority: 10, defaultEgress: 'Deny', egress: rules };
  await lab.apply({ ...policy([]), spec });
  await until(async () => !(await ping('172.31.0.1')), { what: 'strangers are out of reach' });
  assert.equal(await ping(pod), true);
  await lab.kubectl(['delete', 'nnp', 'own']);
  await until(() => ping('172.31.0.1'), { what: 'everything is sent again' });
});

test('a trial that nobody confirms ends, one that is confirmed stays', async () => {
  const trial = await firewall(['apply', '-', '--confirm-within', '4s'], policy([PEERS]));
  assert.equal(trial.status, 0, trial.stderr);
  await until(async () => !(await fromOutside()), { what: 'strangers are shut out' });
  assert.equal(await fromPeer(), true);
  await until(fromOutside, { what: 'the trial is over' });
  assert.equal(await stateOf(), 'expired');
  const late = await firewall(['confirm', 'own']);
  assert.equal(late.status, 1);
  assert.match(late.stderr, /its trial was over/);

  assert.equal((await firewall(['apply', '-', '--confirm-within', '30s'], policy([PEERS]))).status, 0);
  await until(async () => !(await fromOutside()), { what: 'strangers are shut out' });
  assert.equal((await firewall(['confirm', 'own'])).status, 0);
  await until(async () => (await stateOf()) === 'in force', { what: 'it is in force' });
  assert.equal(await fromOutside(), false);
  assert.equal(await fromPeer(), true);
  const [told] = await lab.ask<Explained[]>('node2', ...explain('192.0.2.9'));
  assert.equal(told!.allowed, false);
  assert.match(told!.reasons[1]!, /denied by default by NodeNetworkPolicy own/);
  // Whoever restarts the agent opens nothing.
  assert.equal((await lab.cli('restart', 'node2', '--kill')).status, 0);
  assert.equal(await fromOutside(), false);
  await lab.kubectl(['delete', 'nnp', 'own']);
  await until(fromOutside, { what: 'everything is accepted again' });
});
