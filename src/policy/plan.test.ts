import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { parseIp } from '../addr/index.ts';
import { ruleText, targetsOf } from '../kernel/nft/index.ts';
import type { NetworkPolicy } from '../model/kubernetes.ts';
import { PolicyCompiler } from './compiler.ts';
import { namespaceLabels, policyFacts } from './facts.ts';
import { nodePolicyFacts } from './host/index.ts';
import type { Logging } from './logging.ts';
import { HOST_PODS } from './names.ts';
import { planPolicy, policyPlanText } from './plan.ts';
import type { Chain } from './tables.ts';

function compiler(spec: NonNullable<NetworkPolicy['spec']>, pods = 2): PolicyCompiler {
  const made = new PolicyCompiler({ nodeName: 'n1' });
  made.setNamespace('x', namespaceLabels({ metadata: { name: 'x' } }));
  for (let at = 0; at < pods; at++) {
    const address = parseIp(`10.244.1.${2 + at}`);
    const uid = `u${at}`;
    made.setPod(`x/p${at}`, {
      namespace: 'x',
      name: `p${at}`,
      uid,
      labels: { app: 'web' },
      node: 'n1',
      hostNetwork: false,
      ended: false,
      addresses: [],
      ports: [{ name: 'http', protocol: 'TCP', port: 8080 }],
    });
    made.setLocal(`l${at}`, { id: `l${at}`, namespace: 'x', name: `p${at}`, uid, addresses: [address] });
  }
  made.setPolicy(
    'x/web',
    policyFacts({
      apiVersion: 'networking.k8s.io/v1',
      kind: 'NetworkPolicy',
      metadata: { namespace: 'x', name: 'web' },
      spec,
    }),
  );
  made.compile();
  return made;
}

const WEB: NonNullable<NetworkPolicy['spec']> = {
  podSelector: { matchLabels: { app: 'web' } },
  ingress: [
    {
      from: [
        { podSelector: { matchLabels: { app: 'web' } } },
        { ipBlock: { cidr: '10.0.0.0/8', except: ['10.0.0.0/9'] } },
      ],
      ports: [{ port: 80 }, { port: 81, endPort: 90 }, { protocol: 'UDP', port: 53 }, { port: 'http' }],
    },
  ],
};

test('a policy becomes a chain whose rules name their owner', () => {
  const { tables } = compiler(WEB);
  const chain = tables[4].chains.get('policy_in/x/web');
  assert.deepEqual(chain?.rules.map(ruleText), [
    'ip saddr @policy_g_aca6a5e3d4b3 meta l4proto . th dport { tcp . 80-90, udp . 53 } counter accept comment "np x/web ingress[0]"',
    'ip saddr @policy_g_aca6a5e3d4b3 ip daddr . meta l4proto . th dport @policy_p_275c5c4c20f9 counter accept comment "np x/web ingress[0]"',
    'ip saddr 10.128.0.0-10.255.255.255 meta l4proto . th dport { tcp . 80-90, udp . 53 } counter accept comment "np x/web ingress[0]"',
    'ip saddr 10.128.0.0-10.255.255.255 ip daddr . meta l4proto . th dport @policy_p_275c5c4c20f9 counter accept comment "np x/web ingress[0]"',
  ]);
  assert.equal(tables[6].chains.size, 0, 'no pod here has an IPv6 address');
});

test('a new pod under the same policies changes elements and no rule', () => {
  const world = compiler(WEB);
  for (const set of world.tables[4].sets.values()) set.settle();
  const chains = new Map<string, Chain | undefined>(world.tables[4].chains);
  world.setPod('x/p9', { ...world.pods.get('x/p0')!, name: 'p9', uid: 'u9' });
  world.setLocal('l9', {
    id: 'l9',
    namespace: 'x',
    name: 'p9',
    uid: 'u9',
    addresses: [parseIp('10.244.1.9')],
  });
  world.compile();
  const plan = planPolicy(4, chains, world.tables[4]);
  assert.deepEqual(
    plan.changes.filter(({ change }) => change !== 'add elements'),
    [],
  );
  assert.deepEqual(
    policyPlanText(plan)
      .trim()
      .split('\n')
      .map((line) => line.replace(/_[0-9a-f]{12}/g, '_HASH'))
      .sort(),
    [
      'add element ip portolan policy_g_HASH { 10.244.1.9 comment "pod x/p9" }',
      'add element ip portolan policy_ingress { 10.244.1.9 comment "pod x/p9" : goto policy_in_HASH }',
      'add element ip portolan policy_isolated { 10.244.1.9 comment "pod x/p9" }',
      'add element ip portolan policy_p_HASH { 10.244.1.9 . 6 . 8080 comment "pod x/p9" }',
      'add element ip portolan policy_selves { 10.244.1.9 . 10.244.1.9 comment "pod x/p9" }',
    ],
  );
});

