import assert from 'node:assert/strict';
import test from 'node:test';
import type { ContainerPort, Pod } from '../model/kubernetes.ts';
import { portText } from './describe.ts';
import { serviceFacts, sliceFacts } from './facts.ts';
import { hostPortsOfPod, planHostPorts } from './host-ports.ts';
import { ServicePlanner } from './planner.ts';
import { aNode, aService, aSlice } from './testing.ts';
import type { HostPortFacts } from './types.ts';

const aPod = (
  name: string,
  ports: ContainerPort[],
  more: Partial<Pod['spec']> = {},
  created = '2026-01-01',
): Pod => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace: 'default', creationTimestamp: `${created}T00:00:00Z` },
  spec: { containers: [{ name: 'c', image: 'x', ports }], ...more },
  status: { phase: 'Running', podIPs: [{ ip: '10.244.1.2' }, { ip: 'fd00:10:244:1::2' }] },
});
const node = aNode({ localAddresses: ['192.168.0.1', '10.0.0.1', '127.0.0.1', 'fd00::1', '::1'] });
const frontends = (pod: Pod) =>
  planHostPorts(hostPortsOfPod(pod)!, node).ports.flatMap((port) =>
    portText(port)
      .slice(0, -2)
      .map((line) => line.replace(/ pod,node.*/, '')),
  );

test('a hostPort is at every address of the node, and its pod sees who comes', () => {
  const plan = planHostPorts(hostPortsOfPod(aPod('web', [{ containerPort: 80, hostPort: 8000 }]))!, node);
  assert.deepEqual(plan.ports.flatMap(portText), [
    'HostPort 192.168.0.1:8000/TCP pod,node,outside: forward cluster',
    'HostPort 10.0.0.1:8000/TCP pod,node,outside: forward cluster',
    'HostPort 127.0.0.1:8000/TCP pod,node,outside: forward cluster',
    'cluster: 10.244.1.2:80',
    'local: -',
    'HostPort [fd00::1]:8000/TCP pod,node,outside: forward cluster',
    'HostPort [::1]:8000/TCP pod,node,outside: forward cluster',
    'cluster: [fd00:10:244:1::2]:80',
    'local: -',
  ]);
});

test('hostIP chooses addresses', () => {
  const at = (hostIP: string) =>
    frontends(aPod('web', [{ containerPort: 80, hostPort: 80, hostIP }])).map((line) => line.split(' ')[1]);
  assert.deepEqual(at('0.0.0.0'), ['192.168.0.1:80/TCP', '10.0.0.1:80/TCP', '127.0.0.1:80/TCP']);
  assert.deepEqual(at('::'), ['[fd00::1]:80/TCP', '[::1]:80/TCP']);
  assert.deepEqual(at('10.0.0.1'), ['10.0.0.1:80/TCP']);
  assert.deepEqual(at('127.0.0.1'), ['127.0.0.1:80/TCP']);
});

test('an address that the node has not is not taken from its owner', () => {
  const plan = planHostPorts(
    hostPortsOfPod(aPod('web', [{ containerPort: 80, hostPort: 80, hostIP: '8.8.8.8' }]))!,
    node,
  );
  assert.deepEqual(plan.ports, []);
  assert.match(
    plan.problems[0]!.message,
    /hostPort 80 of pod "default\/web" at "8.8.8.8": the node has no such/,
  );
});

test('one number serves several protocols, and several ports of a pod by address', () => {
  assert.deepEqual(
    frontends(
      aPod('web', [
        { containerPort: 80, hostPort: 53, protocol: 'TCP', hostIP: '0.0.0.0' },
        { containerPort: 81, hostPort: 53, protocol: 'TCP', hostIP: '10.0.0.1' },
        { containerPort: 53, hostPort: 53, protocol: 'UDP', hostIP: '10.0.0.1' },
      ]),
    ).map((line) => line.replace(/ pod.*/, '')),
    [
      'HostPort 10.0.0.1:53/TCP',
      'HostPort 10.0.0.1:53/UDP',
      'HostPort 192.168.0.1:53/TCP',
      'HostPort 127.0.0.1:53/TCP',
    ],
  );
});

test('pods without hostPorts, with the network of the node, or that have ended plan nothing', () => {
  const port = { containerPort: 80, hostPort: 80 };
  assert.equal(hostPortsOfPod(aPod('a', [{ containerPort: 80 }])), undefined);
  assert.equal(hostPortsOfPod(aPod('a', [port], { hostNetwork: true })), undefined);
  assert.equal(hostPortsOfPod({ ...aPod('a', [port]), status: { phase: 'Failed' } }), undefined);
  assert.equal(hostPortsOfPod({ ...aPod('a', [port]), status: { phase: 'Pending' } }), undefined);
});

test('a nodePort goes before a hostPort, the older pod before the younger one, and what is free again is served', () => {
  const hostPorts = new Map<string, HostPortFacts>();
  const service = serviceFacts(aService({ type: 'NodePort', ports: [{ port: 80, nodePort: 30_080 }] }));
  const services = new Map([[service.key, service]]);
  const slice = sliceFacts(aSlice(['10.244.1.9 node-a']));
  const planner = new ServicePlanner({ services, slices: new Map([[slice.key, slice]]), hostPorts }, node);
  const port = { containerPort: 80, hostPort: 30_080, hostIP: '192.168.0.1' };
  for (const pod of [aPod('young', [port], {}, '2026-02-02'), aPod('old', [port])]) {
    const facts = hostPortsOfPod(pod)!;
    hostPorts.set(facts.key, facts);
  }
  planner.planAll();
  const owner = (pod: string) => planner.plans.get(`pod/default/${pod}`)!.ports[0]!.frontends[0]!.shadowedBy;
  assert.deepEqual([owner('old'), owner('young')], ['default/web', 'default/web']);
  services.clear();
  const delta = planner.plan(['default/web'], []);
  assert.deepEqual(delta.remove, ['default/web']);
  assert.deepEqual([owner('old'), owner('young')], [undefined, 'pod/default/old']);
  hostPorts.delete('pod/default/old');
  planner.plan([], [], ['pod/default/old']);
  assert.equal(owner('young'), undefined);
});
