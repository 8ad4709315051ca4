/** Policies of any content through the API, the compiler and the kernel: refused with a reason, or in force. */
import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import fc from 'fast-check';
import { parseIp } from '../../src/addr/index.ts';
import { createNetns, deleteNetns, type Netns } from '../../src/kernel/netns/index.ts';
import type { NetworkPolicy, Protocol } from '../../src/model/kubernetes.ts';
import { NftPolicyEngine } from '../../src/policy/engine.ts';
import { evaluate, namespaceLabels, PolicyCompiler, policyFacts } from '../../src/policy/index.ts';
import { type Access, accessOf, call } from '../lib/api-access.ts';
import { serverForFile } from '../lib/api-server.ts';

const RUNS = Number(process.env['PORTOLAN_POLICY_FUZZ'] ?? 500);
const NAME = `pt-pf-${process.pid}`;
const PATH = '/apis/networking.k8s.io/v1/namespaces/default/networkpolicies';
const server = serverForFile('policy-fuzz');
let access: Access | undefined;
let netns: Netns;
let engine: NftPolicyEngine;
before(() => {
  netns = createNetns(NAME);
  engine = new NftPolicyEngine({ netns });
});
after(() => {
  access?.agent.destroy();
  engine?.close();
  netns?.close();
  deleteNetns(NAME);
});

/** Mostly what is right, sometimes anything at all. */
const or = <T>(right: fc.Arbitrary<T>, weight = 60): fc.Arbitrary<unknown> =>
  fc.oneof({ weight, arbitrary: right }, { weight: 1, arbitrary: fc.jsonValue({ maxDepth: 1 }) });
const word = fc.stringMatching(/^[a-zA-Z0-9]([-a-zA-Z0-9_.]{0,61}[a-zA-Z0-9])?$/);
const labels = fc.dictionary(
  fc.oneof(
    word,
    fc.constantFrom('app', 'app.kubernetes.io/name', `${'a'.repeat(60)}.example.com/${'b'.repeat(63)}`),
  ),
  or(fc.oneof(word, fc.constant(''))) as fc.Arbitrary<string>,
  { maxKeys: 3 },
);
const expression = fc.oneof(
  fc.record({
    key: or(word),
    operator: fc.constantFrom('In', 'NotIn'),
    values: or(fc.array(word, { minLength: 1, maxLength: 3 })),
  }),
  fc.record({ key: or(word), operator: or(fc.constantFrom('Exists', 'DoesNotExist')) }),
);
const selector = fc.record(
  { matchLabels: or(labels), matchExpressions: or(fc.array(expression, { maxLength: 2 })) },
  { requiredKeys: [] },
);
const ip4 = fc.tuple(fc.nat(255), fc.nat(255), fc.nat(255), fc.nat(255)).map((parts) => parts.join('.'));
const ip6 = fc.ipV6();
const cidr = fc.oneof(
  fc.tuple(ip4, fc.nat(32)).map(([ip, bits]) => `${ip}/${bits}`),
  fc.tuple(ip6, fc.nat(128)).map(([ip, bits]) => `${ip}/${bits}`),
  fc.constantFrom(
    '0.0.0.0/0',
    '::/0',
    '255.255.255.255/32',
    '10.0.0.0/8',
    '10.0.0.0/33',
    '::ffff:1.2.3.4/128',
  ),
);
const inside = fc.constantFrom(
  '10.0.0.0/9',
  '10.128.0.0/16',
  '10.255.255.255/32',
  '10.0.0.0/8',
  '11.0.0.0/8',
);
const block = fc.oneof(
  fc.record({ cidr: or(cidr) }),
  fc.record({ cidr: or(cidr, 20), except: or(fc.array(inside, { maxLength: 2 }), 20) }),
  fc.record({ cidr: fc.constant('10.0.0.0/8'), except: fc.array(inside, { maxLength: 4 }) }),
);
const peer = fc.record(
  { podSelector: or(selector), namespaceSelector: or(selector), ipBlock: or(block) },
  { requiredKeys: [] },
);
const onePeer = fc.oneof(
  fc.record({ podSelector: selector }),
  fc.record({ podSelector: selector, namespaceSelector: selector }),
  fc.record({ ipBlock: block }),
  peer,
);
const protocol = or(fc.constantFrom('TCP', 'UDP', 'SCTP'));
const number = fc.integer({ min: 1, max: 65_535 });
const port = fc.oneof(
  fc.record({ protocol }),
  fc.record({
    protocol,
    port: or(fc.oneof(number, fc.constantFrom('http', 'dns-tcp', 'a-name-that-is-too-long'))),
  }),
  fc.tuple(protocol, number, number).map(([each, first, more]) => ({
    protocol: each,
    port: first,
    endPort: Math.min(65_535, first + (more % 3000)),
  })),
  fc.record({ port: or(number), endPort: or(fc.integer({ min: 1, max: 70_000 })) }),
);
const rules = (peers: 'from' | 'to') =>
  fc.array(
    fc.record(
      { [peers]: or(fc.array(onePeer, { maxLength: 4 })), ports: or(fc.array(port, { maxLength: 5 })) },
      { requiredKeys: [] },
    ),
    { maxLength: 3 },
  );
