import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseCidr } from '../../addr/index.ts';
import type { Event, KubeObject, Node, Service } from '../../model/kubernetes.ts';
import { SqliteStore } from '../../store/index.ts';
import { Core } from '../core.ts';
import { bootstrap, bootstrapNetworks } from '../lifecycle/bootstrap.ts';
import { objectOf, textOf } from '../registry/objects.ts';
import { keyOfObject, prefixOf, resourceOfKind } from '../resources.ts';
import { mayReplaceNetworks } from './node-networks.ts';
import { NODE_PORTS, parsePortRange } from './node-ports.ts';
import { findServiceFaults } from './service-faults.ts';

const service = (name: string, ips: string[], nodePorts: number[] = [], created = '2026-01-01T00:00:00Z') =>
  ({
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace: 'default', uid: name, creationTimestamp: created },
    spec: {
      type: nodePorts.length > 0 ? 'NodePort' : 'ClusterIP',
      clusterIP: ips[0],
      clusterIPs: ips,
      ports: nodePorts.map((nodePort, i) => ({ port: 80 + i, protocol: 'TCP', nodePort })),
    },
  }) as Service;
const old = '2025-01-01T00:00:00Z';
const networks = { 4: [parseCidr('10.96.0.0/16')], 6: [parseCidr('fd00::/112')] };
const rules = {
  networks: (family: 4 | 6) => networks[family],
  nodePorts: NODE_PORTS,
  reserved: new Map([['10.96.0.1', 'default/kubernetes']]),
};

test('of two Services with one address or port the younger one is in the wrong', () => {
  const cases: [string, Service[], string[]][] = [
    [
      'good ones',
      [service('a', ['10.96.0.2']), service('b', ['None']), service('c', ['10.96.0.3'], [30_000])],
      [],
    ],
    [
      'duplicate',
      [service('a', ['10.96.0.2']), service('b', ['10.96.0.2'], [], old)],
      ['a ClusterIPAlreadyAllocated'],
    ],
    [
      'the same written differently',
      [service('a', ['fd00::2']), service('b', ['fd00:0::2'])],
      ['b ClusterIPAlreadyAllocated'],
    ],
    ['out of range', [service('a', ['10.97.0.1'])], ['a ClusterIPOutOfRange']],
    ['the last address is a broadcast address', [service('a', ['10.96.255.255'])], ['a ClusterIPOutOfRange']],
    ['garbage', [service('a', ['x'])], ['a ClusterIPNotValid']],
    [
      'that of default/kubernetes, however old',
      [service('a', ['10.96.0.1'], [], old), service('kubernetes', ['10.96.0.1'])],
      ['a ClusterIPAlreadyAllocated'],
    ],
    [
      'ports',
      [service('a', ['None'], [30_001]), service('b', ['None'], [30_001, 80])],
      ['b PortAlreadyAllocated', 'b PortOutOfRange'],
    ],
  ];
  for (const [name, services, want] of cases)
    assert.deepEqual(
      findServiceFaults(services, rules).faults.map(
        (fault) => `${fault.service.metadata.name} ${fault.reason}`,
      ),
      want,
      name,
    );
  assert.deepEqual(parsePortRange('30000-32767'), { first: 30_000, last: 32_767 });
  for (const text of ['', '30000', '2-1', '0-9', '1-99999', 'a-b'])
    assert.equal(parsePortRange(text), undefined, text);
});

