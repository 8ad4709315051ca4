/** The life of a flow: endpoints that go, restarts, large packets, and what belongs to no flow. */
import assert from 'node:assert/strict';
import { eventually } from '../../lib/until.ts';
import {
  aCase,
  attempts,
  type Case,
  clusterIPs,
  INSIDE,
  nodePortOf,
  nodeTarget,
  reach,
  type Target,
} from './case.ts';
import type { ServiceCluster } from './cluster.ts';
import { FAMILY_NAMES, type Kind } from './net.ts';

const UDP = (port: number) => [{ name: 'udp', port, protocol: 'UDP' as const }];
const TCP = (port: number) => [{ name: 'tcp', port, protocol: 'TCP' as const }];

/** From each place a socket with one source port that goes on asking while the endpoints change. */
async function cycle(
  cluster: ServiceCluster,
  from: readonly string[],
  kinds: readonly Kind[],
  to: Target,
  port: number,
  change: readonly (() => Promise<string>)[],
): Promise<void> {
  const sockets = await Promise.all(
    from.flatMap((place) =>
      kinds.flatMap((kind) =>
        FAMILY_NAMES.map(async (family) => ({
          what: `${kind} from ${place} in ${family}`,
          kind,
          open: () => cluster.at(place).hold(kind, to[family], port),
          held: await cluster.at(place).hold(kind, to[family], port),
        })),
      ),
    ),
  );
  for (const step of change) {
    const server = await step();
    for (const socket of sockets)
      await eventually(
        `${socket.what} reaches ${server}`,
        async () => {
          const said = await socket.held.say('x', 0.3);
          // A connected socket to a backend that has gone is destroyed: its owner opens another one.
          if (socket.kind === 'udp-connected' && /^(ECONNABORTED|EDESTADDRREQ|ECONNREFUSED)$/.test(said)) {
            await socket.held.close();
            socket.held = await socket.open();
          }
          return said === server;
        },
        3000,
      );
  }
  for (const { held } of sockets) await held.close();
}

