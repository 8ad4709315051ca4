/** Traffic policies, load balancer addresses, and whose address a server sees. */
import assert from 'node:assert/strict';
import { resources } from '../../../src/client/index.ts';
import {
  aCase,
  attempts,
  type Case,
  clusterIPs,
  dropped,
  forbidden,
  INSIDE,
  nodeAddresses,
  nodePortOf,
  nodeTarget,
  reach,
  refused,
  type Saw,
  sawClient,
  sawOneOf,
  type Target,
  unserved,
} from './case.ts';
import type { ServiceCluster } from './cluster.ts';
import { VIPS } from './net.ts';

const tcp = { name: 'tcp', port: 80, targetPort: 8080, protocol: 'TCP' as const };
const EVERYWHERE = [...INSIDE, 'outside'] as const;
const LB = { type: 'LoadBalancer' } as const;
const LOCAL = { externalTrafficPolicy: 'Local' } as const;
const vips = (...targets: readonly Target[]) => targets.flatMap(({ ip4, ip6 }) => [{ ip: ip4 }, { ip: ip6 }]);
const outsideAddress =
  (cluster: ServiceCluster) =>
  ({ family }: Saw) =>
    cluster.net.outside[family];
/** Address of the pod that asks. */
const podAddress =
  (cluster: ServiceCluster) =>
  ({ from, family }: Saw) =>
    cluster.address(from.replace('packets ', ''), family);

/** A Service of type LoadBalancer with an address by each of two nodes, and these endpoints. */
async function balanced(cluster: ServiceCluster, spec: object, endpoints: readonly string[]): Promise<void> {
  await cluster.service('lb', { ...LB, ...spec });
  await cluster.ingress('lb', vips(VIPS.a, VIPS.b));
  await cluster.endpoints('lb', endpoints);
}

/** Answer of the health check port of a node: the HTTP code, and the body. */
async function health(
  cluster: ServiceCluster,
  letter: string,
  port: number,
): Promise<{ code: number; body: string; weight: string }> {
  const { netnsName } = cluster.net.outside;
  const url = `http://${cluster.net.node(letter).ip4}:${port}/`;
  let text: string;
  try {
    text = await cluster.net.run(netnsName, ['curl', '-s', '-m', '2', '-i', url]);
  } catch {
    return { code: 0, body: '', weight: '' };
  }
  const [head = '', body = ''] = text.split('\r\n\r\n');
  return {
    code: Number(head.split(' ')[1]),
    body,
    weight: /x-load-balancing-endpoint-weight: (\d+)/i.exec(head)?.[1] ?? '',
  };
}

