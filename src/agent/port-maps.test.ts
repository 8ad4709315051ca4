import assert from 'node:assert/strict';
import test from 'node:test';
import { parseCidr, parseIp } from '../addr/index.ts';
import { isNetError } from '../errors/index.ts';
import type { Attachment, PortMapping } from '../ipam/index.ts';
import {
  type HostPortFacts,
  type PlanDelta,
  ServiceController,
  type ServiceEngine,
  type ServiceFacts,
  serviceFacts,
  type TableSource,
} from '../service/index.ts';
import { aNode, aService } from '../service/testing.ts';
import { PortMaps } from './port-maps.ts';

/** A table that a test edits. */
function aTable<P>() {
  const items = new Map<string, P>();
  const listeners: ((keys: ReadonlySet<string>) => void)[] = [];
  const source: TableSource<P> = {
    items,
    synced: Promise.resolve(),
    onChange: (one) => {
      listeners.push(one);
    },
  };
  const put = (key: string, value: P | undefined) => {
    if (value === undefined) items.delete(key);
    else items.set(key, value);
    for (const listener of listeners) listener(new Set([key]));
  };
  return { source, put };
}

/** Keeps plans as the kernel would. */
function anEngine() {
  const has = new Map<string, string[]>();
  const apply = ({ upsert, remove }: PlanDelta) => {
    for (const key of remove) has.delete(key);
    for (const plan of upsert)
      has.set(
        plan.key,
        plan.ports.flatMap(({ frontends, backends, protocol }) =>
          frontends
            .filter(({ shadowedBy }) => shadowedBy === undefined)
            .map(
              ({ address, port }) =>
                `${address}:${port}/${protocol} -> ${backends[0]!.endpoint.address}:${backends[0]!.port}`,
            ),
        ),
      );
    return { changes: 0, failed: new Map<string, Error>() };
  };
  const engine = { name: 'fake', apply, setServiceRanges() {} } as unknown as ServiceEngine;
  return { engine, has };
}

const mapping = (hostPort: number, more: Partial<PortMapping> = {}): PortMapping => ({
  hostPort,
  containerPort: 80,
  protocol: 'TCP',
  hostIP: undefined,
  ...more,
});

let created = 0;
function anAttachment(id: string, address: string, ports: PortMapping[], pod?: string): Attachment {
  return {
    containerId: id,
    ifname: 'eth0',
    netns: `/run/netns/${id}`,
    netnsInode: 1n,
    pod: pod === undefined ? undefined : { namespace: 'default', name: pod, uid: '' },
    addresses: [parseIp(address)],
    networks: [],
    portMappings: ports,
    hostLink: `po${id}`,
    kind: 'routed',
    network: 'net',
    mtuBytes: 1500,
    state: 'ready',
    createdAtMs: created++,
  };
}

function aWorld(known: Attachment[] = []) {
  const attachments = [...known];
  let changed = () => {};
  const pods = aTable<HostPortFacts>();
  const services = aTable<ServiceFacts>();
  const { engine, has } = anEngine();
  const store = {
    list: () => attachments,
    holder: (address: { toString(): string }) =>
      attachments.find(({ addresses }) => String(addresses[0]) === String(address)),
    pools: [parseCidr('10.244.1.0/24')],
    onChange: (listener: () => void) => {
      changed = listener;
      return () => {};
    },
  };
  const maps = new PortMaps({
    store,
    pods: pods.source,
    controller: () => controller,
    engine: () => ({
      diff: (plans) => ({
        missing: [...plans].filter(({ key }) => !has.has(key)).map(({ key }) => key),
        unwanted: [],
      }),
    }),
  });
  const controller = new ServiceController({
    services: services.source,
    slices: aTable<never>().source,
    hostPorts: maps.table,
    engine,
    node: aNode({ localAddresses: ['192.0.2.1', '127.0.0.1'], nodePortAddresses: ['192.0.2.1'] }),
    healMs: 0,
  });
  return {
    maps,
    controller,
    pods,
    services,
    has,
    lines: () => [...has.values()].flat().sort(),
    add: async (one: Attachment) => {
      attachments.push(one);
      changed();
      try {
        await maps.claim(one);
        await maps.publish(one);
      } catch (error) {
        await maps.withdraw(one);
        attachments.splice(attachments.indexOf(one), 1);
        throw error;
      }
    },
    del: async (one: Attachment) => {
      await maps.withdraw(one);
      attachments.splice(attachments.indexOf(one), 1);
      changed();
    },
  };
}

const podPorts = (name: string, address: string, hostPort: number): HostPortFacts => ({
  key: `pod/default/${name}`,
  createdAt: '2020-01-01T00:00:00Z',
  addresses: [address],
  ports: [{ protocol: 'TCP', hostPort, hostIP: undefined, containerPort: 80 }],
  problems: [],
});
const taken = (owner: RegExp) => (error: unknown) =>
  isNetError(error, 'CNI_HOST_PORT_TAKEN') && owner.test(error.message);

test('a port is there when publish() resolves, and gone when withdraw() does', async () => {
  const world = aWorld();
  await world.controller.start();
  const web = anAttachment('web', '10.244.1.2', [
    mapping(80),
    mapping(81, { protocol: 'UDP', hostIP: '192.0.2.1' }),
  ]);
  await world.add(web);
  assert.deepEqual(world.lines(), [
    '127.0.0.1:80/TCP -> 10.244.1.2:80',
    '192.0.2.1:80/TCP -> 10.244.1.2:80',
    '192.0.2.1:81/UDP -> 10.244.1.2:80',
  ]);
  assert.deepEqual(world.maps.check(web), []);
  world.has.clear();
  assert.match(world.maps.check(web).join(), /\*:80\/TCP, .*: the kernel lacks/);
  await world.del(web);
  assert.deepEqual([world.lines(), world.controller.plans.size], [[], 0]);
});

