/** Which endpoints a connection gets: slices, conditions, terminating pods, zones and nodes. */
import { resources } from '../../../src/client/index.ts';
import {
  aCase,
  type Case,
  clusterIPs,
  dropped,
  INSIDE,
  nodePortOf,
  nodeTarget,
  reach,
  refused,
  unserved,
} from './case.ts';
import type { ServiceCluster } from './cluster.ts';
import { FAMILY_NAMES } from './net.ts';

const TCP = { name: 'tcp', port: 8080, protocol: 'TCP' as const };
const grace = 3600;
const labelled = (service: string) => ({ 'kubernetes.io/service-name': service });

/** One slice a family with these endpoints as they are. */
async function raw(
  cluster: ServiceCluster,
  name: string,
  service: string,
  endpoints: (family: 'ip4' | 'ip6') => object[],
  ports: object[] = [TCP],
): Promise<void> {
  for (const family of FAMILY_NAMES)
    await cluster.slice(`${name}-${family}`, {
      metadata: { name: '', labels: labelled(service) },
      addressType: family === 'ip4' ? 'IPv4' : 'IPv6',
      ports,
      endpoints: endpoints(family),
    } as never);
  await cluster.settled();
}

export const endpointCases: readonly Case[] = [
  aCase(
    'endpointslice-005 endpointslice-006 servicecorner-032',
    'endpoints of all slices of a Service count, each by its first address',
    async (cluster) => {
      await cluster.service('sliced', { ports: [{ name: 'tcp', port: 80, protocol: 'TCP' }] });
      const at = (name: string) => (family: 'ip4' | 'ip6') => [
        { addresses: [cluster.address(name, family)], nodeName: cluster.net.pod(name).node },
      ];
      await raw(cluster, 'first', 'sliced', at('a1'));
      await raw(cluster, 'second', 'sliced', at('b1'), [{ ...TCP, port: 8081 }]);
      // The same endpoint twice is one endpoint.
      await raw(cluster, 'third', 'sliced', at('a1'));
      const vip = await clusterIPs(cluster, 'sliced');
      await reach(cluster, INSIDE, 'tcp', vip, 80, ['a1', 'b1-second']);
    },
  ),
  aCase(
    'endpointslice-007 endpointslice-008',
    'Endpoints that somebody writes serve a Service without a selector, one address at several ports',
    async (cluster) => {
      await cluster.service('written', { ports: [{ name: 'tcp', port: 80, protocol: 'TCP' }] });
      const vip = await clusterIPs(cluster, 'written');
      const subset = (name: string, port: number) => ({
        addresses: FAMILY_NAMES.map((family) => ({ ip: cluster.address(name, family) })),
        ports: [{ ...TCP, port }],
      });
      const endpoints = {
        apiVersion: 'v1',
        kind: 'Endpoints',
        metadata: { name: 'written', namespace: 'default' },
        subsets: [subset('a1', 8080), subset('a1', 8081)],
      };
      const stored = await cluster.client.create(resources.endpoints, endpoints);
      await cluster.published('written', ['a1+']);
      await reach(cluster, INSIDE, 'tcp', vip, 80, ['a1', 'a1-second']);
      await cluster.client.update(resources.endpoints, { ...stored, subsets: [subset('b1', 8080)] });
      await cluster.published('written', ['b1+']);
      await reach(cluster, INSIDE, 'tcp', vip, 80, ['b1']);
      await cluster.client.delete(resources.endpoints, { name: 'written', namespace: 'default' });
      await cluster.published('written', []);
      await refused(cluster, INSIDE, 'tcp', vip, 80);
    },
  ),
  aCase(
    'servicecorner-021 servicecorner-022 services-023',
    'conditions that are not there mean ready; who does not serve is never used',
    async (cluster) => {
      await cluster.service('conditions', {});
      const vip = await clusterIPs(cluster, 'conditions');
      await raw(cluster, 'bare', 'conditions', (family) => [
        { addresses: [cluster.address('a1', family)] },
        { addresses: [cluster.address('b1', family)], conditions: { ready: false } },
        {
          addresses: [cluster.address('c1', family)],
          conditions: { ready: false, serving: false, terminating: true },
        },
      ]);
      await reach(cluster, INSIDE, 'tcp', vip, 80, ['a1']);
      await raw(cluster, 'bare', 'conditions', (family) => [
        {
          addresses: [cluster.address('c1', family)],
          conditions: { ready: false, serving: false, terminating: true },
        },
      ]);
      await refused(cluster, INSIDE, 'tcp', vip, 80);
    },
  ),
  aCase(
    'servicecorner-030 servicecorner-033 servicecorner-034',
    'a port without name; slices of names and of a family that the Service has not are ignored',
    async (cluster) => {
      await cluster.service('plain', {
        ipFamilyPolicy: 'SingleStack',
        ipFamilies: ['IPv4'],
        ports: [{ port: 80, protocol: 'TCP' }],
      });
      await raw(cluster, 'plain', 'plain', (family) => [{ addresses: [cluster.address('a1', family)] }], [
        { port: 8080, protocol: 'TCP' },
      ]);
      await cluster.slice('plain-names', {
        metadata: { name: '', labels: labelled('plain') },
        addressType: 'FQDN',
        ports: [{ port: 8080, protocol: 'TCP' }],
        endpoints: [{ addresses: ['example.com'] }],
      });
      await cluster.settled();
      const { ip4 } = await clusterIPs(cluster, 'plain');
      await reach(cluster, INSIDE, 'tcp', { ip4, ip6: ip4 }, 80, ['a1']);
    },
  ),
  aCase(
    'dualstack-004 dualstack-005 dualstack-006 dualstack-007 dualstack-008',
    'a Service has addresses of its families in their order',
    async (cluster) => {
      const of = async (name: string, spec: object) => {
        await cluster.service(name, spec);
        return (await cluster.get(name)).spec.clusterIPs!.map((ip) => (ip.includes(':') ? 6 : 4)).join();
      };
      const single = { ipFamilyPolicy: 'SingleStack' };
      const found = [
        await of('f1', { ...single, ipFamilies: ['IPv4'] }),
        await of('f2', { ...single, ipFamilies: ['IPv6'] }),
        await of('f3', { ipFamilies: ['IPv4', 'IPv6'] }),
        await of('f4', { ipFamilies: ['IPv6', 'IPv4'] }),
        await of('f5', single),
      ];
      if (found.join(' ') !== '4 6 4,6 6,4 4') throw new Error(found.join(' '));
      await cluster.endpoints('f4', ['b1']);
      await reach(cluster, INSIDE, 'tcp', await clusterIPs(cluster, 'f4'), 80, ['b1']);
    },
  ),
  aCase(
    'endpointslice-002 endpointslice-003 networking-017 networking-021 dualstack-017 dualstack-018',
    'slices follow pods, with target ports by number and name; who has gone answers no more',
    async (cluster) => {
      await cluster.service('named', {
        selector: { app: 'named' },
        ports: [
          { name: 'tcp', port: 80, targetPort: 'web', protocol: 'TCP' },
          { name: 'udp', port: 80, targetPort: 8081, protocol: 'UDP' },
        ],
      });
      await cluster.pod('a1', { app: 'named' }, { ports: [{ name: 'web', containerPort: 8080 }] });
      await cluster.pod('b1', { app: 'named' }, { ports: [{ name: 'web', containerPort: 8081 }] });
      await cluster.published('named', ['a1+', 'b1+']);
      const vip = await clusterIPs(cluster, 'named');
      await reach(cluster, INSIDE, 'tcp', vip, 80, ['a1', 'b1-second']);
      await reach(cluster, INSIDE, 'udp', vip, 80, ['a1-second', 'b1-second']);
      await cluster.deletePod('a1');
      await cluster.published('named', ['b1+']);
      await reach(cluster, INSIDE, 'tcp', vip, 80, ['b1-second']);
      await reach(cluster, INSIDE, 'udp', vip, 80, ['b1-second']);
    },
  ),
  aCase(
    'networking-016',
    'two Services over the same pods; a change of one leaves the other alone',
    async (cluster) => {
      for (const name of ['one', 'two']) {
        await cluster.service(name, {});
        await cluster.endpoints(name, ['a1', 'b1']);
      }
      const vip = await clusterIPs(cluster, 'two');
      await cluster.endpoints('one', ['a1']);
      await reach(cluster, INSIDE, 'tcp', await clusterIPs(cluster, 'one'), 80, ['a1']);
      await reach(cluster, INSIDE, 'tcp', vip, 80, ['a1', 'b1']);
      await cluster.deleteService('one');
      await cluster.settled();
      await reach(cluster, INSIDE, 'udp', vip, 80, ['a1', 'b1']);
    },
  ),
  aCase(
    'services-013 services-014',
    'unready and terminating pods are reached when their Service publishes them, else not',
    async (cluster) => {
      const port = 31_234;
      const ports = [{ name: 'tcp', port: 80, targetPort: 8080, nodePort: port, protocol: 'TCP' as const }];
      await cluster.service('early', {
        type: 'NodePort',
        selector: { app: 'early' },
        publishNotReadyAddresses: true,
        ports,
      });
      const vip = await clusterIPs(cluster, 'early');
      await cluster.pod('a1', { app: 'early' }, { ready: false });
      const works = async () => {
        await reach(cluster, INSIDE, 'tcp', vip, 80, ['a1']);
        await reach(cluster, ['outside', 'b1'], 'tcp', nodeTarget(cluster, 'b'), port, ['a1']);
      };
      const fails = async () => {
        await refused(cluster, INSIDE, 'tcp', vip, 80);
        await refused(cluster, ['outside', 'b1'], 'tcp', nodeTarget(cluster, 'b'), port);
      };
      await cluster.published('early', ['a1+']);
      await works();
      await cluster.patch('early', { spec: { publishNotReadyAddresses: false } });
      await cluster.published('early', ['a1-']);
      await fails();
      await cluster.deletePod('a1', grace);
      await cluster.published('early', ['a1-']);
      await fails();
      await cluster.patch('early', { spec: { publishNotReadyAddresses: true } });
      await cluster.published('early', ['a1+']);
      await works();
    },
  ),
  aCase('services-033', 'evicted pods are no endpoints', async (cluster) => {
    await cluster.service('evicted', { selector: { app: 'evicted' } });
    const vip = await clusterIPs(cluster, 'evicted');
    await cluster.pod('b1', { app: 'evicted' });
    await cluster.published('evicted', ['b1+']);
    await reach(cluster, ['a1', 'packets a1', 'node-a'], 'tcp', vip, 80, ['b1']);
    await cluster.client.patchStatus(
      resources.pods,
      { namespace: 'default', name: 'b1' },
      { status: { phase: 'Failed', reason: 'Evicted' } },
      { type: 'strategic' },
    );
    await cluster.published('evicted', []);
    await refused(cluster, INSIDE, 'tcp', vip, 80);
  }),
  aCase(
    'services-038 services-040',
    'when nobody is ready, terminating pods that serve go on, everywhere',
    async (cluster) => {
      await cluster.service('leaving', { type: 'NodePort', selector: { app: 'leaving' } });
      const vip = await clusterIPs(cluster, 'leaving');
      const port = await nodePortOf(cluster, 'leaving');
      await cluster.pod('b1', { app: 'leaving' });
      await cluster.published('leaving', ['b1+']);
      await cluster.deletePod('b1', grace);
      await cluster.published('leaving', ['b1~']);
      await reach(cluster, INSIDE, 'tcp', vip, 80, ['b1']);
      for (const letter of ['a', 'b'])
        await reach(cluster, ['outside', 'a1', 'node-a'], 'tcp', nodeTarget(cluster, letter), port, ['b1']);
      // One that is ready takes over.
      await cluster.pod('a2', { app: 'leaving' });
      await cluster.published('leaving', ['a2+', 'b1~']);
      await reach(cluster, INSIDE, 'tcp', vip, 80, ['a2']);
    },
  ),
  aCase(
    'services-039 services-041 servicecorner-020',
    'the fall-back to terminating endpoints is one for each policy',
    async (cluster) => {
      await cluster.service('both', {
        type: 'NodePort',
        internalTrafficPolicy: 'Local',
        externalTrafficPolicy: 'Local',
      });
      const vip = await clusterIPs(cluster, 'both');
      const port = await nodePortOf(cluster, 'both');
      await cluster.endpoints('both', ['a1 terminating']);
      await reach(cluster, ['a2', 'packets a1', 'node-a'], 'tcp', vip, 80, ['a1']);
      await dropped(cluster, ['b1', 'packets b1', 'node-b'], 'tcp', vip, 80);
      await reach(cluster, 'outside', 'tcp', nodeTarget(cluster, 'a'), port, ['a1']);
      await dropped(cluster, 'outside', 'tcp', nodeTarget(cluster, 'b'), port);
      // Ready elsewhere, only terminating here: policy Cluster goes there, policy Local stays.
      await cluster.endpoints('both', ['a1 terminating', 'b1']);
      await reach(cluster, 'outside', 'tcp', nodeTarget(cluster, 'a'), port, ['a1']);
      await cluster.patch('both', { spec: { internalTrafficPolicy: 'Cluster' } });
      await reach(cluster, ['a2', 'packets a1', 'node-a'], 'tcp', vip, 80, ['b1']);
      await reach(cluster, 'outside', 'tcp', nodeTarget(cluster, 'a'), port, ['a1']);
    },
  ),
  aCase(
    'trafficdistribution-001 trafficdistribution-003 servicecorner-024',
    'a preferred zone is kept by those who have an endpoint in theirs',
    async (cluster) => {
      for (const trafficDistribution of ['PreferClose', 'PreferSameZone'] as const) {
        await cluster.service('zoned', { selector: { app: 'zoned' }, trafficDistribution } as never);
        const vip = await clusterIPs(cluster, 'zoned');
        await cluster.pod('a1', { app: 'zoned' });
        await cluster.pod('b1', { app: 'zoned' });
        await cluster.published('zoned', ['a1+', 'b1+']);
        await reach(cluster, ['a2', 'node-a', 'packets a1'], 'tcp', vip, 80, ['a1']);
        await reach(cluster, ['b2', 'node-b', 'packets b1'], 'tcp', vip, 80, ['b1']);
        await reach(cluster, ['c1', 'node-c', 'packets c1'], 'tcp', vip, 80, ['a1', 'b1']);
        for (const pod of ['a1', 'b1']) await cluster.deletePod(pod);
        await cluster.published('zoned', []);
      }
    },
  ),
  aCase(
    'trafficdistribution-002 trafficdistribution-004 servicecorner-025',
    'the zone decides and not the node; a node that changes its zone follows at once',
    async (cluster) => {
      await cluster.service('zoned', {
        selector: { app: 'zoned' },
        trafficDistribution: 'PreferSameZone',
      } as never);
      const vip = await clusterIPs(cluster, 'zoned');
      const zone = (letter: string, name: string) =>
        cluster.client.patch(
          resources.nodes,
          { name: `node-${letter}` },
          { metadata: { labels: { 'topology.kubernetes.io/zone': name } } },
        );
      await zone('b', 'za');
      try {
        for (const pod of ['a1', 'b1', 'c1']) await cluster.pod(pod, { app: 'zoned' });
        await cluster.published('zoned', ['a1+', 'b1+', 'c1+']);
        await cluster.hinted('zoned', 'za za zc');
        for (const from of ['a2', 'b2', 'node-a', 'node-b'])
          await reach(cluster, from, 'tcp', vip, 80, ['a1', 'b1']);
        await zone('b', 'zc');
        await cluster.hinted('zoned', 'za zc zc');
        await reach(cluster, ['a2', 'node-a'], 'tcp', vip, 80, ['a1']);
        await reach(cluster, ['b2', 'node-b', 'node-c'], 'tcp', vip, 80, ['b1', 'c1']);
      } finally {
        await zone('b', 'zb');
      }
    },
  ),
  aCase(
    'trafficdistribution-005 trafficdistribution-006',
    'the same node is preferred, then its zone, then any',
    async (cluster) => {
      await cluster.service('near', {
        selector: { app: 'near' },
        trafficDistribution: 'PreferSameNode',
      } as never);
      const vip = await clusterIPs(cluster, 'near');
      for (const pod of ['a1', 'b1']) await cluster.pod(pod, { app: 'near' });
      await cluster.published('near', ['a1+', 'b1+']);
      await reach(cluster, ['a2', 'node-a'], 'tcp', vip, 80, ['a1']);
      await reach(cluster, ['c1', 'node-c'], 'tcp', vip, 80, ['a1', 'b1']);
      await cluster.ready('a1', false);
      await cluster.published('near', ['a1-', 'b1+']);
      await reach(cluster, ['a2', 'node-a'], 'tcp', vip, 80, ['b1']);
      await cluster.ready('a1', true);
      await cluster.published('near', ['a1+', 'b1+']);
      await reach(cluster, ['a2', 'node-a'], 'tcp', vip, 80, ['a1']);
    },
  ),
  aCase('hints-1', 'hints that some ready endpoint lacks are ignored', async (cluster) => {
    await cluster.service('half', {});
    await cluster.endpoints('half', ['a1 zone:za', 'b1']);
    await reach(cluster, ['a2', 'b2', 'node-a'], 'tcp', await clusterIPs(cluster, 'half'), 80, ['a1', 'b1']);
  }),
  aCase('weights-1', 'weights by node and address; weight 0 gets nobody new', async (cluster) => {
    const { ip4, ip6 } = cluster.net.pod('a2');
    await cluster.service(
      'weighted',
      {},
      { annotations: { 'portolan.dev/weights': `node-b=0,${ip4}=9,${ip6}=9` } },
    );
    await cluster.endpoints('weighted', ['a1', 'a2', 'b1']);
    const vip = await clusterIPs(cluster, 'weighted');
    for (const from of ['a3', 'packets b1', 'node-a']) {
      const saws = await reach(cluster, from, 'tcp', vip, 80, ['a1', 'a2'], { times: 100 });
      for (const { seen } of saws) {
        const share = seen.filter(({ server }) => server === 'a2').length;
        // 90 of 100 with a deviation of 3: 75 is five deviations away.
        if (share < 75) throw new Error(`a2 has weight 9 of 10 and got ${share} of 100`);
      }
    }
  }),
  aCase('unready-1', 'an endpoint that is unready among ready ones gets nobody', async (cluster) => {
    await cluster.service('mixed', {});
    await cluster.endpoints('mixed', ['a1 unready', 'b1', 'c1 terminating']);
    await reach(cluster, INSIDE, 'udp', await clusterIPs(cluster, 'mixed'), 80, ['b1']);
    await cluster.endpoints('mixed', ['a1 unready']);
    await unserved(cluster, INSIDE, 'udp', await clusterIPs(cluster, 'mixed'), 80);
  }),
];