test('a store with Services that collide starts with them repaired, and each change is told', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'portolan-repair-'));
  const store = SqliteStore.open(join(directory, 'store.db'));
  try {
    const put = (object: KubeObject) =>
      store.write({
        key: keyOfObject(resourceOfKind(object.kind), object),
        expected: 0,
        build: (revision) => textOf(object, revision),
      });
    await put(service('old', ['10.96.0.50'], [30_050], old));
    await put(service('young', ['10.96.0.50'], [30_050, 30_051]));
    await put(service('squatter', ['10.96.0.1'], [], old));
    await put(service('far', ['192.168.0.1']));
    const core = new Core({ store, clock: () => new Date('2026-02-02T00:00:00Z'), log: () => {} });
    const cluster = { serviceCidrs: ['10.96.0.0/16'], kubernetesIps: ['10.96.0.1'], endpoints: [] };
    await bootstrapNetworks(core.registry, cluster);
    await core.keepServicesRight('10.96.0.1');
    await bootstrap(core.registry, cluster);
    const read = (name: string) => core.registry.find(resourceOfKind('Service'), 'default', name) as Service;
    assert.equal(read('old').spec.clusterIP, '10.96.0.50');
    assert.equal(read('old').spec.ports?.[0]?.nodePort, 30_050);
    assert.equal(read('kubernetes').spec.clusterIP, '10.96.0.1');
    const all = ['old', 'young', 'squatter', 'far', 'kubernetes'].map(read);
    const given = all.map(({ spec }) => spec.clusterIP!);
    assert.equal(new Set(given).size, given.length, given.join());
    for (const { spec } of all) {
      assert.deepEqual(spec.clusterIPs, [spec.clusterIP]);
      assert.ok(networks[4][0]!.contains(parseCidr(`${spec.clusterIP}/32`)), spec.clusterIP);
    }
    const ports = all.flatMap(({ spec }) => spec.ports ?? []).flatMap(({ nodePort }) => nodePort ?? []);
    assert.equal(new Set(ports).size, 3, ports.join());
    assert.ok(ports.includes(30_051), 'what was right stays');
    const told = [...store.range(prefixOf(resourceOfKind('Event'), undefined))]
      .map((entry) => objectOf(entry) as Event)
      .map(({ involvedObject, reason, message }) => `${involvedObject.name} ${reason}: ${message}`)
      .sort();
    assert.deepEqual(told, [
      `far ClusterIPOutOfRange: Cluster IP 192.168.0.1 is not within the service networks 10.96.0.0/16; this Service has Cluster IP ${read('far').spec.clusterIP} now`,
      `squatter ClusterIPAlreadyAllocated: Cluster IP 10.96.0.1 belongs to Service "default/kubernetes"; this Service has Cluster IP ${read('squatter').spec.clusterIP} now`,
      `young ClusterIPAlreadyAllocated: Cluster IP 10.96.0.50 belongs to Service "default/old"; this Service has Cluster IP ${read('young').spec.clusterIP} now`,
      `young PortAlreadyAllocated: Node port 30050/TCP belongs to Service "default/old"; this Service has node port ${read('young').spec.ports?.[0]?.nodePort} now`,
    ]);
    // The allocator knows the rightful owner: nobody else gets what the older one has.
    const late = service('late', ['10.96.0.50'], [0]);
    await assert.rejects(
      core.registry.create(resourceOfKind('Service'), 'default', late, {}),
      /already allocated/,
    );
    await core.close();
  } finally {
    store.close();
    rmSync(directory, { recursive: true, force: true });
  }
});

test('networks of a Node may be replaced only when an older Node has them', () => {
  const node = (name: string, podCIDRs: string[], created = '2026-01-01T00:00:00Z') =>
    ({
      apiVersion: 'v1',
      kind: 'Node',
      metadata: { name, creationTimestamp: created },
      spec: { podCIDRs },
    }) as Node;
  const others = [node('a', ['10.244.0.0/24'], old), node('c', ['10.244.2.0/24'], '2026-05-01T00:00:00Z')];
  const cases: [string, string[], string[], boolean][] = [
    ['a duplicate', ['10.244.0.0/24'], ['10.244.1.0/24'], true],
    ['a duplicate into another one', ['10.244.0.0/24'], ['10.244.2.0/24'], false],
    ['a good one', ['10.244.1.0/24'], ['10.244.3.0/24'], false],
    ['one that a younger Node has, too', ['10.244.2.0/24'], ['10.244.1.0/24'], false],
    ['no network', ['x'], ['10.244.1.0/24'], true],
    [
      'a good one beside a duplicate',
      ['10.244.0.0/24', 'fd00::/64'],
      ['10.244.1.0/24', 'fd00:0:0:1::/64'],
      false,
    ],
  ];
  for (const [name, before, after, want] of cases)
    assert.equal(mayReplaceNetworks(node('b', after), node('b', before), others), want, name);
});
