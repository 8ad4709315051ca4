/** Every owner of nftables rules of an agent in one namespace: masquerade and tunnel guard, policies, Services. */
import { parseCidr, parseIp } from '../../src/addr/index.ts';
import { NftParts } from '../../src/agent/nft-parts.ts';
import type { Netns } from '../../src/kernel/netns/index.ts';
import { filterPart } from '../../src/overlay/index.ts';
import {
  namespaceLabels,
  type PodFacts,
  PolicyController,
  type PolicyFacts,
  policyFacts,
} from '../../src/policy/index.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { masqueradeParts, NftablesEngine } from '../../src/service/index.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import { attachmentOf, MemoryTable } from './policy-cluster.ts';

export async function nftOwners(netns: Netns): Promise<AsyncDisposable> {
  await using undo = new AsyncDisposableStack();
  const parts = ([4, 6] as const).map((family) =>
    filterPart({
      family,
      clusterCidrs: [parseCidr(family === 4 ? '10.244.0.0/16' : 'fd00:10:244::/56')],
      ownCidrs: [parseCidr(family === 4 ? '10.244.1.0/24' : 'fd00:10:244:1::/64')],
      masquerade: true,
      tunnel: {
        dev: 'flannel.1',
        port: 8472,
        peers: [
          parseIp(family === 4 ? '192.0.2.2' : '2001:db8::2'),
          parseIp(family === 4 ? '192.0.2.3' : '2001:db8::3'),
        ],
      },
    }),
  );
  for (const [name, own] of [
    ['overlay', parts],
    ['service', masqueradeParts()],
  ] as const) {
    const kept = new NftParts(name, own, { netns });
    undo.defer(() => kept.stop());
    kept.start();
    await kept.idle();
  }
  const policies = new MemoryTable<PolicyFacts>();
  const pods = new MemoryTable<PodFacts>();
  const namespaces = new MemoryTable<Readonly<Record<string, string>>>();
  namespaces.set('x', namespaceLabels({ metadata: { name: 'x' } }));
  const controller = new PolicyController({ nodeName: 'n', policies, pods, namespaces, netns });
  undo.defer(() => controller.close());
  await controller.start([]);
  const place = { name: 'n/0', netns: '', ip4: parseIp('10.244.1.10'), ip6: parseIp('fd00:10:244:1::10') };
  pods.set('x/a', {
    namespace: 'x',
    name: 'a',
    uid: 'x/a',
    labels: { app: 'a' },
    node: 'n',
    hostNetwork: false,
    ended: false,
    addresses: [place.ip4, place.ip6],
    ports: [],
  });
  await controller.isolate(attachmentOf(place, 'x/a'));
  const policy = policyFacts({
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: { namespace: 'x', name: 'web' },
    spec: {
      podSelector: {},
      policyTypes: ['Ingress', 'Egress'],
      ingress: [{ from: [{ podSelector: { matchLabels: { app: 'a' } } }], ports: [{ port: 80 }] }],
    },
  });
  policies.set(policy.key, policy);
  await controller.settled();
  const engine = NftablesEngine.open({ netns, nodeName: 'n' });
  undo.defer(() => engine.close());
  engine.setServiceRanges(['10.96.0.0/16', 'fd00:10:96::/112']);
  const ports = [{ port: 80, protocol: 'TCP' as const }];
  const facts = [
    serviceFacts(aService({ clusterIPs: ['10.96.0.10'], ports })),
    serviceFacts(
      aService({ clusterIPs: ['10.96.0.11'], sessionAffinity: 'ClientIP', ports }, { name: 'true' }),
    ),
  ];
  const slices = [aSlice(['10.244.1.10 n']), aSlice(['10.244.1.10 n'], { name: 'true-1', service: 'true' })];
  const planner = new ServicePlanner(
    {
      services: new Map(facts.map((service) => [service.key, service])),
      slices: new Map(slices.map(sliceFacts).map((slice) => [slice.key, slice])),
    },
    aNode(),
  );
  engine.apply(planner.planAll());
  return undo.move();
}
