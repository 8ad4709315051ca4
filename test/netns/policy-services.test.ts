/**
 * Network policies where Services translate: at sockets, at pod links (clients without a socket hook), by nodePorts and
 * load balancer addresses with and without the client's address kept, to a pod itself, and to host-network endpoints.
 * Policies see the backend and its port, and the address that the packet has when it reaches the backend's node.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { parseIp } from '../../src/addr/index.ts';
import { writeNftParts } from '../../src/kernel/nft/index.ts';
import type { NetworkPolicy } from '../../src/model/kubernetes.ts';
import {
  cleanupPolicies,
  namespaceLabels,
  type PodFacts,
  PolicyController,
  type PolicyFacts,
  policyFacts,
} from '../../src/policy/index.ts';
import { EbpfEngine, masqueradeParts, NftablesEngine } from '../../src/service/index.ts';
import {
  clusterIPs,
  dropped,
  host,
  nodePortOf,
  nodeTarget,
  reach,
  sawClient,
  type Target,
  unserved,
} from '../conformance/services/case.ts';
import { ServiceCluster } from '../conformance/services/cluster.ts';
import type { EngineUnderTest } from '../conformance/services/engine.ts';
import { EXTRA, VIPS } from '../conformance/services/net.ts';
import { attachmentOf, MemoryTable } from '../lib/policy-cluster.ts';

const ebpf = (hook: 'native' | undefined): EngineUnderTest => ({
  name: hook === undefined ? 'ebpf' : 'ebpf, XDP at node links',
  hook,
  cannot: {},
  async open({ nodeName, netns, bpffsDir, cgroupPath, onStaleSockets }) {
    writeNftParts(masqueradeParts(), { netns });
    return EbpfEngine.open({
      bpffsDir: join(bpffsDir, 'portolan'),
      cgroupPath,
      netns,
      nodeName,
      nodeHook: hook,
      onStaleSockets,
    });
  },
});

const ENGINES: readonly EngineUnderTest[] = [
  ebpf(undefined),
  // What XDP hands to the stack meets policies as what tc does.
  ebpf('native'),
  {
    name: 'nftables',
    cannot: {},
    async open({ nodeName, netns }) {
      return NftablesEngine.open({ netns, nodeName });
    },
  },
];

for (const engine of ENGINES)
  describe(`policies over Services by ${engine.name}`, () => {
    let cluster: ServiceCluster;
    const controllers: PolicyController[] = [];
    const policies = new MemoryTable<PolicyFacts>();
    const pods = new MemoryTable<PodFacts>();
    const namespaces = new MemoryTable<Readonly<Record<string, string>>>();

    /** Node links have no part in these. */
    const testInside = (title: string, run: () => Promise<void>): void => {
      if (engine.hook === undefined) test(title, run);
    };

    before(async () => {
      cluster = await ServiceCluster.create(engine);
      namespaces.set('default', namespaceLabels({ metadata: { name: 'default' } }));
      for (const node of cluster.net.nodes) {
        const controller = new PolicyController({
          nodeName: node.name,
          policies,
          pods,
          namespaces,
          netns: node.netns,
        });
        controllers.push(controller);
        await controller.start([]);
      }
      for (const [at, node] of cluster.net.nodes.entries())
        for (const pod of node.pods) {
          const key = `default/${pod.name}`;
          const place = { name: pod.name, netns: pod.netns, ip4: parseIp(pod.ip4), ip6: parseIp(pod.ip6) };
          pods.set(key, {
            namespace: 'default',
            name: pod.name,
            uid: key,
            labels: { pod: pod.name },
            node: node.name,
            hostNetwork: false,
            ended: false,
            addresses: [place.ip4, place.ip6],
            ports: [{ name: 'http', protocol: 'TCP', port: 8080 }],
          });
          await controllers[at]!.isolate(attachmentOf(place, key));
        }
      const ports = [
        { name: 'tcp', port: 80, targetPort: 8080, protocol: 'TCP' as const },
        { name: 'udp', port: 80, targetPort: 8080, protocol: 'UDP' as const },
      ];
      await cluster.service('web', { ports });
      await cluster.endpoints('web', ['b1']);
      await cluster.service('elsewhere', { ports });
      await cluster.endpoints('elsewhere', ['c1']);
      await cluster.service('host', { ports });
      await cluster.endpoints(
        'host',
        ['node-b'],
        [
          { name: 'tcp', port: 9090, protocol: 'TCP' },
          { name: 'udp', port: 9090, protocol: 'UDP' },
        ],
      );
      await cluster.service('open', { type: 'LoadBalancer', ports });
      await cluster.ingress('open', addresses(VIPS.a, VIPS.b));
      await cluster.endpoints('open', ['b1']);
      await cluster.service('kept', { type: 'NodePort', externalTrafficPolicy: 'Local', ports });
      await cluster.endpoints('kept', ['b1']);
    });
    after(async () => {
      for (const controller of controllers) await controller.close();
      for (const node of cluster?.net.nodes ?? []) cleanupPolicies({ netns: node.netns });
      await cluster?.[Symbol.asyncDispose]();
    });

    const addresses = (...targets: readonly Target[]) =>
      targets.flatMap(({ ip4, ip6 }) => [{ ip: ip4 }, { ip: ip6 }]);

    /** These policies and no others, in force. */
    async function only(...specs: readonly NonNullable<NetworkPolicy['spec']>[]): Promise<void> {
      for (const key of [...policies.items.keys()]) policies.delete(key);
      for (const [at, spec] of specs.entries()) {
        const facts = policyFacts({
          apiVersion: 'networking.k8s.io/v1',
          kind: 'NetworkPolicy',
          metadata: { namespace: 'default', name: `np${at}` },
          spec,
        });
        policies.set(facts.key, facts);
      }
      await new Promise((resolve) => setImmediate(resolve));
      for (const controller of controllers) {
        await controller.settled();
        assert.equal(controller.status().state.state, 'done');
      }
    }

    const pod = (name: string) => ({ matchLabels: { pod: name } });
    const blocks = (...targets: readonly Target[]) =>
      targets.flatMap(({ ip4, ip6 }) => [
        { ipBlock: { cidr: `${ip4}/32` } },
        { ipBlock: { cidr: `${ip6}/128` } },
      ]);
    const outside = (): Target => ({ ip4: cluster.net.outside.ip4, ip6: cluster.net.outside.ip6 });
    const KINDS = ['tcp', 'udp'] as const;

    /** What reaches server b1, and what is dropped, by kind, in both families. */
    async function expect(
      kind: 'tcp' | 'udp',
      to: Target,
      port: number,
      {
        yes = [],
        no = [],
        server = 'b1',
      }: { yes?: readonly string[]; no?: readonly string[]; server?: string },
    ): Promise<void> {
      if (yes.length > 0) await reach(cluster, yes, kind, to, port, [server]);
      if (no.length > 0) await dropped(cluster, no, kind, to, port);
    }

    testInside(
      'a pod that is let in reaches the server by its Service from sockets and by packets; others do not',
      async () => {
        await only({
          podSelector: pod('b1'),
          ingress: [
            {
              from: [{ podSelector: pod('a1') }],
              ports: [{ port: 'http' }, { protocol: 'UDP', port: 8080 }],
            },
          ],
        });
        const web = await clusterIPs(cluster, 'web');
        for (const kind of KINDS)
          await expect(kind, web, 80, {
            // Itself by its own Service, and its node, always.
            yes: ['a1', 'packets a1', 'b1', 'packets b1', 'node-b'],
            no: ['a2', 'b2', 'c1', 'packets c1', 'node-a', 'node-c'],
          });
      },
    );

    testInside('the port of the backend counts, not that of the Service', async () => {
      const web = await clusterIPs(cluster, 'web');
      await only({ podSelector: pod('b1'), ingress: [{ ports: [{ port: 80 }] }] });
      await expect('tcp', web, 80, { no: ['a1', 'packets a1'] });
      await only({ podSelector: pod('b1'), ingress: [{ ports: [{ port: 8080 }] }] });
      await expect('tcp', web, 80, { yes: ['a1', 'packets a1', 'b2', 'node-a'] });
    });

    testInside('egress is judged by the backend: an ipBlock with the ClusterIP matches nothing', async () => {
      const [web, elsewhere] = [await clusterIPs(cluster, 'web'), await clusterIPs(cluster, 'elsewhere')];
      await only({ podSelector: pod('a1'), policyTypes: ['Egress'], egress: [{ to: blocks(web) }] });
      for (const kind of KINDS) await expect(kind, web, 80, { yes: ['a2'], no: ['a1', 'packets a1'] });
      await only({
        podSelector: pod('a1'),
        policyTypes: ['Egress'],
        egress: [{ to: [{ podSelector: pod('b1') }] }],
      });
      for (const kind of KINDS) {
        await expect(kind, web, 80, { yes: ['a1', 'packets a1'] });
        await expect(kind, elsewhere, 80, { yes: ['a2'], no: ['a1', 'packets a1'], server: 'c1' });
      }
    });

    testInside(
      'replies pass: a server that may send nothing by itself answers all who reach it',
      async () => {
        await only({ podSelector: pod('b1'), policyTypes: ['Egress'], egress: [] });
        const web = await clusterIPs(cluster, 'web');
        for (const kind of KINDS) {
          await expect(kind, web, 80, { yes: ['a1', 'packets a1', 'c1', 'node-a', 'node-b'] });
          await expect(kind, nodeTarget(cluster, 'a'), await nodePortOf(cluster, 'open', kind), {
            yes: ['outside'],
          });
          await expect(kind, nodeTarget(cluster, 'b'), await nodePortOf(cluster, 'kept', kind), {
            yes: ['outside'],
          });
        }
        await expect('tcp', await clusterIPs(cluster, 'elsewhere'), 80, { no: ['b1', 'packets b1'] });
      },
    );

    testInside('host-network endpoints are their node: pods need an ipBlock to it', async () => {
      const hosted = await clusterIPs(cluster, 'host');
      await only({
        podSelector: pod('a1'),
        policyTypes: ['Egress'],
        egress: [{ to: [{ podSelector: {} }] }],
      });
      for (const kind of KINDS) {
        await dropped(cluster, ['a1', 'packets a1'], kind, hosted, 80);
        await reach(cluster, ['a2'], kind, hosted, 80, ['node-b']);
      }
      await only({
        podSelector: pod('a1'),
        policyTypes: ['Egress'],
        egress: [{ to: blocks(nodeTarget(cluster, 'b')) }],
      });
      for (const kind of KINDS) await reach(cluster, ['a1', 'packets a1'], kind, hosted, 80, ['node-b']);
    });

    test('an ipBlock lets a client outside in where its address is kept: by policy Local, or on the node of the pod', async () => {
      await only({ podSelector: pod('b1'), ingress: [{ from: blocks(outside()) }] });
      for (const kind of KINDS) {
        const [kept, open] = [
          await nodePortOf(cluster, 'kept', kind),
          await nodePortOf(cluster, 'open', kind),
        ];
        const saws = await reach(cluster, 'outside', kind, nodeTarget(cluster, 'b'), kept, ['b1']);
        sawClient(saws, ({ family }) => outside()[family]);
        await unserved(cluster, 'outside', kind, nodeTarget(cluster, 'a'), kept);
        // The node of the pod hides the client behind the policies (postrouting), other nodes before they are asked.
        await reach(cluster, 'outside', kind, nodeTarget(cluster, 'b'), open, ['b1']);
        for (const letter of ['a', 'c'])
          await dropped(cluster, 'outside', kind, nodeTarget(cluster, letter), open);
        await dropped(cluster, ['a1', 'packets a1'], kind, await clusterIPs(cluster, 'web'), 80);
      }
    });

    test('behind a nodePort that hides clients, the ipBlock of the node that was asked lets them in', async () => {
      for (const letter of ['a', 'c']) {
        await only({
          podSelector: pod('b1'),
          ingress: [{ from: blocks(nodeTarget(cluster, letter), ...(letter === 'a' ? [EXTRA] : [])) }],
        });
        for (const kind of KINDS) {
          const port = await nodePortOf(cluster, 'open', kind);
          const saws = await reach(cluster, 'outside', kind, nodeTarget(cluster, letter), port, ['b1']);
          for (const { seen, family } of saws)
            for (const { client } of seen)
              assert.ok([nodeTarget(cluster, letter)[family], EXTRA[family]].includes(host(client)));
          await dropped(cluster, 'outside', kind, nodeTarget(cluster, letter === 'a' ? 'c' : 'a'), port);
        }
      }
    });

    test('a load balancer address is a nodePort to policies', async () => {
      const vips = [VIPS.a, VIPS.b];
      await only({ podSelector: pod('b1'), ingress: [] });
      for (const vip of vips) await dropped(cluster, ['outside', 'a1', 'packets a1'], 'tcp', vip, 80);
      await only({ podSelector: pod('b1'), ingress: [{ from: [{ podSelector: pod('a1') }] }] });
      for (const vip of vips) {
        await reach(cluster, ['a1', 'packets a1'], 'tcp', vip, 80, ['b1']);
        await dropped(cluster, ['outside', 'c1'], 'tcp', vip, 80);
      }
      await only();
      for (const vip of vips)
        await reach(cluster, ['outside', 'a1', 'packets a1', 'c1'], 'tcp', vip, 80, ['b1']);
    });

    testInside(
      'nothing of policies is on a node without a selected pod, and nothing anywhere without policies',
      async () => {
        const chains = () =>
          cluster.net.nodes.map(({ netnsName }) =>
            /policy_/.test(cluster.net.exec(netnsName, ['nft', 'list', 'ruleset'])),
          );
        await only({ podSelector: pod('b1') });
        assert.deepEqual(chains(), [false, true, false]);
        await only();
        assert.deepEqual(chains(), [false, false, false]);
      },
    );
  });
