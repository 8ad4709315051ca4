/** hostPorts: ports of a node that lead to one of its pods. */
import assert from 'node:assert/strict';
import { aCase, attempts, type Case, reach, refused, sawClient } from './case.ts';
import type { ServiceCluster } from './cluster.ts';
import { EXTRA, FAMILY_NAMES } from './net.ts';

const node = (cluster: ServiceCluster, letter: string) => cluster.net.node(letter);
const loopback = { ip4: '127.0.0.1', ip6: '::1' };

export const hostPortCases: readonly Case[] = [
  aCase(
    'hostport-001',
    'pods with one hostPort and different hostIP or protocol do not meet, and each is reached',
    async (cluster) => {
      const { ip4 } = node(cluster, 'a');
      await cluster.pod(
        'a1',
        {},
        { ports: [{ containerPort: 8080, hostPort: 54_323, hostIP: '127.0.0.1' }] },
      );
      await cluster.pod('a2', {}, { ports: [{ containerPort: 8080, hostPort: 54_323, hostIP: ip4 }] });
      await cluster.pod(
        'a3',
        {},
        { ports: [{ containerPort: 8080, hostPort: 54_323, hostIP: ip4, protocol: 'UDP' }] },
      );
      await cluster.settled();
      const from = cluster.at('node-a');
      for (const [kind, address, server] of [
        ['tcp', '127.0.0.1', 'a1'],
        ['tcp', ip4, 'a2'],
        ['udp', ip4, 'a3'],
      ] as const) {
        const [seen] = await from.attempt(kind, address, 54_323);
        assert.deepEqual([seen!.result, seen!.server], ['ok', server], address);
      }
    },
  ),
  aCase(
    'hostport-002',
    'a hostPort is reached from outside, other nodes, pods and the node, and its pod sees the client',
    async (cluster) => {
      const ports = (['TCP', 'UDP'] as const).map((protocol) => ({
        containerPort: 8080,
        hostPort: 8000,
        protocol,
      }));
      await cluster.pod('a1', {}, { ports });
      await cluster.settled();
      for (const kind of ['tcp', 'udp'] as const) {
        await reach(cluster, ['b1', 'packets b1', 'a2', 'node-a', 'node-b'], kind, node(cluster, 'a'), 8000, [
          'a1',
        ]);
        sawClient(
          await reach(cluster, 'outside', kind, node(cluster, 'a'), 8000, ['a1']),
          ({ family }) => cluster.net.outside[family],
        );
        await reach(cluster, ['outside', 'node-a', 'a2'], kind, EXTRA, 8000, ['a1']);
      }
      // Nothing of it on another node, and nothing is left when the pod goes.
      for (const { seen } of await attempts(cluster, 'outside', 'tcp', node(cluster, 'b'), 8000))
        assert.equal(seen[0]!.result, 'ECONNREFUSED');
      await cluster.deletePod('a1');
      await cluster.settled();
      await refused(cluster, ['outside', 'node-a'], 'tcp', node(cluster, 'a'), 8000);
    },
  ),
  aCase('hostport-003', 'a pod reaches itself by its own hostPort', async (cluster) => {
    await cluster.pod('a1', {}, { ports: [{ containerPort: 8080, hostPort: 8000 }] });
    await cluster.settled();
    await reach(cluster, ['a1', 'packets a1'], 'tcp', node(cluster, 'a'), 8000, ['a1']);
  }),
  aCase('hostport-004', "a hostPort on loopback serves the node's own processes only", async (cluster) => {
    await cluster.pod(
      'a1',
      {},
      {
        ports: [
          { containerPort: 8080, hostPort: 8001, hostIP: '127.0.0.1' },
          { containerPort: 8080, hostPort: 8001, hostIP: '::1' },
        ],
      },
    );
    await cluster.settled();
    await reach(cluster, 'node-a', 'tcp', loopback, 8001, ['a1']);
    await refused(cluster, ['outside', 'a2'], 'tcp', node(cluster, 'a'), 8001);
  }),
  aCase(
    'hostport-005',
    'a hostPort in the range of nodePorts is served until a Service gets that nodePort, and again after it',
    async (cluster) => {
      await cluster.pod('a1', {}, { ports: [{ containerPort: 8080, hostPort: 31_999 }] });
      await cluster.settled();
      await reach(cluster, ['outside', 'b1', 'node-a'], 'tcp', node(cluster, 'a'), 31_999, ['a1']);
      const ports = [{ name: 'tcp', port: 80, targetPort: 8080, nodePort: 31_999, protocol: 'TCP' as const }];
      await cluster.service('taker', { type: 'NodePort', ports });
      await cluster.endpoints('taker', ['b2']);
      await reach(cluster, ['outside', 'b1', 'node-a'], 'tcp', node(cluster, 'a'), 31_999, ['b2']);
      await cluster.service('taker', {
        type: 'ClusterIP',
        ports: ports.map(({ nodePort: _, ...port }) => port),
      });
      await cluster.settled();
      await reach(cluster, ['outside', 'b1', 'node-a'], 'tcp', node(cluster, 'a'), 31_999, ['a1']);
    },
  ),
  aCase(
    'hostport-006',
    'a hostPort at an address that the node has not takes nothing from its owner',
    async (cluster) => {
      const { outside } = cluster.net;
      await cluster.pod(
        'a1',
        {},
        {
          ports: FAMILY_NAMES.map((family) => ({
            containerPort: 8080,
            hostPort: 8080,
            hostIP: outside[family],
          })),
        },
      );
      await cluster.settled();
      for (const { seen } of await attempts(cluster, ['a2', 'node-a'], 'tcp', outside, 8080))
        assert.equal(seen[0]!.server, 'outside');
    },
  ),
];