export const flowCases: readonly Case[] = [
  aCase(
    'conntrack-002 servicecorner-029',
    'datagrams of an old socket follow a Service to its new endpoint',
    async (cluster) => {
      await cluster.service('moving', {});
      await cluster.endpoints('moving', ['a1']);
      const vip = await clusterIPs(cluster, 'moving');
      const moved = (pod: string) => async () => {
        await cluster.endpoints('moving', [pod]);
        return pod;
      };
      await cycle(
        cluster,
        ['a2', 'packets a1', 'node-a', 'b2', 'packets b1'],
        ['udp', 'udp-connected'],
        vip,
        80,
        [moved('a1'), moved('b1'), moved('c1')],
      );
    },
  ),
  aCase(
    'conntrack-001 loadbalancers-008',
    'datagrams of an old socket outside follow a nodePort to its new endpoint',
    async (cluster) => {
      await cluster.service('moving', { type: 'NodePort' });
      await cluster.endpoints('moving', ['a1']);
      const port = await nodePortOf(cluster, 'moving', 'udp');
      const moved = (pod: string) => async () => {
        await cluster.endpoints('moving', [pod]);
        return pod;
      };
      await cycle(
        cluster,
        ['outside', 'a2', 'packets a1', 'node-b'],
        ['udp', 'udp-connected'],
        nodeTarget(cluster, 'a'),
        port,
        [moved('a1'), moved('b1'), moved('a2'), moved('c1')],
      );
    },
  ),
  aCase(
    'conntrack-003',
    'datagrams sent before there was an endpoint do not keep it from being reached',
    async (cluster) => {
      await cluster.service('late', { type: 'NodePort' });
      await cluster.endpoints('late', ['b1 unready']);
      const vip = await clusterIPs(cluster, 'late');
      const port = await nodePortOf(cluster, 'late', 'udp');
      for (const [from, to, number] of [
        [['a1', 'packets a1', 'node-a'], vip, 80],
        [['outside'], nodeTarget(cluster, 'a'), port],
      ] as const) {
        const sockets = await Promise.all(
          from.flatMap((place) =>
            FAMILY_NAMES.map((family) => cluster.at(place).hold('udp', to[family], number)),
          ),
        );
        for (const socket of sockets) assert.notEqual(await socket.say('x', 0.1), 'b1');
        await cluster.endpoints('late', ['b1']);
        for (const socket of sockets) {
          await eventually(
            'the endpoint is reached',
            async () => (await socket.say('x', 0.3)) === 'b1',
            3000,
          );
          await socket.close();
        }
        await cluster.endpoints('late', ['b1 unready']);
      }
    },
  ),
  aCase('conntrack-004', 'datagrams of an old socket follow a target port that changes', async (cluster) => {
    await cluster.service('ports', { type: 'NodePort' });
    await cluster.endpoints('ports', ['b1'], UDP(8080));
    const at = (number: number, server: string) => async () => {
      await cluster.endpoints('ports', ['b1'], UDP(number));
      return server;
    };
    const change = [at(8080, 'b1'), at(8081, 'b1-second'), at(8080, 'b1')];
    await cycle(cluster, ['a1', 'packets a1'], ['udp'], await clusterIPs(cluster, 'ports'), 80, change);
    await cycle(
      cluster,
      ['outside'],
      ['udp'],
      nodeTarget(cluster, 'a'),
      await nodePortOf(cluster, 'ports', 'udp'),
      change,
    );
  }),
  aCase(
    'datagrams-many',
    'a datagram socket that asks ten Services before it reads hears each from where it asked',
    async (cluster) => {
      const places = ['a1', 'a2', 'b1', 'b2', 'c1'].flatMap((pod) =>
        [8080, 8081].map((port) => ({ pod, port })),
      );
      const vips: Target[] = [];
      for (const [at, { pod, port }] of places.entries()) {
        await cluster.service(`many-${at}`, { ports: [{ ...UDP(53)[0]!, targetPort: port }] });
        await cluster.endpoints(`many-${at}`, [pod], UDP(port));
        vips.push(await clusterIPs(cluster, `many-${at}`));
      }
      for (const family of FAMILY_NAMES) {
        const shown = (address: string) => (family === 'ip4' ? `${address}:53` : `[${address}]:53`);
        const wanted = vips.map((vip, at) => {
          const { pod, port } = places[at]!;
          return [shown(vip[family]), port === 8080 ? pod : `${pod}-second`] as const;
        });
        for (const place of ['a1', 'packets b1', 'node-a'])
          await eventually(`${place} hears all of them in ${family}`, async () => {
            const answers = await cluster.at(place).survey(vips.map((vip) => [vip[family], 53] as const));
            assert.deepEqual(
              Object.entries(answers).filter(([peer]) => !wanted.some(([each]) => each === peer)),
              [],
              `${place}: answers that nobody waits for`,
            );
            return wanted.every(([peer, server]) => answers[peer] === server);
          });
      }
    },
  ),
  aCase(
    'datagrams-named',
    'a connected datagram socket that names its Service again is answered',
    async (cluster) => {
      await cluster.service('named', { ports: UDP(80).map((port) => ({ ...port, targetPort: 8080 })) });
      await cluster.endpoints('named', ['a1', 'a2', 'b1', 'c1'], UDP(8080));
      const vip = await clusterIPs(cluster, 'named');
      await reach(cluster, INSIDE, 'udp-connected', vip, 80, ['a1', 'a2', 'b1', 'c1'], { named: true });
    },
  ),
  aCase(
    'servicecorner-028',
    'an open connection outlives its endpoint in the Service, and every other change of it',
    async (cluster) => {
      await cluster.service('long', { type: 'NodePort' });
      await cluster.endpoints('long', ['a1', 'b1']);
      const vip = await clusterIPs(cluster, 'long');
      const port = await nodePortOf(cluster, 'long');
      const node = nodeTarget(cluster, 'a');
      const held = await Promise.all(
        FAMILY_NAMES.flatMap((family) => [
          ...['a2', 'packets a1', 'node-a', 'packets b1'].flatMap((place) =>
            [1, 2, 3].map(() => cluster.at(place).hold('tcp', vip[family], 80)),
          ),
          ...[1, 2, 3, 4].map(() => cluster.at('outside').hold('tcp', node[family], port)),
        ]),
      );
      for (const { server } of held) assert.match(server, /^(a1|b1)$/);
      const alive = async (when: string) => {
        for (const socket of held) assert.equal(await socket.say('still here'), 'still here', when);
      };
      await cluster.endpoints('long', ['c1']);
      await alive('after all endpoints were replaced');
      await reach(cluster, INSIDE, 'tcp', vip, 80, ['c1']);
      await cluster.endpoints('long', []);
      await alive('without endpoints');
      await cluster.patch('long', {
        spec: { sessionAffinity: 'ClientIP', externalTrafficPolicy: 'Local', internalTrafficPolicy: 'Local' },
      });
      await alive('with other policies');
      await cluster.deleteService('long');
      await cluster.settled();
      await alive('after the Service has gone');
      for (const socket of held) await socket.close();
    },
  ),
  aCase(
    'services-010 servicecorner-048',
    'a restart of the agent cuts no connection, and new ones work during it',
    async (cluster) => {
      await cluster.service('steady', { type: 'NodePort' });
      await cluster.endpoints('steady', ['a1', 'b1']);
      const vip = await clusterIPs(cluster, 'steady');
      const node = nodeTarget(cluster, 'a');
      const port = await nodePortOf(cluster, 'steady');
      const places = ['a2', 'packets a1', 'node-a'] as const;
      const held = await Promise.all([
        ...FAMILY_NAMES.flatMap((family) =>
          places.map((place) => cluster.at(place).hold('tcp', vip[family], 80)),
        ),
        ...FAMILY_NAMES.map((family) => cluster.at('outside').hold('tcp', node[family], port)),
      ]);
      const during = Promise.all([
        attempts(cluster, places, 'tcp', vip, 80, { times: 60, pause: 0.005 }),
        attempts(cluster, 'outside', 'tcp', node, port, { times: 60, pause: 0.005 }),
      ]);
      await cluster.restart('a');
      for (const saw of (await during).flat())
        assert.deepEqual(
          [...new Set(saw.seen.map(({ result }) => result))],
          ['ok'],
          `${saw.from} ${saw.family}`,
        );
      for (const socket of held) {
        assert.equal(await socket.say('still here'), 'still here');
        await socket.close();
      }
      await cluster.endpoints('steady', ['c1']);
      await reach(cluster, places, 'tcp', vip, 80, ['c1']);
      await reach(cluster, 'outside', 'tcp', node, port, ['c1']);
      assert.deepEqual(cluster.node('a').engine.diff(cluster.node('a').controller.plans.values()), {
        missing: [],
        unwanted: [],
      });
    },
  ),
  aCase(
    'services-011',
    'a restart of the API server cuts nothing; what changes afterwards is programmed',
    async (cluster) => {
      await cluster.service('steady', {});
      await cluster.endpoints('steady', ['b1']);
      const vip = await clusterIPs(cluster, 'steady');
      await cluster.restartApi(async () => {
        await reach(cluster, INSIDE, 'tcp', vip, 80, ['b1']);
      });
      await reach(cluster, INSIDE, 'tcp', vip, 80, ['b1']);
      await cluster.service('after', {});
      await cluster.endpoints('after', ['a1']);
      await reach(cluster, INSIDE, 'tcp', await clusterIPs(cluster, 'after'), 80, ['a1']);
    },
  ),
  aCase(
    'networking-020 networking-024 servicecorner-052 dualstack-019 dualstack-020',
    'large requests come through whole: streams, and datagrams in fragments',
    async (cluster) => {
      await cluster.service('large', { type: 'NodePort' });
      await cluster.endpoints('large', ['b1', 'c1']);
      const vip = await clusterIPs(cluster, 'large');
      for (const from of ['a1', 'packets a1', 'node-a']) {
        await reach(cluster, from, 'tcp', vip, 80, ['b1', 'c1'], { size: 100_000, timeout: 5 });
        await reach(cluster, from, 'udp', vip, 80, ['b1', 'c1'], { size: 4000 });
      }
      await reach(
        cluster,
        'outside',
        'tcp',
        nodeTarget(cluster, 'a'),
        await nodePortOf(cluster, 'large'),
        ['b1', 'c1'],
        { size: 100_000, timeout: 5 },
      );
    },
  ),
  aCase(
    'fragments-outside',
    'datagrams in fragments from outside come through a nodePort',
    async (cluster) => {
      await cluster.service('large', { type: 'NodePort' });
      const port = await nodePortOf(cluster, 'large', 'udp');
      for (const endpoint of ['a1', 'b1']) {
        await cluster.endpoints('large', [endpoint]);
        await reach(cluster, 'outside', 'udp', nodeTarget(cluster, 'a'), port, [endpoint], {
          size: 4000,
          times: 4,
        });
      }
    },
  ),
  aCase('mapped-1', 'an IPv4 frontend is reached by an IPv6 socket', async (cluster) => {
    await cluster.service('mapped', { type: 'NodePort' });
    await cluster.endpoints('mapped', ['b1']);
    const { ip4 } = await clusterIPs(cluster, 'mapped');
    for (const place of ['a1', 'packets a1', 'node-a'])
      for (const kind of ['tcp', 'udp', 'udp-connected'] as const) {
        const [seen] = await cluster.at(place).attempt(kind, ip4, 80, { mapped: true });
        assert.deepEqual([seen!.result, seen!.server], ['ok', 'b1'], `${kind} from ${place}`);
        assert.match(seen!.peer!, /::ffff:/);
      }
  }),
  aCase('icmp-1', 'a port that nobody listens on refuses, through every frontend', async (cluster) => {
    await cluster.service('closed', { type: 'NodePort' });
    await cluster.endpoints('closed', ['b1'], [...TCP(9), ...UDP(9)]);
    const vip = await clusterIPs(cluster, 'closed');
    for (const kind of ['tcp', 'udp-connected'] as const) {
      for (const saw of await attempts(cluster, ['a1', 'packets a1', 'node-a'], kind, vip, 80))
        assert.equal(saw.seen[0]!.result, 'ECONNREFUSED', `${kind} from ${saw.from} in ${saw.family}`);
      const port = await nodePortOf(cluster, 'closed', kind === 'tcp' ? 'tcp' : 'udp');
      for (const saw of await attempts(cluster, 'outside', kind, nodeTarget(cluster, 'a'), port))
        assert.equal(saw.seen[0]!.result, 'ECONNREFUSED', `${kind} from ${saw.from} in ${saw.family}`);
    }
  }),
  aCase(
    'conntrack-005',
    'a segment out of the window, that conntrack calls invalid, ends no connection',
    async (cluster) => {
      await cluster.service('strict', { type: 'NodePort' });
      await cluster.endpoints('strict', ['b1']);
      const { ip4 } = await clusterIPs(cluster, 'strict');
      const node = nodeTarget(cluster, 'a').ip4;
      for (const [place, address, port] of [
        ['packets a1', ip4, 80],
        ['a1', ip4, 80],
        ['outside', node, await nodePortOf(cluster, 'strict')],
      ] as const) {
        const held = await cluster.at(place).hold('tcp', address, port);
        assert.equal(held.server, 'b1', place);
        const [, client, number] = /^(.*):(\d+)$/.exec(held.client)!;
        for (let times = 0; times < 3; times++) {
          await cluster.at('b1').inject(cluster.address('b1', 'ip4'), 8080, client!, Number(number));
          assert.equal(await held.say('still here'), 'still here', place);
        }
        await held.close();
      }
    },
  ),
  aCase('unallocated-1', 'an address of the Service range that nobody has is dropped', async (cluster) => {
    for (const saw of await attempts(
      cluster,
      [...INSIDE, 'outside'],
      'tcp',
      { ip4: '10.96.99.99', ip6: 'fd00:10:96::9999' },
      80,
      { timeout: 0.3 },
    ))
      assert.match(
        saw.seen[0]!.result,
        /^(timeout|EPERM)$/,
        `${saw.from} ${saw.family}: ${saw.seen[0]!.result}`,
      );
  }),
  aCase(
    'services-044',
    'an SCTP Service has endpoints and loads no module; its other ports are served',
    async (cluster) => {
      await cluster.service('sctp', {
        selector: { app: 'sctp' },
        ports: [
          { name: 'sctp', port: 5060, protocol: 'SCTP' },
          { name: 'tcp', port: 80, targetPort: 8080, protocol: 'TCP' },
        ],
      });
      await cluster.pod('b1', { app: 'sctp' });
      await cluster.published('sctp', ['b1+']);
      await reach(cluster, INSIDE, 'tcp', await clusterIPs(cluster, 'sctp'), 80, ['b1']);
      const { existsSync } = await import('node:fs');
      assert.equal(existsSync('/proc/net/sctp'), existsSync('/sys/module/sctp'));
      assert.equal(existsSync('/sys/module/sctp'), false);
    },
  ),
  aCase('servicecorner-050', 'an SCTP port is served', async (cluster) => {
    await cluster.service('sctp', { ports: [{ name: 'sctp', port: 5060, protocol: 'SCTP' }] });
    await cluster.settled();
    const failed = cluster.node('a').controller.failed.get('default/sctp');
    assert.equal(failed, undefined, failed?.message);
  }),
];