test('rules that report come and go beside the others, which stay with what they have counted', () => {
  const world = compiler(WEB);
  for (const set of world.tables[4].sets.values()) set.settle();
  const toggled = (logging: Logging) => {
    const chains = new Map<string, Chain | undefined>(world.tables[4].chains);
    const standing = new Map(
      world.tables[4].chains
        .entries()
        .map(([name, { rules }]) => [
          name,
          rules.map((rule, at) => ({ handle: BigInt(at), leadsTo: targetsOf(rule) })),
        ]),
    );
    world.setLogging(logging);
    world.compile();
    return policyPlanText(planPolicy(4, chains, world.tables[4], [], standing))
      .trim()
      .split('\n');
  };
  const on = toggled('all');
  assert.ok(on.length > 1);
  for (const line of on.slice(1)) assert.match(line, /^insert rule .* handle \d+ .*log prefix/);
  const off = toggled('off');
  for (const line of off.slice(1)) assert.match(line, /^delete rule ip portolan policy_in\S* handle \d+$/);
});

test('a policy of the node that comes after its pods does not cut it off from them', () => {
  const world = compiler(WEB);
  const denies = nodePolicyFacts({
    apiVersion: 'policy.portolan.dev/v1alpha1',
    kind: 'NodeNetworkPolicy',
    metadata: { name: 'denies' },
    spec: { nodeSelector: {}, priority: 1, defaultEgress: 'Deny' },
  });
  const reached = () => [...(world.tables[4].sets.get(HOST_PODS)?.elements.keys() ?? [])].sort();
  for (const enforced of [[denies], [], [denies]]) {
    world.setHost(enforced);
    world.compile();
    assert.deepEqual(reached(), enforced.length === 0 ? [] : ['10.244.1.2', '10.244.1.3']);
  }
});

test('the last policy takes every chain and set with it', () => {
  const world = compiler(WEB);
  for (const set of world.tables[4].sets.values()) set.settle();
  const chains = new Map<string, Chain | undefined>(world.tables[4].chains);
  world.setPolicy('x/web', undefined);
  world.compile();
  const script = policyPlanText(planPolicy(4, chains, world.tables[4]));
  assert.equal(world.tables[4].chains.size + world.tables[4].sets.size, 0);
  assert.match(script, /delete chain ip portolan policy_forward/);
  assert.match(script, /delete map ip portolan policy_ingress/);
});

test('the ruleset grows with policies and pods, not with their product', () => {
  const size = (pods: number) => {
    const { chains, sets } = compiler(WEB, pods).tables[4];
    const rules = [...chains.values()].reduce((sum, chain) => sum + chain.rules.length, 0);
    const elements = [...sets.values()].reduce((sum, set) => sum + set.elements.size, 0);
    return { rules, elements };
  };
  assert.equal(size(100).rules, size(10).rules);
  assert.equal(size(100).elements, 10 * size(10).elements);
});

test('any object that claims to be a policy is compiled or refused by its parts, and never breaks the text', () => {
  const text = fc.string({ maxLength: 12 });
  const selector = fc.record({ matchLabels: fc.dictionary(text, text, { maxKeys: 2 }) });
  const port = fc.record(
    {
      protocol: fc.constantFrom('TCP', 'UDP', 'SCTP'),
      port: fc.oneof(fc.nat(65_535), text),
      endPort: fc.nat(65_535),
    },
    { requiredKeys: [] },
  );
  const peer = fc.record(
    { podSelector: selector, namespaceSelector: selector, ipBlock: fc.record({ cidr: text }) },
    { requiredKeys: [] },
  );
  const spec = fc.record({
    podSelector: fc.constant({}),
    ingress: fc.array(
      fc.record({ from: fc.array(peer, { maxLength: 3 }), ports: fc.array(port, { maxLength: 3 }) }),
      { maxLength: 3 },
    ),
  });
  fc.assert(
    fc.property(spec, (made) => {
      const { tables } = compiler(made as NonNullable<NetworkPolicy['spec']>);
      const script = policyPlanText(planPolicy(4, new Map(), tables[4]));
      for (const line of script.trim().split('\n')) {
        assert.match(line, /^(add|delete|flush) (table|chain|rule|set|map|element) ip portolan( |$)/);
        assert.equal((line.match(/"/g) ?? []).length % 2, 0, line);
      }
    }),
    { numRuns: 200 },
  );
});
