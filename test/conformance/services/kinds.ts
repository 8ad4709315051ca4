/** Ports and types of Services that change, nodePorts, and what the API refuses. */
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
  nodePortOf,
  nodeTarget,
  reach,
  refused,
  unserved,
} from './case.ts';
import { EXTRA } from './net.ts';

const tcp = { name: 'tcp', port: 80, targetPort: 8080, protocol: 'TCP' as const };
const udp = { name: 'udp', port: 80, targetPort: 8080, protocol: 'UDP' as const };
const EVERYWHERE = [...INSIDE, 'outside'] as const;

export const kindCases: readonly Case[] = [
  aCase(
    'services-004',
    'TCP and UDP on one number; a protocol that is taken away stops, the other goes on',
    async (cluster) => {
      await cluster.service('both', {});
      await cluster.endpoints('both', ['a1', 'b1']);
      const vip = await clusterIPs(cluster, 'both');
      await reach(cluster, INSIDE, 'tcp', vip, 80, ['a1', 'b1']);
      await reach(cluster, INSIDE, 'udp', vip, 80, ['a1', 'b1']);
      await cluster.service('both', { ports: [udp] });
      await cluster.settled();
      await refused(cluster, INSIDE, 'tcp', vip, 80);
      await reach(cluster, INSIDE, 'udp', vip, 80, ['a1', 'b1']);
      await cluster.service('both', { ports: [tcp] });
      await cluster.settled();
      await unserved(cluster, INSIDE, 'udp', vip, 80);
      await reach(cluster, INSIDE, 'tcp', vip, 80, ['a1', 'b1']);
    },
  ),
  aCase(
    'services-005 servicecorner-018',
    'a port that is added is reached, one that is taken away is refused',
    async (cluster) => {
      await cluster.service('ports', { ports: [tcp] });
      await cluster.endpoints(
        'ports',
        ['a1'],
        [
          { name: 'tcp', port: 8080, protocol: 'TCP' },
          { name: 'more', port: 8081, protocol: 'TCP' },
        ],
      );
      const vip = await clusterIPs(cluster, 'ports');
      await refused(cluster, EVERYWHERE, 'tcp', vip, 81);
      await unserved(cluster, EVERYWHERE, 'udp', vip, 80);
      await cluster.service('ports', { ports: [tcp, { ...tcp, name: 'more', port: 81, targetPort: 8081 }] });
      await cluster.settled();
      await reach(cluster, EVERYWHERE, 'tcp', vip, 81, ['a1-second']);
      await cluster.service('ports', { ports: [tcp] });
      await cluster.settled();
      await refused(cluster, EVERYWHERE, 'tcp', vip, 81);
      await reach(cluster, EVERYWHERE, 'tcp', vip, 80, ['a1']);
    },
  ),
  aCase(
    'services-008 services-009',
    'Services that go and come, one with the same name, leave the others alone',
    async (cluster) => {
      const places = ['a1', 'b1', 'c1'];
      for (const place of places) {
        await cluster.service(`svc-${place}`, {});
        await cluster.endpoints(`svc-${place}`, [place]);
      }
      const vips = new Map<string, { ip4: string; ip6: string }>();
      for (const place of places) vips.set(place, await clusterIPs(cluster, `svc-${place}`));
      await cluster.deleteService('svc-b1');
      await cluster.settled();
      await dropped(cluster, ['a1', 'packets a1', 'node-a'], 'tcp', vips.get('b1')!, 80);
      for (const place of ['a1', 'c1']) await reach(cluster, INSIDE, 'tcp', vips.get(place)!, 80, [place]);
      await cluster.service('svc-b1', {});
      await cluster.endpoints('svc-b1', ['b1']);
      await reach(cluster, INSIDE, 'tcp', await clusterIPs(cluster, 'svc-b1'), 80, ['b1']);
    },
  ),
  aCase(
    'services-048',
    'deleting a collection of Services takes all their frontends away',
    async (cluster) => {
      const vips = [];
      for (const name of ['x1', 'x2']) {
        await cluster.service(name, {}, { labels: { group: 'x' } });
        await cluster.endpoints(name, ['a1']);
        vips.push(await clusterIPs(cluster, name));
      }
      await cluster.client.raw('DELETE', '/api/v1/namespaces/default/services?labelSelector=group%3Dx');
      await cluster.settled();
      for (const vip of vips) await dropped(cluster, ['a2', 'packets b1'], 'tcp', vip, 80);
    },
  ),
  aCase(
    'services-012 networking-026 servicecorner-041 dualstack-014',
    'a nodePort is reached at every node from pods, nodes and outside',
    async (cluster) => {
      await cluster.service('np', { type: 'NodePort' });
      await cluster.endpoints('np', ['a1', 'b1']);
      const vip = await clusterIPs(cluster, 'np');
      await reach(cluster, INSIDE, 'tcp', vip, 80, ['a1', 'b1']);
      for (const [kind, name] of [
        ['tcp', 'tcp'],
        ['udp', 'udp'],
        ['udp-connected', 'udp'],
      ] as const) {
        const port = await nodePortOf(cluster, 'np', name);
        for (const letter of ['a', 'b', 'c'])
          await reach(cluster, EVERYWHERE, kind, nodeTarget(cluster, letter), port, ['a1', 'b1']);
      }
    },
  ),
  aCase(
    'services-015 services-016 services-017 services-018',
    'a type that changes takes its frontends along',
    async (cluster) => {
      await cluster.service('typed', { type: 'ExternalName', externalName: 'example.com', ports: [tcp] });
      await cluster.service('typed', { type: 'ClusterIP', ports: [tcp] });
      await cluster.endpoints('typed', ['b1']);
      const first = await clusterIPs(cluster, 'typed');
      await reach(cluster, INSIDE, 'tcp', first, 80, ['b1']);
      await cluster.service('typed', { type: 'ExternalName', externalName: 'example.com', ports: [tcp] });
      await cluster.settled();
      await dropped(cluster, ['a1', 'packets a1', 'node-b'], 'tcp', first, 80);
      await cluster.service('typed', { type: 'NodePort', ports: [tcp] });
      await cluster.settled();
      const port = await nodePortOf(cluster, 'typed');
      const second = await clusterIPs(cluster, 'typed');
      await reach(cluster, INSIDE, 'tcp', second, 80, ['b1']);
      await reach(cluster, EVERYWHERE, 'tcp', nodeTarget(cluster, 'a'), port, ['b1']);
      await cluster.service('typed', { type: 'ExternalName', externalName: 'example.com', ports: [tcp] });
      await cluster.settled();
      await refused(cluster, EVERYWHERE, 'tcp', nodeTarget(cluster, 'a'), port);
      await dropped(cluster, ['a1', 'packets a1', 'node-b'], 'tcp', second, 80);
    },
  ),
  aCase(
    'services-019 dualstack-019 dualstack-020',
    'one nodePort number serves TCP and UDP',
    async (cluster) => {
      await cluster.service('shared', {});
      await cluster.service('shared', {
        type: 'NodePort',
        ports: [
          { ...tcp, nodePort: 31_400 },
          { ...udp, nodePort: 31_400 },
        ],
      });
      await cluster.endpoints('shared', ['b1']);
      for (const kind of ['tcp', 'udp'] as const)
        await reach(cluster, EVERYWHERE, kind, nodeTarget(cluster, 'a'), 31_400, ['b1']);
    },
  ),
  aCase(
    'services-020 services-021 services-022',
    'the API refuses a nodePort twice or out of range, and gives back what is free',
    async (cluster) => {
      const at = (nodePort: number) => ({ type: 'NodePort' as const, ports: [{ ...tcp, nodePort }] });
      await cluster.service('first', at(31_500));
      await forbidden(cluster.service('second', at(31_500)), /already allocated/);
      await forbidden(cluster.service('second', at(8_080)), /not in the valid range/);
      await cluster.deleteService('first');
      await cluster.service('second', at(31_500));
      await cluster.endpoints('second', ['a1']);
      await reach(cluster, EVERYWHERE, 'tcp', nodeTarget(cluster, 'b'), 31_500, ['a1']);
    },
  ),
  aCase(
    'networking-018 networking-022',
    'a nodePort that is taken away is no longer reached',
    async (cluster) => {
      await cluster.service('np', { type: 'NodePort' });
      await cluster.endpoints('np', ['a1']);
      const ports = [await nodePortOf(cluster, 'np', 'tcp'), await nodePortOf(cluster, 'np', 'udp')] as const;
      await reach(cluster, EVERYWHERE, 'tcp', nodeTarget(cluster, 'b'), ports[0], ['a1']);
      await cluster.service('np', { type: 'ClusterIP' });
      await cluster.settled();
      await refused(cluster, EVERYWHERE, 'tcp', nodeTarget(cluster, 'b'), ports[0]);
      await unserved(cluster, EVERYWHERE, 'udp', nodeTarget(cluster, 'b'), ports[1]);
    },
  ),
  aCase(
    'servicecorner-040 kubeproxy-004',
    'a nodePort is reached at loopback by the node, in IPv4 over TCP and UDP',
    async (cluster) => {
      await cluster.service('np', { type: 'NodePort' });
      await cluster.endpoints('np', ['a1', 'b1']);
      const from = cluster.at('node-a');
      for (const [kind, name] of [
        ['tcp', 'tcp'],
        ['udp', 'udp'],
        ['udp-connected', 'udp'],
      ] as const) {
        const seen = await from.attempt(kind, '127.0.0.1', await nodePortOf(cluster, 'np', name), {
          times: 32,
        });
        assert.deepEqual(
          [...new Set(seen.map(({ server }) => server))].sort(),
          ['a1', 'b1'],
          JSON.stringify(seen[0]),
        );
      }
    },
  ),
  aCase('loopback-6', 'a nodePort is reached at loopback by the node, in IPv6', async (cluster) => {
    await cluster.service('np', { type: 'NodePort' });
    await cluster.endpoints('np', ['a1', 'b1']);
    for (const [kind, name] of [
      ['tcp', 'tcp'],
      ['udp', 'udp'],
      ['udp-connected', 'udp'],
    ] as const) {
      const seen = await cluster
        .at('node-a')
        .attempt(kind, '::1', await nodePortOf(cluster, 'np', name), { times: 32 });
      assert.deepEqual(
        [...new Set(seen.map(({ server }) => server))].sort(),
        ['a1', 'b1'],
        JSON.stringify(seen[0]),
      );
    }
  }),
  aCase(
    'loopback-pod',
    "a pod's loopback is its own: a nodePort of the node takes nothing of what its processes say there",
    async (cluster) => {
      await cluster.service('np', { type: 'NodePort' });
      await cluster.endpoints('np', ['b1']);
      for (const [kind, name] of [
        ['tcp', 'tcp'],
        ['udp-connected', 'udp'],
      ] as const) {
        const port = await nodePortOf(cluster, 'np', name);
        assert.equal((await cluster.at('node-a').attempt(kind, '127.0.0.1', port))[0]?.result, 'ok');
        for (const loopback of ['127.0.0.1', '::1']) {
          const [seen] = await cluster.at('a1').attempt(kind, loopback, port);
          assert.notEqual(seen?.result, 'ok', JSON.stringify(seen));
        }
      }
    },
  ),
  aCase(
    'loopback-route',
    'nodePorts at loopback need no route_localnet, which lets others reach what listens there',
    async (cluster) => {
      await cluster.service('np', { type: 'NodePort' });
      await cluster.endpoints('np', ['a1']);
      const [seen] = await cluster.at('node-a').attempt('tcp', '127.0.0.1', await nodePortOf(cluster, 'np'));
      assert.equal(seen!.result, 'ok');
      for (const link of ['all', 'lo', 'eth0', cluster.net.pod('a1').link]) {
        const key = `net.ipv4.conf.${link}.route_localnet`;
        assert.equal(
          cluster.net.exec(cluster.net.node('a').netnsName, ['sysctl', '-n', key]).trim(),
          '0',
          link,
        );
      }
    },
  ),
  aCase('servicecorner-042', 'nodePorts are at chosen addresses only', async (cluster) => {
    const { parseCidr } = await import('../../../src/addr/index.ts');
    await cluster.service('np', { type: 'NodePort' });
    await cluster.endpoints('np', ['b1']);
    const port = await nodePortOf(cluster, 'np');
    await reach(cluster, ['outside', 'b1'], 'tcp', nodeTarget(cluster, 'a'), port, ['b1']);
    await refused(cluster, ['outside', 'node-a', 'a2'], 'tcp', EXTRA, port);
    await cluster.flags({ nodePortAddresses: [parseCidr('192.168.77.0/24'), parseCidr('fd00:77::/64')] });
    await refused(cluster, ['outside', 'b1', 'packets b1', 'node-a'], 'tcp', nodeTarget(cluster, 'a'), port);
    await reach(cluster, ['outside', 'node-a', 'a2', 'packets a1'], 'tcp', EXTRA, port, ['b1']);
    await cluster.flags();
    await refused(cluster, ['outside', 'node-a'], 'tcp', EXTRA, port);
  }),
  aCase(
    'services-030 services-031 servicecorner-036',
    'labels hand a Service to somebody else and take it back, live',
    async (cluster) => {
      await cluster.service('web', {});
      await cluster.endpoints('web', ['a1']);
      const vip = await clusterIPs(cluster, 'web');
      for (const label of ['service.kubernetes.io/service-proxy-name', 'service.kubernetes.io/headless']) {
        await reach(cluster, INSIDE, 'tcp', vip, 80, ['a1']);
        await cluster.patch('web', { metadata: { labels: { [label]: 'somebody' } } });
        for (const { seen } of await attempts(cluster, ['b2', 'packets b1', 'node-a'], 'tcp', vip, 80, {
          timeout: 0.3,
        }))
          assert.notEqual(seen[0]!.result, 'ok');
        await cluster.patch('web', { metadata: { labels: { [label]: null } } });
      }
      await reach(cluster, INSIDE, 'tcp', vip, 80, ['a1']);
    },
  ),
  aCase(
    'services-030 services-031',
    'another proxy on a node serves what a label hands to it, and nothing of ours is in its way',
    async (cluster) => {
      await cluster.service('web', { ports: [tcp, udp] });
      await cluster.endpoints('web', ['b1']);
      const vip = await clusterIPs(cluster, 'web');
      const { netnsName } = cluster.net.node('a');
      // As a proxy in user space does it: the address is the node's own, and a process answers there.
      const addresses = (verb: 'add' | 'del') => {
        for (const ip of [`${vip.ip4}/32`, `${vip.ip6}/128`])
          cluster.net.exec(netnsName, ['ip', 'addr', verb, ip, 'dev', 'lo']);
      };
      addresses('add');
      const there = ['a1', 'packets a1', 'node-a', 'outside'];
      const other = cluster.at('node-a');
      try {
        for (const ip of [vip.ip4, vip.ip6]) await other.serve(ip, 80);
        for (const label of ['service.kubernetes.io/service-proxy-name', 'service.kubernetes.io/headless']) {
          for (const kind of ['tcp', 'udp'] as const) await reach(cluster, there, kind, vip, 80, ['b1']);
          await cluster.patch('web', { metadata: { labels: { [label]: 'somebody' } } });
          for (const kind of ['tcp', 'udp', 'udp-connected'] as const)
            await reach(cluster, there, kind, vip, 80, ['node-a']);
          await refused(cluster, there, 'tcp', vip, 81);
          await cluster.patch('web', { metadata: { labels: { [label]: null } } });
        }
        await cluster.patch('web', { metadata: { labels: { 'service.kubernetes.io/headless': '' } } });
        await reach(cluster, there, 'tcp', vip, 80, ['node-a']);
      } finally {
        for (const ip of [vip.ip4, vip.ip6]) await other.unserve(ip, 80);
        addresses('del');
      }
      // When the Service goes, its address is nobody's again.
      await cluster.deleteService('web');
      await cluster.settled();
      await dropped(cluster, there, 'tcp', vip, 80);
    },
  ),
  aCase(
    'services-042 servicecorner-053',
    'an externalIP that no node has leads to an endpoint; the older of two Services has it',
    async (cluster) => {
      const externalIPs = ['198.51.100.7', 'fd00:198::7'];
      const to = { ip4: externalIPs[0]!, ip6: externalIPs[1]! };
      await cluster.service('ext', { externalIPs });
      await cluster.endpoints('ext', ['b1']);
      await reach(cluster, INSIDE, 'tcp', to, 80, ['b1']);
      await new Promise((resolve) => setTimeout(resolve, 1000));
      await cluster.service('a-younger-one', { externalIPs });
      await cluster.endpoints('a-younger-one', ['a1']);
      await reach(cluster, INSIDE, 'tcp', to, 80, ['b1']);
      await cluster.deleteService('ext');
      await cluster.settled();
      await reach(cluster, INSIDE, 'tcp', to, 80, ['a1']);
    },
  ),
  aCase('externalips-off', 'without the switch nobody claims an address by externalIPs', async (cluster) => {
    await cluster.flags({ externalIPs: false });
    const { outside } = cluster.net;
    await cluster.service('thief', {
      externalIPs: [outside.ip4, outside.ip6],
      ports: [{ ...tcp, port: 8080 }],
    });
    await cluster.endpoints('thief', ['b1']);
    await reach(cluster, ['a1', 'packets a1', 'node-a'], 'tcp', outside, 8080, ['outside']);
    await cluster.flags();
    await reach(cluster, ['a1', 'packets a1', 'node-a'], 'tcp', outside, 8080, ['b1']);
  }),
  aCase('services-001 services-045', 'default/kubernetes is there with a port https', async (cluster) => {
    const all = await cluster.client.listAll(resources.services);
    const found = all.find(
      ({ metadata }) => metadata.namespace === 'default' && metadata.name === 'kubernetes',
    );
    assert.ok(found?.spec.ports?.some(({ name, port }) => name === 'https' && port === 443));
  }),
  aCase(
    'servicecidrs-001',
    'a Service of a second ServiceCIDR is served, and what is free there is dropped',
    async (cluster) => {
      await cluster.client.create(resources.serviceCidrs, {
        apiVersion: 'networking.k8s.io/v1',
        kind: 'ServiceCIDR',
        metadata: { name: 'second' },
        spec: { cidrs: ['10.97.0.0/24', 'fd00:10:97::/112'] },
      });
      try {
        const vip = { ip4: '10.97.0.77', ip6: 'fd00:10:97::77' };
        const service = () => cluster.service('far', { clusterIP: vip.ip4, clusterIPs: [vip.ip4, vip.ip6] });
        for (let tries = 0; ; tries++)
          try {
            await service();
            break;
          } catch (error) {
            if (tries === 40) throw error;
            await new Promise((resolve) => setTimeout(resolve, 50));
          }
        await cluster.endpoints('far', ['b1']);
        await reach(cluster, INSIDE, 'tcp', vip, 80, ['b1']);
        await refused(cluster, INSIDE, 'tcp', vip, 81);
        await dropped(cluster, ['a1', 'packets a1'], 'tcp', { ip4: '10.97.0.78', ip6: 'fd00:10:97::78' }, 80);
        await cluster.deleteService('far');
      } finally {
        await cluster.client.delete(resources.serviceCidrs, { name: 'second' });
      }
    },
  ),
];