const spec = fc.record(
  {
    podSelector: or(fc.oneof({ weight: 3, arbitrary: fc.constant({}) }, { weight: 1, arbitrary: selector })),
    policyTypes: or(fc.subarray(['Ingress', 'Egress'])),
    ingress: or(rules('from')),
    egress: or(rules('to')),
  },
  { requiredKeys: ['podSelector'] },
);

test('the API refuses a policy with a reason, or the kernel takes it and evaluate() judges by it', async (t) => {
  access = accessOf(server.kubeconfig);
  const world = new PolicyCompiler({ nodeName: 'n1' });
  world.setNamespace('default', namespaceLabels({ metadata: { name: 'default' } }));
  const pods = ['a', 'b'].map((name, at) => {
    const addresses = [parseIp(`10.244.1.${2 + at}`), parseIp(`fd00:10:244:1::${2 + at}`)];
    const pod = {
      namespace: 'default',
      name,
      uid: name,
      labels: { app: name },
      node: 'n1',
      hostNetwork: false,
      ended: false,
      addresses,
      ports: [{ name: 'http', protocol: 'TCP' as Protocol, port: 8080 }],
    };
    world.setPod(`default/${name}`, pod);
    world.setLocal(name, { id: name, namespace: 'default', name, uid: name, addresses });
    return pod;
  });
  const count = { refused: 0, accepted: 0, rules: 0 };
  await fc.assert(
    fc.asyncProperty(spec, async (made) => {
      const name = `p${count.refused + count.accepted}`;
      const body = {
        apiVersion: 'networking.k8s.io/v1',
        kind: 'NetworkPolicy',
        metadata: { name },
        spec: made,
      };
      const answer = await call(access!, 'POST', PATH, body);
      if (answer.status !== 201) {
        count.refused++;
        const { message } = answer.body as { message?: string };
        assert.ok(
          answer.status === 400 || answer.status === 422,
          `${answer.status}: ${JSON.stringify(answer.body)}`,
        );
        assert.ok(message && message.length > 10, 'a reason is given');
        return;
      }
      count.accepted++;
      const policy = policyFacts(answer.body as NetworkPolicy);
      world.setPolicy(policy.key, policy);
      world.compile();
      engine.apply(world.tables);
      for (const { rules } of world.tables[4].chains.values()) count.rules += rules.length;
      const [from, to] = pods.map((pod) => ({ address: pod.addresses[0]!, pod }));
      for (const protocol of ['TCP', 'UDP', undefined] as const)
        evaluate({ from: from!, to: to!, protocol, port: 8080 }, world);
      // All that is in force together stays small.
      if (world.policies.size > 20)
        for (const key of [...world.policies.keys()]) world.setPolicy(key, undefined);
    }),
    { numRuns: RUNS, endOnFailure: true },
  );
  t.diagnostic(JSON.stringify(count));
  assert.ok(count.accepted > RUNS / 10 && count.refused > RUNS / 10, JSON.stringify(count));
});
