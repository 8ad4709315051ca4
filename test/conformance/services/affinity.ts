/** sessionAffinity ClientIP. */
import assert from 'node:assert/strict';
import {
  aCase,
  attempts,
  type Case,
  clusterIPs,
  nodePortOf,
  nodeTarget,
  reach,
  type Saw,
  type Target,
} from './case.ts';
import type { ServiceCluster } from './cluster.ts';
import { VIPS } from './net.ts';

const PODS = ['a1', 'b1', 'c1'] as const;
const CLIENTS = ['a2', 'packets a1', 'node-b', 'outside'] as const;
const sticky = (timeoutSeconds?: number) => ({
  sessionAffinity: 'ClientIP' as const,
  ...(timeoutSeconds && { sessionAffinityConfig: { clientIP: { timeoutSeconds } } }),
});

/** Each client comes to one server, in each family; returns them. */
async function one(
  cluster: ServiceCluster,
  from: string | readonly string[],
  kind: 'tcp' | 'udp',
  to: Target,
  port: number,
  times = 15,
): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  const saws: Saw[] = await attempts(cluster, from, kind, to, port, { times });
  for (const saw of saws) {
    const servers = new Set(saw.seen.map(({ server, result }) => server ?? result));
    assert.equal(servers.size, 1, `from ${saw.from} in ${saw.family}: ${[...servers]}`);
    assert.equal(saw.seen[0]!.result, 'ok', `from ${saw.from} in ${saw.family}`);
    found.set(`${saw.from} ${saw.family}`, [...servers][0]!);
  }
  return found;
}

async function everywhere(
  cluster: ServiceCluster,
  name: string,
): Promise<readonly (readonly [string, Target, number])[]> {
  return [
    ['ClusterIP', await clusterIPs(cluster, name), 80],
    ['nodePort', nodeTarget(cluster, 'a'), await nodePortOf(cluster, name)],
    ['load balancer address', VIPS.a, 80],
  ];
}

export const affinityCases: readonly Case[] = [
  aCase(
    'services-024 services-025 services-027 services-028 networking-019 networking-023 loadbalancers-005 loadbalancers-006 dualstack-021 dualstack-022',
    'with affinity a client stays at one endpoint, at each frontend; it is switched off and on while it lives',
    async (cluster) => {
      const put = async (affinity: object) => {
        await cluster.service('sticky', { type: 'LoadBalancer', ...affinity });
        await cluster.ingress(
          'sticky',
          [VIPS.a.ip4, VIPS.a.ip6].map((ip) => ({ ip })),
        );
        await cluster.endpoints('sticky', PODS);
      };
      await put(sticky());
      for (const [, to, port] of await everywhere(cluster, 'sticky'))
        for (const kind of ['tcp', 'udp'] as const) {
          if (kind === 'udp' && port !== 80) continue;
          await one(cluster, CLIENTS, kind, to, port);
        }
      await put({ sessionAffinity: 'None', sessionAffinityConfig: null });
      for (const [, to, port] of await everywhere(cluster, 'sticky'))
        await reach(cluster, CLIENTS, 'tcp', to, port, PODS);
      await put(sticky());
      for (const [, to, port] of await everywhere(cluster, 'sticky'))
        await one(cluster, CLIENTS, 'tcp', to, port);
    },
  ),
  aCase(
    'affinity-local',
    'with affinity and external policy Local a client stays at one endpoint of the node',
    async (cluster) => {
      await cluster.service('sticky', { type: 'LoadBalancer', externalTrafficPolicy: 'Local', ...sticky() });
      await cluster.ingress(
        'sticky',
        [VIPS.a.ip4, VIPS.a.ip6].map((ip) => ({ ip })),
      );
      await cluster.endpoints('sticky', ['a1', 'a2', 'a3', 'b1']);
      const found = await one(cluster, 'outside', 'tcp', VIPS.a, 80, 30);
      for (const server of found.values()) assert.match(server, /^a/);
    },
  ),
  aCase(
    'servicecorner-026',
    "affinity is one for all addresses of a Service's port, and one for each port",
    async (cluster) => {
      await cluster.service('sticky', { type: 'NodePort', ...sticky() });
      await cluster.endpoints('sticky', PODS);
      const vip = await clusterIPs(cluster, 'sticky');
      const port = await nodePortOf(cluster, 'sticky');
      for (const from of ['a2', 'packets b1', 'node-b']) {
        const first = await one(cluster, from, 'tcp', vip, 80);
        // At a node that this client is not on, somebody else's table decides.
        const letter = from.includes('b') ? 'b' : 'a';
        assert.deepEqual(await one(cluster, from, 'tcp', nodeTarget(cluster, letter), port), first);
      }
    },
  ),
  aCase(
    'services-026 services-029',
    'affinity ends when no new connection came for its time, and is refreshed by each',
    async (cluster) => {
      await cluster.service('sticky', { type: 'NodePort', ...sticky(2) });
      await cluster.endpoints('sticky', PODS);
      const vip = await clusterIPs(cluster, 'sticky');
      const clients = ['a2', 'packets b1', 'node-b'];
      const first = await one(cluster, clients, 'tcp', vip, 80, 3);
      // Longer than the time as a whole, but never between two connections.
      for (let round = 0; round < 3; round++) {
        await new Promise((resolve) => setTimeout(resolve, 1000));
        assert.deepEqual(await one(cluster, clients, 'tcp', vip, 80, 1), first, `round ${round}`);
      }
      // One of three endpoints is the same again by chance for all of six clients once in 729 rounds.
      for (let round = 0; round < 4; round++) {
        await new Promise((resolve) => setTimeout(resolve, 2600));
        const now = await one(cluster, clients, 'tcp', vip, 80, 1);
        if ([...now].some(([client, server]) => first.get(client) !== server)) return;
      }
      assert.fail('clients stay for ever');
    },
  ),
  aCase(
    'affinity-gone',
    'a client whose endpoint goes gets another one, and stays there',
    async (cluster) => {
      await cluster.service('sticky', sticky());
      await cluster.endpoints('sticky', PODS);
      const vip = await clusterIPs(cluster, 'sticky');
      for (const from of ['a2', 'packets b1', 'node-b']) {
        const before = await one(cluster, from, 'tcp', vip, 80);
        const gone = before.get(`${from} ip4`)!;
        await cluster.endpoints(
          'sticky',
          PODS.filter((pod) => pod !== gone),
        );
        const after = await one(cluster, from, 'tcp', vip, 80);
        assert.notEqual(after.get(`${from} ip4`), gone);
        await cluster.endpoints('sticky', PODS);
        assert.equal((await one(cluster, from, 'tcp', vip, 80)).get(`${from} ip4`), after.get(`${from} ip4`));
      }
    },
  ),
];
