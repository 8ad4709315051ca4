import assert from 'node:assert/strict';
import test from 'node:test';
import { parseCidr, parseIp } from '../addr/index.ts';
import type { Node } from '../model/kubernetes.ts';
import type { Lease, OverlayConfig, OverlayOptions } from '../overlay/index.ts';
import type { LastSeen } from './last-seen.ts';
import { NodeNetwork, type Overlay } from './node-network.ts';
import { type AgentFlags, agentOptions } from './options.ts';

const flags: AgentFlags = {
  nodeName: 'node1',
  kubeconfig: '/k',
  stateDir: '/run/x',
  bpffs: '/sys/fs/bpf/x',
  cgroup: '/sys/fs/cgroup/x',
  backend: 'host-gw',
  directRouting: true,
  clusterCidr: ['10.244.0.0/16'],
  nodeIp: [],
  pods: 'none',
  label: [],
};

function nodeOf(name: string, podCIDRs: string[], more: { publicIp?: string; zone?: string } = {}): Node {
  return {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: {
      name,
      ...(more.zone && { labels: { 'topology.kubernetes.io/zone': more.zone } }),
      annotations: {
        'flannel.alpha.coreos.com/backend-type': 'host-gw',
        'flannel.alpha.coreos.com/public-ip': more.publicIp ?? '172.31.0.12',
        'example.com/long': 'not kept',
      },
    },
    spec: { podCIDRs },
  };
}

/** A node network with Nodes and an overlay that only remember. */
function setUp(lastSeen?: LastSeen) {
  const items = new Map<string, Node>();
  let tell: (keys: ReadonlySet<string>) => void = () => {};
  const calls: string[] = [];
  const warnings: string[] = [];
  const saved: Omit<LastSeen, 'node'>[] = [];
  let overlayOptions: OverlayOptions | undefined;
  let tables: 'pending' | 'done' = 'pending';
  const textOf = (config: OverlayConfig) => config.podCidrs.join();
  const leasesText = (leases: readonly Lease[]) => leases.map(({ node }) => node).join(' ') || 'none';
  const overlay: Overlay = {
    start: () => calls.push('start'),
    stop: async () => {
      calls.push('stop');
    },
    setLeases: (leases, { complete = true } = {}) =>
      calls.push(`leases ${leasesText(leases)}${complete ? '' : ', not all'}`),
    setConfig: (config) => calls.push(`config ${textOf(config)}`),
    status: () => ({ tables: { state: tables } }) as unknown as ReturnType<Overlay['status']>,
    settled: async () => {},
  };
  let changes = 0;
  const network = new NodeNetwork({
    options: agentOptions(flags, '1'),
    nodes: {
      items,
      onChange: (listener) => {
        tell = listener;
      },
    },
    lastSeen: { read: () => lastSeen, save: (seen) => saved.push(seen()) },
    pools: { setPools: (pools) => calls.push(`pools ${pools.join()}`) },
    addresses: [parseIp('172.31.0.11')],
    onChange: () => changes++,
    log: {
      debug() {},
      info() {},
      warn: (context, message) => warnings.push(`${message}: ${JSON.stringify(context)}`),
      error() {},
    },
    openOverlay: (options) => {
      calls.push(`open ${textOf(options.config)}`);
      overlayOptions = options;
      return overlay;
    },
  });
  network.start();
  return {
    network,
    saved,
    warnings,
    changes: () => changes,
    take: () => calls.splice(0),
    overlay: () => overlayOptions!,
    setTables(state: 'pending' | 'done') {
      tables = state;
      overlayOptions!.onStatus?.(overlay.status() as never);
    },
    set(...nodes: Node[]) {
      for (const node of nodes) items.set(node.metadata.name, node);
      tell(new Set(nodes.map(({ metadata }) => metadata.name)));
    },
    delete(name: string) {
      items.delete(name);
      tell(new Set([name]));
    },
  };
}

test('a node without a pod CIDR says so; with one it opens its overlay once, and follows another one', () => {
  const { network, take, set } = setUp();
  set(nodeOf('node1', []));
  assert.deepEqual(take(), []);
  assert.deepEqual(network.health(), { cannotAdd: 'node "node1" has no pod CIDR yet' });
  set(nodeOf('node1', ['10.244.0.0/24']));
  assert.deepEqual(take(), ['pools 10.244.0.0/24', 'open 10.244.0.0/24', 'start', 'leases none']);
  assert.deepEqual(network.health(), { cannotAdd: 'the overlay is being programmed' });
  set(nodeOf('node1', ['10.244.0.0/24']));
  assert.deepEqual(take(), ['leases none'], 'the same again configures nothing');
  set(nodeOf('node1', ['10.244.7.0/24']));
  assert.deepEqual(take(), ['pools 10.244.7.0/24', 'config 10.244.7.0/24', 'leases none']);
});

