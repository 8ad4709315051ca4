/** ClusterIPs: who is reached, who is refused, what changes while connections are open. */
import { aCase, type Case, clusterIPs, dropped, INSIDE, reach, refused, sawClient } from './case.ts';

export const clusterIpCases: readonly Case[] = [
  aCase(
    'services-002 networking-007 networking-008 networking-010 networking-011 dualstack-009 dualstack-010 dualstack-012 dualstack-013',
    'a Service reaches exactly the pods that are there, from pods and nodes',
    async (cluster) => {
      await cluster.service('web', { selector: { app: 'web' } });
      const vip = await clusterIPs(cluster, 'web');
      await cluster.settled();
      await refused(cluster, INSIDE, 'tcp', vip, 80);
      for (const [pods, present] of [
        [['a1'], ['a1']],
        [['b2'], ['a1', 'b2']],
      ] as const) {
        for (const pod of pods) await cluster.pod(pod, { app: 'web' });
        await cluster.published(
          'web',
          present.map((pod) => `${pod}+`),
        );
        for (const kind of ['tcp', 'udp', 'udp-connected'] as const)
          await reach(cluster, INSIDE, kind, vip, 80, present);
      }
      await cluster.deletePod('a1');
      await cluster.published('web', ['b2+']);
      await reach(cluster, INSIDE, 'tcp', vip, 80, ['b2']);
      await cluster.deletePod('b2');
      await cluster.published('web', []);
      await refused(cluster, INSIDE, 'tcp', vip, 80);
    },
  ),
  aCase(
    'services-003',
    'each port of a Service reaches the pods that have its target port',
    async (cluster) => {
      await cluster.service('multi', {
        ports: [
          { name: 'one', port: 80, protocol: 'TCP' },
          { name: 'two', port: 81, protocol: 'TCP' },
        ],
      });
      await cluster.endpoints('multi', ['a1'], [{ name: 'one', port: 8080, protocol: 'TCP' }]);
      for (const family of ['IPv4', 'IPv6'] as const)
        await cluster.slice(`multi-second-${family.toLowerCase()}`, {
          metadata: { name: '', labels: { 'kubernetes.io/service-name': 'multi' } },
          addressType: family,
          ports: [{ name: 'two', port: 8081, protocol: 'TCP' }],
          endpoints: [
            { addresses: [cluster.address('b1', family === 'IPv4' ? 'ip4' : 'ip6')], nodeName: 'node-b' },
          ],
        });
      await cluster.settled();
      const vip = await clusterIPs(cluster, 'multi');
      await reach(cluster, INSIDE, 'tcp', vip, 80, ['a1']);
      await reach(cluster, INSIDE, 'tcp', vip, 81, ['b1-second']);
    },
  ),
  aCase(
    'services-006 servicecorner-010',
    'a pod keeps its address on the way to a pod of another node',
    async (cluster) => {
      await cluster.service('echo', {});
      await cluster.endpoints('echo', ['b1']);
      const vip = await clusterIPs(cluster, 'echo');
      for (const kind of ['tcp', 'udp'] as const)
        sawClient(await reach(cluster, ['a1', 'packets a1'], kind, vip, 80, ['b1']), ({ family }) =>
          cluster.address('a1', family),
        );
    },
  ),
  aCase(
    'hairpin-2',
    'a pod that uses a port again for another of its own Services gets an answer',
    async (cluster) => {
      const targets = [];
      for (const name of ['one', 'two', 'three']) {
        await cluster.service(name, {});
        await cluster.endpoints(name, ['a1']);
        targets.push(await clusterIPs(cluster, name));
      }
      for (const kind of ['tcp', 'udp'] as const)
        for (const to of targets)
          await reach(cluster, 'packets a1', kind, to, 80, ['a1'], {
            // Apart from ports that its sockets get without asking: one of those may wait for its last packets.
            ...{ bind: 15_678, times: 1 },
            // A server that has not seen the last acknowledgement asks back first (RFC 9293 section 3.10.7.4): the
            // client tries again after 1 s. One that is still closing sees another port.
            timeout: 6,
          });
    },
  ),
  ...(['tcp', 'udp-connected'] as const).map((kind) =>
    aCase(
      kind === 'tcp' ? 'services-032 servicecorner-002' : 'servicecorner-002-datagrams',
      `without endpoints 40 of 40 ${kind} connections are refused, and none waits`,
      async (cluster) => {
        await cluster.service('nobody', {});
        await cluster.settled();
        const vip = await clusterIPs(cluster, 'nobody');
        await refused(cluster, ['a1', 'packets a1', 'node-a'], kind, vip, 80, {
          times: 40,
          pause: 0.005,
          timeout: 0.5,
        });
      },
    ),
  ),
  aCase(
    'services-034 services-035',
    'internal policy Local stays on the node, and drops where nobody is',
    async (cluster) => {
      await cluster.service('near', { internalTrafficPolicy: 'Local' });
      await cluster.endpoints('near', ['a1', 'a2']);
      const vip = await clusterIPs(cluster, 'near');
      await reach(cluster, ['a3', 'packets a1', 'node-a'], 'tcp', vip, 80, ['a1', 'a2']);
      await dropped(cluster, ['b1', 'packets b1', 'node-b'], 'tcp', vip, 80);
    },
  ),
];
