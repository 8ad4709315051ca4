/** A node's own firewall in a lab stays when people and agents come and go, and lets the node keep its addresses. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { type Lab, run, startLab } from '../lib/lab.ts';
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

const policy = (ingress: object[]) => ({
  apiVersion: 'policy.portolan.dev/v1alpha1',
  kind: 'NodeNetworkPolicy',
  metadata: { name: 'own' },
  spec: { nodeSelector: {}, priority: 10, defaultIngress: 'Deny', ingress },
});
const PEERS = { name: 'peers', action: 'Accept', from: [{ nodes: {} }] };

interface State {
  state: string;
}
const stateOf = async () =>
  (await lab.ask<State[]>('node2', 'firewall', 'status')).map(({ state }) => state).join();

/** Serves ssh's port and says nothing. */
const LISTENS = `
import socket
server = socket.create_server(("::", 22), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
kept = []
while True:
    kept.append(server.accept())
`;
const CONNECTED = `
import socket, sys
there = socket.create_connection(("${ADDRESS}", 22), 5)
print("ready", flush=True)
sys.stdin.read()
`;
async function ready(child: ReturnType<Lab['start']>): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    child.stdout.once('data', () => resolve());
    child.once('exit', (code) => reject(new Error(`it ended with ${code}`)));
  });
}

test('an admin who logs out, a Node that changes and an agent that starts again open nothing', async (t) => {
  assert.equal(await stateOf(), '', 'no policy selects the node, and that is known');
  const sshd = lab.start(lab.netns('node2'), lab.cgroup('node2'), ['python3', '-c', LISTENS]);
  t.after(() => sshd.kill());
  await ready(sshd);
  const admin = lab.start(lab.netns('underlay'), lab.outside, ['python3', '-c', CONNECTED]);
  t.after(() => admin.kill());
  await ready(admin);
  const ssh = { tcp: { destinationPort: { number: 22 } } };
  await lab.apply(
    policy([PEERS, { action: 'Accept', from: [{ networks: ['172.31.0.0/24'] }], protocols: [ssh] }]),
  );
  await until(async () => (await stateOf()) === 'in force', { what: 'it is in force' });
  assert.equal(await fromOutside(), false);

  admin.stdin.end();
  await new Promise((resolve) => admin.once('exit', resolve));
  await lab.kubectl(['label', 'node', 'node1', 'somewhere=else']);
  await lab.kubectl(['label', 'node', 'node2', 'somewhere=else']);
  const held = async () => (await stateOf()) === 'in force' && !(await fromOutside());
  for (let look = 0; look < 2; look++) assert.equal(await held(), true);
  assert.equal((await lab.cli('restart', 'node2', '--kill')).status, 0);
  for (let look = 0; look < 2; look++) assert.equal(await held(), true);
  // What it says is new, and judged anew: nobody could log in any more.
  await lab.apply(policy([PEERS]));
  await until(async () => (await stateOf()) === 'refused', { what: 'it is refused' });
  const told = await lab.kubectl(['describe', 'nnp', 'own']);
  assert.match(told, /WouldLockOut.*it would cut ssh/, 'kubectl describe shows its Events');
  await lab.kubectl(['delete', 'nnp', 'own']);
  await until(fromOutside, { what: 'everything is accepted again' });
});

/** Answers as a DHCP server gives them: from its port to the client's, and no reply to anything that was sent. */
const ANSWERS = `
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as server:
    server.bind(("::" if family == socket.AF_INET6 else "", int(sys.argv[2])))
    server.sendto(b"lease", socket.getaddrinfo(sys.argv[1], int(sys.argv[3]), family)[0][4])
`;
const CLIENT = `
import socket
family = {68: socket.AF_INET, 546: socket.AF_INET6}
sockets = []
for port in 68, 546, 7777:
    client = socket.socket(family.get(port, socket.AF_INET), socket.SOCK_DGRAM)
    client.bind(("::" if port == 546 else "", port))
    client.settimeout(1)
    sockets.append((port, client))
print("ready", flush=True)
for port, client in sockets:
    try:
        print(port, client.recv(100).decode(), flush=True)
    except TimeoutError:
        print(port, "nothing", flush=True)
`;

test('a node that accepts and sends nothing else keeps its addresses: DHCP, DHCPv6 and multicast listeners', async (t) => {
  const rules = [PEERS];
  const egress = [
    {
      action: 'Accept',
      to: [{ networks: ['172.31.0.1/32'] }],
      protocols: [{ tcp: { destinationPort: { number: 6443 } } }],
    },
    { action: 'Accept', to: [{ nodes: {} }] },
  ];
  const spec = {
    nodeSelector: {},
    priority: 10,
    defaultIngress: 'Deny',
    defaultEgress: 'Deny',
    ingress: rules,
    egress,
  };
  await lab.apply({ ...policy([]), spec });
  await until(async () => (await stateOf()) === 'in force' && !(await fromOutside()), {
    what: 'it is in force',
  });
  const client = lab.start(lab.netns('node2'), lab.cgroup('node2'), ['python3', '-c', CLIENT]);
  t.after(() => client.kill());
  let told = '';
  client.stdout.on('data', (data) => (told += data));
  await ready(client);
  const [link] = JSON.parse(
    await lab.mustExec('node2', ['ip', '-j', '-6', 'addr', 'show', 'dev', 'eth0', 'scope', 'link']),
  );
  const local = link.addr_info[0].local as string;
  const answer = async (...args: string[]) => {
    const [, ...words] = lab.inside(lab.netns('underlay'), lab.outside, ['python3', '-c', ANSWERS, ...args]);
    const { status, stderr } = await run('sh', words);
    assert.equal(status, 0, stderr);
  };
  await answer(ADDRESS, '67', '68');
  await answer(`${local}%underlay`, '547', '546');
  await answer(ADDRESS, '67', '7777');
  await new Promise((resolve) => client.once('exit', resolve));
  assert.equal(told, 'ready\n68 lease\n546 lease\n7777 nothing\n');

  // Who listens to a group says so; a node that cannot is not sent neighbour solicitations by switches that snoop.
  const output = 'list chain ip6 portolan policy_host_output'.split(' ');
  const drops = async () =>
    /counter packets (\d+) bytes \d+ drop/.exec(await lab.mustExec('node2', ['nft', ...output]))?.[1];
  const before = await drops();
  const joins =
    'import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.setsockopt(41, 20, socket.inet_pton(10, "ff02::1234") + socket.if_nametoindex("eth0").to_bytes(4, "little"))';
  await lab.mustExec('node2', ['python3', '-c', joins]);
  assert.equal(await drops(), before);
  await lab.kubectl(['delete', 'nnp', 'own']);
  await until(fromOutside, { what: 'everything is accepted again' });
});