test('a Node that is deleted leaves its network as it is', () => {
  const { network, take, set, delete: remove } = setUp();
  set(nodeOf('node1', ['10.244.0.0/24']), nodeOf('node2', ['10.244.1.0/24']));
  take();
  remove('node1');
  assert.deepEqual(take(), ['leases node2']);
  assert.equal(String(network.config?.podCidrs[0]), '10.244.0.0/24');
});

test('an agent that starts while the API is away stands on what was seen last, and says that it is not all', () => {
  const { network, take, set, setTables, saved } = setUp({
    node: 'node1',
    podCidrs: ['10.244.0.0/24'],
    peers: [
      { name: 'node2', annotations: nodeOf('node2', []).metadata.annotations!, podCidrs: ['10.244.1.0/24'] },
      { name: 'broken', annotations: { 'flannel.alpha.coreos.com/backend-type': '?' }, podCidrs: ['x'] },
    ],
  });
  assert.deepEqual(take(), ['pools 10.244.0.0/24', 'open 10.244.0.0/24', 'start', 'leases node2, not all']);
  setTables('done');
  assert.deepEqual(network.health(), {}, 'pods can be added');
  // The API is back: what it says counts.
  set(nodeOf('node1', ['10.244.0.0/24']), nodeOf('node3', ['10.244.2.0/24']));
  assert.deepEqual(take(), ['leases node3']);
  assert.deepEqual(saved.at(-1), {
    podCidrs: ['10.244.0.0/24'],
    peers: [
      {
        name: 'node3',
        annotations: {
          'flannel.alpha.coreos.com/backend-type': 'host-gw',
          'flannel.alpha.coreos.com/public-ip': '172.31.0.12',
        },
        podCidrs: ['10.244.2.0/24'],
      },
    ],
  });
});

test('last-seen CIDRs that cannot be read are as good as none', () => {
  const { take, network } = setUp({ node: 'node1', podCidrs: ['10.244.0.0/99'], peers: [] });
  assert.deepEqual(take(), []);
  assert.match(network.health().cannotAdd!, /10\.244\.0\.0\/99/);
});

test('a peer that cannot be read is left out, and told once', () => {
  const { take, set, warnings } = setUp();
  set(nodeOf('node1', ['10.244.0.0/24']), nodeOf('node2', ['10.244.1.0/24']));
  take();
  const bad = nodeOf('node3', ['10.244.2.0/24'], { publicIp: '127.0.0.1' });
  set(bad);
  set(nodeOf('node2', ['10.244.1.0/24']));
  set({ ...bad });
  assert.deepEqual(take(), ['leases node2', 'leases node2', 'leases node2']);
  assert.equal(warnings.length, 1);
  assert.match(warnings[0]!, /a peer is left out.*node3/);
  set(nodeOf('node3', ['10.244.2.0/24']));
  assert.deepEqual(take(), ['leases node2 node3']);
  set(bad);
  assert.equal(warnings.length, 2, 'wrong again is told again');
});

test("pod CIDRs of families that the cluster does not have are not this node's", () => {
  const { take, set } = setUp();
  set(nodeOf('node1', ['10.244.0.0/24', 'fd00::/64']));
  assert.equal(take()[0], 'pools 10.244.0.0/24');
});

test('the lease of the overlay gives the addresses, the MTU is that of pods, and both are told', () => {
  const { network, set, overlay, changes, setTables } = setUp();
  assert.equal(network.podMtuBytes, 1400, 'through any tunnel, before it is known');
  set(nodeOf('node1', ['10.244.0.0/24'], { zone: 'a' }));
  assert.equal(network.zone, 'a');
  const before = changes();
  overlay().onPodMtu?.(1450);
  overlay().onLease?.({
    node: 'node1',
    backend: 'host-gw',
    endpoints: {
      4: { publicIp: parseIp('172.31.0.99'), podCidrs: [parseCidr('10.244.0.0/24')], vtep: undefined },
    },
  });
  assert.equal(network.podMtuBytes, 1450);
  assert.deepEqual(network.addresses.map(String), ['172.31.0.99']);
  assert.equal(changes(), before + 1);
  setTables('done');
  setTables('done');
  assert.equal(network.isUp, true);
  assert.equal(changes(), before + 2, 'the same state twice is no change');
});