export const policyCases: readonly Case[] = [
  aCase(
    'services-036 networking-025 servicecorner-038 dualstack-016',
    'host-network endpoints are reached, and policy Local counts them',
    async (cluster) => {
      await cluster.service('host', {});
      const ports = [
        { name: 'tcp', port: 9090, protocol: 'TCP' as const },
        { name: 'udp', port: 9090, protocol: 'UDP' as const },
      ];
      await cluster.endpoints('host', ['node-a', 'node-b'], ports);
      const vip = await clusterIPs(cluster, 'host');
      for (const kind of ['tcp', 'udp'] as const)
        await reach(cluster, EVERYWHERE, kind, vip, 80, ['node-a', 'node-b']);
      await cluster.patch('host', { spec: { internalTrafficPolicy: 'Local' } });
      await cluster.endpoints('host', ['node-a'], ports);
      await reach(cluster, ['a1', 'packets a1', 'node-a'], 'tcp', vip, 80, ['node-a']);
      await dropped(cluster, ['b1', 'packets b1', 'node-b'], 'tcp', vip, 80);
    },
  ),
  aCase('servicecorner-001', 'without endpoints all frontends refuse, whoever asks', async (cluster) => {
    await cluster.service('lb', { ...LB, externalIPs: ['198.51.100.7', 'fd00:198::7'] });
    await cluster.ingress('lb', vips(VIPS.a));
    await cluster.endpoints('lb', []);
    const port = await nodePortOf(cluster, 'lb');
    const options = { times: 5, timeout: 0.5 };
    for (const [to, number] of [
      [await clusterIPs(cluster, 'lb'), 80],
      [VIPS.a, 80],
      [nodeTarget(cluster, 'a'), port],
    ] as const)
      await refused(cluster, EVERYWHERE, 'tcp', to, number, options);
    await refused(cluster, INSIDE, 'tcp', { ip4: '198.51.100.7', ip6: 'fd00:198::7' }, 80, options);
    await unserved(cluster, EVERYWHERE, 'udp', VIPS.a, 80);
  }),
  aCase(
    'servicecorner-004 loadbalancers-012 services-041',
    'external policy Local: endpoints elsewhere only drop clients outside',
    async (cluster) => {
      await balanced(cluster, LOCAL, ['b1']);
      const port = await nodePortOf(cluster, 'lb');
      await dropped(cluster, 'outside', 'tcp', VIPS.a, 80);
      await dropped(cluster, 'outside', 'udp', VIPS.a, 80);
      await dropped(cluster, 'outside', 'tcp', nodeTarget(cluster, 'a'), port);
      for (const [to, number] of [
        [VIPS.b, 80],
        [nodeTarget(cluster, 'b'), port],
      ] as const)
        sawClient(await reach(cluster, 'outside', 'tcp', to, number, ['b1']), outsideAddress(cluster));
    },
  ),
  aCase(
    'servicecorner-005 loadbalancers-014',
    'external policy Local: a pod without endpoints on its node is served by others, and keeps its address',
    async (cluster) => {
      await balanced(cluster, LOCAL, ['b1']);
      const port = await nodePortOf(cluster, 'lb');
      for (const to of [VIPS.a, VIPS.b])
        sawClient(await reach(cluster, ['a1', 'packets a1'], 'tcp', to, 80, ['b1']), podAddress(cluster));
      sawClient(
        await reach(cluster, ['a1', 'packets a1'], 'tcp', nodeTarget(cluster, 'a'), port, ['b1']),
        podAddress(cluster),
      );
    },
  ),
  aCase(
    'servicecorner-006',
    'external policy Local: the node itself is served by others',
    async (cluster) => {
      await balanced(cluster, LOCAL, ['b1']);
      const port = await nodePortOf(cluster, 'lb');
      for (const [to, number] of [
        [VIPS.a, 80],
        [nodeTarget(cluster, 'a'), port],
      ] as const)
        sawOneOf(await reach(cluster, 'node-a', 'tcp', to, number, ['b1']), nodeAddresses(cluster, 'a'));
    },
  ),
  aCase(
    'servicecorner-008 loadbalancers-011',
    'external policy Local: endpoints here see who asks from outside',
    async (cluster) => {
      await balanced(cluster, LOCAL, ['a1', 'a2', 'b1']);
      const port = await nodePortOf(cluster, 'lb');
      for (const kind of ['tcp', 'udp'] as const) {
        sawClient(await reach(cluster, 'outside', kind, VIPS.a, 80, ['a1', 'a2']), outsideAddress(cluster));
        sawClient(await reach(cluster, 'outside', kind, VIPS.b, 80, ['b1']), outsideAddress(cluster));
      }
      sawClient(
        await reach(cluster, 'outside', 'tcp', nodeTarget(cluster, 'a'), port, ['a1', 'a2']),
        outsideAddress(cluster),
      );
    },
  ),
  aCase(
    'loadbalancers-015 loadbalancers-016',
    'external policy Local, Cluster, Local: who is served, who is seen, and the health check port',
    async (cluster) => {
      await balanced(cluster, LOCAL, ['b1']);
      const check = (await cluster.get('lb')).spec.healthCheckNodePort!;
      assert.ok(check > 0);
      sawClient(await reach(cluster, 'outside', 'tcp', VIPS.b, 80, ['b1']), outsideAddress(cluster));
      await dropped(cluster, 'outside', 'tcp', VIPS.a, 80);
      assert.deepEqual(
        [(await health(cluster, 'a', check)).code, (await health(cluster, 'b', check)).code],
        [503, 200],
      );
      await cluster.patch('lb', { spec: { externalTrafficPolicy: 'Cluster' } });
      for (const [letter, to] of [
        ['a', VIPS.a],
        ['b', VIPS.b],
      ] as const)
        sawOneOf(await reach(cluster, 'outside', 'tcp', to, 80, ['b1']), nodeAddresses(cluster, letter));
      assert.equal((await health(cluster, 'b', check)).code, 0);
      await cluster.patch('lb', { spec: { externalTrafficPolicy: 'Local' } });
      sawClient(await reach(cluster, 'outside', 'tcp', VIPS.b, 80, ['b1']), outsideAddress(cluster));
      await dropped(cluster, 'outside', 'tcp', VIPS.a, 80);
    },
  ),
  aCase(
    'servicecorner-044 loadbalancers-013 services-037',
    'the health check port counts ready endpoints of the node; terminating ones serve on',
    async (cluster) => {
      await balanced(cluster, LOCAL, ['a1', 'a2', 'b1']);
      const port = (await cluster.get('lb')).spec.healthCheckNodePort!;
      const two = await health(cluster, 'a', port);
      assert.deepEqual([two.code, two.weight], [200, '2']);
      assert.deepEqual(JSON.parse(two.body), {
        service: { namespace: 'default', name: 'lb' },
        localEndpoints: 2,
        serviceProxyHealthy: true,
      });
      assert.equal((await health(cluster, 'c', port)).code, 503);
      await cluster.endpoints('lb', ['a1 terminating', 'b1']);
      const none = await health(cluster, 'a', port);
      assert.deepEqual([none.code, JSON.parse(none.body).localEndpoints], [503, 0]);
      await reach(cluster, 'outside', 'tcp', VIPS.a, 80, ['a1']);
    },
  ),
  aCase(
    'loadbalancers-001 loadbalancers-002',
    'a Service becomes NodePort, LoadBalancer and ClusterIP again, each stage reachable where it should be',
    async (cluster) => {
      for (const protocol of ['TCP', 'UDP'] as const) {
        const kind = protocol === 'TCP' ? 'tcp' : 'udp';
        const ports = (port: number) => [{ name: 'p', port, targetPort: 8080, protocol }];
        const name = `stages-${kind}`;
        await cluster.service(name, { ports: ports(80) });
        await cluster.endpoints(name, ['b1'], [{ name: 'p', port: 8080, protocol }]);
        const vip = await clusterIPs(cluster, name);
        await reach(cluster, INSIDE, kind, vip, 80, ['b1']);
        await cluster.service(name, { type: 'NodePort', ports: ports(80) });
        await cluster.settled();
        const nodePort = await nodePortOf(cluster, name, 'p');
        await reach(cluster, EVERYWHERE, kind, nodeTarget(cluster, 'a'), nodePort, ['b1']);
        await cluster.service(name, { ...LB, ports: ports(80) });
        await cluster.ingress(name, vips(VIPS.a));
        await cluster.settled();
        await reach(cluster, EVERYWHERE, kind, VIPS.a, 80, ['b1']);
        await cluster.service(name, { ...LB, ports: ports(81) });
        await cluster.settled();
        await reach(cluster, EVERYWHERE, kind, VIPS.a, 81, ['b1']);
        await unserved(cluster, EVERYWHERE, kind, VIPS.a, 80);
        await cluster.service(name, { ports: ports(81) });
        await cluster.settled();
        await unserved(cluster, EVERYWHERE, kind, VIPS.a, 81);
        await unserved(cluster, EVERYWHERE, kind, nodeTarget(cluster, 'a'), nodePort);
        await reach(cluster, INSIDE, kind, vip, 81, ['b1']);
        await cluster.deleteService(name);
      }
    },
  ),
  aCase(
    'loadbalancers-004',
    'without nodePorts a load balancer address works, and they come when asked for',
    async (cluster) => {
      await balanced(cluster, { allocateLoadBalancerNodePorts: false }, ['b1']);
      assert.equal(await nodePortOf(cluster, 'lb'), 0);
      await reach(cluster, EVERYWHERE, 'tcp', VIPS.a, 80, ['b1']);
      await cluster.patch('lb', { spec: { allocateLoadBalancerNodePorts: true } });
      const port = await nodePortOf(cluster, 'lb');
      assert.ok(port > 0);
      await reach(cluster, EVERYWHERE, 'tcp', nodeTarget(cluster, 'a'), port, ['b1']);
    },
  ),
  aCase(
    'servicecorner-014',
    'a load balancer address in mode Proxy is left to the load balancer',
    async (cluster) => {
      await cluster.service('lb', LB);
      await cluster.ingress(
        'lb',
        [VIPS.proxy.ip4, VIPS.proxy.ip6].map((ip) => ({ ip, ipMode: 'Proxy' as const })),
      );
      await cluster.endpoints('lb', ['b1']);
      await reach(cluster, ['a1', 'packets a1', 'node-a'], 'tcp', VIPS.proxy, 80, ['proxy']);
      await cluster.ingress(
        'lb',
        [VIPS.proxy.ip4, VIPS.proxy.ip6].map((ip) => ({ ip, ipMode: 'VIP' as const })),
      );
      await cluster.settled();
      await reach(cluster, ['a1', 'packets a1', 'node-a'], 'tcp', VIPS.proxy, 80, ['b1']);
    },
  ),
  aCase('class-1', 'a loadBalancerClass changes nothing in the data path', async (cluster) => {
    await balanced(cluster, { loadBalancerClass: 'example.com/other' }, ['b1']);
    await reach(cluster, EVERYWHERE, 'tcp', VIPS.a, 80, ['b1']);
  }),
  aCase('services-043', 'a load balancer Service without address serves its ClusterIP', async (cluster) => {
    await cluster.service('lb', {
      ...LB,
      selector: { app: 'lb' },
      ports: [
        { name: 'tcp', port: 80, targetPort: 'web', protocol: 'TCP' },
        { name: 'udp', port: 80, targetPort: 'dns', protocol: 'UDP' },
      ],
    });
    await cluster.pod(
      'b1',
      { app: 'lb' },
      {
        ports: [
          { name: 'web', containerPort: 8080, protocol: 'TCP' },
          { name: 'dns', containerPort: 8081, protocol: 'UDP' },
        ],
      },
    );
    await cluster.published('lb', ['b1+']);
    const vip = await clusterIPs(cluster, 'lb');
    await reach(cluster, INSIDE, 'tcp', vip, 80, ['b1']);
    await reach(cluster, INSIDE, 'udp', vip, 80, ['b1-second']);
  }),
  aCase(
    'servicecorner-016 loadbalancers-003',
    'source ranges say who reaches a load balancer address; nodePorts are for all',
    async (cluster) => {
      const only = (target: Target) => [` ${target.ip4}/32 `, `${target.ip6}/128`];
      const { outside } = cluster.net;
      await balanced(cluster, { loadBalancerSourceRanges: only(outside).map((text) => text.trim()) }, ['b2']);
      const port = await nodePortOf(cluster, 'lb');
      await reach(cluster, 'outside', 'tcp', VIPS.a, 80, ['b2']);
      await dropped(cluster, 'packets a1', 'tcp', VIPS.a, 80);
      await reach(cluster, EVERYWHERE, 'tcp', nodeTarget(cluster, 'a'), port, ['b2']);
      await cluster.patch('lb', {
        spec: { loadBalancerSourceRanges: only(cluster.net.pod('a1')).map((t) => t.trim()) },
      });
      await dropped(cluster, 'outside', 'tcp', VIPS.a, 80);
      await dropped(cluster, 'outside', 'udp', VIPS.a, 80);
      await reach(cluster, 'packets a1', 'tcp', VIPS.a, 80, ['b2']);
      await cluster.patch('lb', { spec: { loadBalancerSourceRanges: null } });
      await reach(cluster, EVERYWHERE, 'tcp', VIPS.a, 80, ['b2']);
    },
  ),
  aCase(
    'servicecorner-016-sockets',
    'source ranges count for processes of pods and of the node',
    async (cluster) => {
      const { outside } = cluster.net;
      await balanced(cluster, { loadBalancerSourceRanges: [`${outside.ip4}/32`, `${outside.ip6}/128`] }, [
        'b2',
      ]);
      for (const kind of ['tcp', 'udp', 'udp-connected'] as const)
        await dropped(cluster, ['a1', 'node-a'], kind, VIPS.a, 80);
      const { ip4, ip6 } = cluster.net.pod('a1');
      await cluster.patch('lb', { spec: { loadBalancerSourceRanges: [`${ip4}/32`, `${ip6}/128`] } });
      await reach(cluster, 'a1', 'tcp', VIPS.a, 80, ['b2']);
      await reach(cluster, 'a1', 'udp', VIPS.a, 80, ['b2']);
      await dropped(cluster, ['a2', 'node-a'], 'tcp', VIPS.a, 80);
    },
  ),
  aCase('servicecorner-017', "source ranges with the node's address let the node in", async (cluster) => {
    const { ip4, ip6 } = cluster.net.node('a');
    await balanced(cluster, { loadBalancerSourceRanges: [`${ip4}/32`, `${ip6}/128`] }, ['b2']);
    await reach(cluster, 'node-a', 'tcp', VIPS.a, 80, ['b2']);
  }),
  aCase(
    'servicecorner-009',
    'a ClusterIP that somebody outside routes to a node is served, and the client hidden',
    async (cluster) => {
      await cluster.service('web', {});
      const vip = await clusterIPs(cluster, 'web');
      for (const endpoint of ['b1', 'a1']) {
        await cluster.endpoints('web', [endpoint]);
        for (const kind of ['tcp', 'udp'] as const)
          sawOneOf(await reach(cluster, 'outside', kind, vip, 80, [endpoint]), nodeAddresses(cluster, 'a'));
      }
    },
  ),
  aCase(
    'masquerade-1',
    'external policy Cluster hides clients outside behind the node, also from its own endpoints',
    async (cluster) => {
      await cluster.service('lb', LB);
      await cluster.ingress('lb', vips(VIPS.a));
      const port = await nodePortOf(cluster, 'lb');
      for (const endpoint of ['a1', 'b1']) {
        await cluster.endpoints('lb', [endpoint]);
        for (const kind of ['tcp', 'udp'] as const)
          for (const [to, number] of [
            [VIPS.a, 80],
            [nodeTarget(cluster, 'a'), await nodePortOf(cluster, 'lb', kind)],
          ] as const)
            sawOneOf(
              await reach(cluster, 'outside', kind, to, number, [endpoint]),
              nodeAddresses(cluster, 'a'),
            );
      }
      assert.ok(port > 0);
    },
  ),
  // kube-proxy hides them, because it does not know whose answers come by its node anyway; policies miss them then.
  aCase(
    'masquerade-2',
    'external policy Cluster hides no pod from an endpoint elsewhere',
    async (cluster) => {
      await cluster.service('np', { type: 'NodePort' });
      await cluster.endpoints('np', ['b1']);
      const port = await nodePortOf(cluster, 'np');
      sawClient(
        await reach(cluster, ['a1', 'packets a1'], 'tcp', nodeTarget(cluster, 'a'), port, ['b1']),
        podAddress(cluster),
      );
    },
  ),
  aCase('servicecorner-012', 'with masqueradeAll every client of a ClusterIP is hidden', async (cluster) => {
    await cluster.flags({ masqueradeAll: true });
    await cluster.service('web', {});
    await cluster.endpoints('web', ['b1']);
    const vip = await clusterIPs(cluster, 'web');
    sawOneOf(await reach(cluster, ['a1', 'packets a1'], 'tcp', vip, 80, ['b1']), nodeAddresses(cluster, 'a'));
  }),
  aCase(
    'services-007 networking-013 networking-014 servicecorner-013 dualstack-014 dualstack-015',
    'a pod reaches itself through its own Service',
    async (cluster) => {
      await cluster.service('self', { type: 'NodePort' });
      await cluster.endpoints('self', ['a1']);
      const vip = await clusterIPs(cluster, 'self');
      for (const kind of ['tcp', 'udp', 'udp-connected'] as const) {
        await reach(cluster, ['a1', 'packets a1'], kind, vip, 80, ['a1']);
        await reach(
          cluster,
          ['a1', 'packets a1'],
          kind,
          nodeTarget(cluster, 'a'),
          await nodePortOf(cluster, 'self', kind === 'tcp' ? 'tcp' : 'udp'),
          ['a1'],
        );
      }
      sawOneOf(await reach(cluster, 'packets a1', 'tcp', vip, 80, ['a1']), (saw) => [
        ...nodeAddresses(cluster, 'a')(saw),
        // The address that stands for "this pod itself" at its link.
        ...(saw.family === 'ip4' ? ['169.254.112.111'] : ['1::706f', '100::706f', '1:0:0:0:0:0:6f70:0']),
      ]);
    },
  ),
  aCase(
    'servicecorner-037',
    'endpoints outside the cluster, written by hand, are reached',
    async (cluster) => {
      await cluster.service('legacy', {});
      await cluster.endpoints('legacy', ['outside']);
      const vip = await clusterIPs(cluster, 'legacy');
      for (const kind of ['tcp', 'udp'] as const)
        sawOneOf(
          await reach(cluster, ['a1', 'packets a1', 'node-a'], kind, vip, 80, ['outside']),
          nodeAddresses(cluster, 'a'),
        );
    },
  ),
  aCase('services-047', 'a status with any ingress address is taken, and served', async (cluster) => {
    await cluster.service('lb', LB);
    await cluster.endpoints('lb', ['b1']);
    await cluster.ingress('lb', [{ ip: '203.0.113.1' }]);
    await cluster.settled();
    const seen = await attempts(cluster, ['a1', 'packets a1'], 'tcp', { ip4: '203.0.113.1', ip6: '::1' }, 80);
    for (const saw of seen.filter(({ family }) => family === 'ip4')) assert.equal(saw.seen[0]!.result, 'ok');
    await cluster.client.patchStatus(
      resources.services,
      { namespace: 'default', name: 'lb' },
      { status: { loadBalancer: { ingress: null } } },
    );
  }),
  aCase('services-050', 'a ClusterIP with leading zeros is decimal, or refused', async (cluster) => {
    await forbidden(
      cluster.service('zeros', { clusterIP: '10.096.000.077', clusterIPs: ['10.096.000.077'], ports: [tcp] }),
      /valid IP/,
    );
  }),
];