test('a kubelet names a port by CNI and by the API: it is one, and goes with the sandbox', async () => {
  const world = aWorld();
  await world.controller.start();
  const first = anAttachment('s1', '10.244.1.2', [mapping(80, { hostIP: '192.0.2.1' })], 'web');
  await world.add(first);
  // The status comes later, with the same, and with a port that the runtime did not name.
  const facts = podPorts('web', '10.244.1.2', 81);
  world.pods.put(facts.key, { ...facts, ports: [...facts.ports, ...first.portMappings] });
  await world.controller.settled();
  assert.deepEqual([...world.controller.plans.keys()], ['pod/default/web']);
  assert.deepEqual(world.lines(), [
    '127.0.0.1:81/TCP -> 10.244.1.2:80',
    '192.0.2.1:80/TCP -> 10.244.1.2:80',
    '192.0.2.1:81/TCP -> 10.244.1.2:80',
  ]);
  // A second sandbox before the first one's DEL: the status still has the old address.
  const second = anAttachment('s2', '10.244.1.3', first.portMappings.slice(), 'web');
  await world.add(second);
  assert.ok(world.lines().every((line) => line.endsWith('10.244.1.3:80')));
  await world.del(first);
  assert.equal(world.lines().length, 3);
  await world.del(second);
  assert.deepEqual(world.lines(), [], 'a Pod that the API still shows with an address that nobody has');
});

test('hostPorts of the API are as they were: pods of other networks, and own ones while they are attached', async () => {
  const world = aWorld();
  await world.controller.start();
  world.pods.put('pod/default/foreign', podPorts('foreign', '172.16.0.9', 80));
  world.pods.put('pod/default/own', podPorts('own', '10.244.1.9', 81));
  await world.controller.settled();
  assert.deepEqual(
    world.lines().filter((line) => line.startsWith('192')),
    ['192.0.2.1:80/TCP -> 172.16.0.9:80'],
  );
  await world.add(anAttachment('own', '10.244.1.9', [], 'own'));
  await world.controller.settled();
  assert.equal(world.lines().length, 4);
});

test('whoever has a port is named to who wants it, and keeps it', async () => {
  const world = aWorld();
  await world.controller.start();
  const facts = serviceFacts(
    aService({ type: 'NodePort', ports: [{ port: 80, nodePort: 30_000, protocol: 'TCP' }] }),
  );
  world.services.put(facts.key, facts);
  world.pods.put('pod/default/live', podPorts('live', '10.244.1.8', 82));
  world.pods.put('pod/default/dead', podPorts('dead', '10.244.1.7', 83));
  await world.add(anAttachment('live', '10.244.1.8', [], 'live'));
  await world.controller.settled();
  const has = anAttachment('has', '10.244.1.2', [mapping(81, { hostIP: '192.0.2.1' })]);
  await world.add(has);
  const before = world.lines();
  const wants = (port: PortMapping) => world.add(anAttachment('wants', '10.244.1.3', [port]));
  await assert.rejects(wants(mapping(81)), taken(/192\.0\.2\.1:81\/TCP.* container "has"/));
  await assert.rejects(wants(mapping(82)), taken(/ pod "default\/live"/));
  await assert.rejects(wants(mapping(30_000)), taken(/ Service "default\/web"/));
  assert.deepEqual(world.lines(), before);
  await wants(mapping(81, { protocol: 'UDP' }));
  await wants(mapping(81, { hostIP: '127.0.0.1' }));
  // The Pod is older by its date, but it is not here any more.
  await wants(mapping(83));
});

test('of two ADDs at once that want one port, one gets it', async () => {
  const world = aWorld();
  await world.controller.start();
  const results = await Promise.allSettled(
    ['a', 'b'].map((id, at) => world.add(anAttachment(id, `10.244.1.${at + 2}`, [mapping(80)]))),
  );
  assert.deepEqual(
    results.map(({ status }) => status),
    ['fulfilled', 'rejected'],
  );
  assert.ok(world.lines().every((line) => line.endsWith('10.244.1.2:80')));
});

test('an address that the node or the container has not is refused before anything is made', async () => {
  const world = aWorld();
  await world.controller.start();
  const wants = (hostIP: string) => world.add(anAttachment('wants', '10.244.1.3', [mapping(80, { hostIP })]));
  const refused = (why: RegExp) => (error: unknown) =>
    isNetError(error, 'CNI_HOST_PORT_ADDRESS') && why.test(error.message);
  await assert.rejects(wants('192.0.2.2'), refused(/the node has no such address/));
  await assert.rejects(wants('::'), refused(/the container has no IPv6 address/));
  assert.deepEqual(world.lines(), []);
});

test('after a start, ports of containers that run are in the first plan, and pending ones are not', async () => {
  const running = anAttachment('a', '10.244.1.2', [mapping(80)]);
  const world = aWorld([
    running,
    { ...anAttachment('b', '10.244.1.3', [mapping(81)]), state: 'pending' },
    { ...anAttachment('gone', '10.244.1.4', [mapping(82)]) },
  ]);
  // Its namespace went while nobody looked; the first pass over the links tells it.
  await world.maps.withdraw({ ...running, containerId: 'gone' });
  await world.controller.start();
  assert.deepEqual(world.lines(), ['127.0.0.1:80/TCP -> 10.244.1.2:80', '192.0.2.1:80/TCP -> 10.244.1.2:80']);
});
