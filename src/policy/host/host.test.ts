import assert from 'node:assert/strict';
import test from 'node:test';
import { parseIp } from '../../addr/index.ts';
import type { NodeNetworkPolicy, NodePolicyRule } from '../../model/node-network-policy.ts';
import { PolicyCompiler } from '../compiler.ts';
import type { Flow } from '../evaluate.ts';
import { acceptedName, enforcement, inOrder, judgeNode } from './evaluate.ts';
import { nodePolicyFacts } from './facts.ts';
import { hostChains } from './rules.ts';
import type { Contact } from './types.ts';

type Spec = NodeNetworkPolicy['spec'];
const NOW = Date.parse('2026-03-01T10:00:00Z');

function policy(name: string, spec: Partial<Spec>, annotations: Record<string, string> = {}) {
  return nodePolicyFacts({
    apiVersion: 'policy.portolan.dev/v1alpha1',
    kind: 'NodeNetworkPolicy',
    metadata: { name, annotations },
    spec: { nodeSelector: {}, priority: 10, ...spec },
  });
}

const world = new PolicyCompiler({ nodeName: 'n1' });
world.setNode('n2', { labels: { zone: 'b' }, addresses: [parseIp('192.0.2.2')] });
const OWN = { address: parseIp('192.0.2.1'), node: 'n1' };
const into = (from: string, port: number, protocol: Flow['protocol'] = 'TCP'): Flow => ({
  from: { address: parseIp(from), ...(from === '192.0.2.2' && { node: 'n2' }) },
  to: OWN,
  protocol,
  port,
});
const tcp = (number: number) => [{ tcp: { destinationPort: { number } } }];
const SSH: NodePolicyRule = {
  action: 'Accept',
  from: [{ networks: ['198.51.100.0/24'] }],
  protocols: tcp(22),
};
const PEERS: NodePolicyRule = { action: 'Accept', from: [{ nodes: {} }] };
const ssh: Contact = { what: 'ssh from 198.51.100.7', direction: 'ingress', flow: into('198.51.100.7', 22) };
const tunnel: Contact = {
  what: 'the tunnel from node n2',
  direction: 'ingress',
  flow: into('192.0.2.2', 8472, 'UDP'),
};

test('rules decide by priority, and what none matches is denied when any policy says so', () => {
  const policies = inOrder([
    policy('late', {
      priority: 20,
      ingress: [{ action: 'Deny', from: [{ networks: ['198.51.100.7/32'] }] }],
    }),
    policy('first', { defaultIngress: 'Deny', ingress: [SSH] }),
  ]);
  const says = (from: string, port: number) => judgeNode(into(from, port), 'ingress', policies, world);
  assert.deepEqual(says('198.51.100.7', 22), { allowed: true, by: ['first'], rule: 0 });
  assert.deepEqual(says('198.51.100.7', 80), { allowed: false, by: ['late'], rule: 0 });
  assert.deepEqual(says('198.51.100.8', 80), { allowed: false, by: ['first'], rule: undefined });
  assert.equal(judgeNode(into('198.51.100.8', 80), 'egress', policies, world).allowed, true);
});

test('a policy that would cut ssh or the tunnel is refused, and says which', () => {
  const { enforced, states } = enforcement(
    [policy('shut', { defaultIngress: 'Deny' })],
    {},
    [ssh, tunnel],
    world,
    NOW,
  );
  assert.deepEqual(enforced, []);
  assert.deepEqual(
    states.map(({ name, state, lockouts }) => ({ name, state, lockouts })),
    [{ name: 'shut', state: 'refused', lockouts: ['ssh from 198.51.100.7', 'the tunnel from node n2'] }],
  );
});

test('it is enforced when another policy accepts what it would cut, or when it says that it may', () => {
  const open = policy('open', { priority: 5, ingress: [SSH, PEERS] });
  const shut = policy('shut', { defaultIngress: 'Deny' });
  const names = (policies: Parameters<typeof enforcement>[0]) =>
    enforcement(policies, {}, [ssh, tunnel], world, NOW).enforced.map(({ name }) => name);
  assert.deepEqual(names([shut, open]), ['open', 'shut']);
  const may = policy('may', { defaultIngress: 'Deny' }, { 'portolan.dev/allow-lockout': 'true' });
  assert.deepEqual(names([may]), ['may']);
});

test('what is in force stays in force when a contact is new, until one of the policies changes or goes', () => {
  const shut = policy('shut', { defaultIngress: 'Deny', ingress: [SSH, { ...PEERS, name: 'peers' }] });
  const first = enforcement([shut], {}, [ssh], world, NOW);
  const before = new Set(first.enforced.map(acceptedName));
  const stranger: Contact = {
    what: 'ssh from 203.0.113.9',
    direction: 'ingress',
    flow: into('203.0.113.9', 22),
  };
  const names = (policies: (typeof shut)[], known: ReadonlySet<string> | undefined = before) =>
    enforcement(policies, {}, [stranger], world, NOW, known).enforced.map(({ name }) => name);
  assert.deepEqual(names([shut], new Set()), [], 'nobody has accepted it yet');
  const [state] = enforcement([shut], {}, [stranger], world, NOW, before).states;
  assert.deepEqual([state!.state, state!.lockouts], ['in force', ['ssh from 203.0.113.9']]);
  const another = policy('another', {
    ingress: [{ action: 'Deny', from: [{ networks: ['203.0.113.0/24'] }] }],
  });
  assert.deepEqual(names([shut, another]), ['shut'], 'a policy that comes is judged by itself');
  assert.deepEqual(names([{ ...shut, generation: 2 }]), [], 'one that says something else is a new one');
  assert.deepEqual(
    names([shut], new Set([...before, 'gone/u/1'])),
    [],
    'what another one accepted may be cut now',
  );
});

test('somebody has to be able to reach ssh, not everybody', () => {
  const somebody: Contact = {
    what: 'ssh',
    direction: 'ingress',
    flow: into('192.0.2.77', 22),
    orFrom: [parseIp('2001:db8::1')],
  };
  const enforces = (ingress: NodePolicyRule[]) =>
    enforcement([policy('p', { defaultIngress: 'Deny', ingress })], {}, [somebody], world, NOW).enforced
      .length === 1;
  assert.equal(enforces([SSH]), true, 'a network of IPv4');
  assert.equal(
    enforces([{ ...SSH, from: [{ networks: ['2001:db8::/32'] }] }]),
    true,
    'all of IPv6 that is named',
  );
  assert.equal(enforces([{ ...SSH, protocols: tcp(80) }]), false, 'another port');
  assert.equal(enforces([PEERS]), false, 'nodes are nobody outside');
  assert.equal(enforces([{ action: 'Deny', from: SSH.from! }, SSH]), false, 'denied before');
});

test('a trial ends by itself, and a time that cannot be read has gone by', () => {
  const trial = (until: string) =>
    enforcement(
      [policy('p', { defaultIngress: 'Deny' }, { 'portolan.dev/confirm-by': until })],
      {},
      [],
      world,
      NOW,
    );
  const running = trial('2026-03-01T10:01:00Z');
  assert.equal(running.enforced.length, 1);
  assert.equal(running.nextMs, NOW + 60_000);
  assert.equal(running.states[0]!.state, 'on trial');
  assert.equal(trial('2026-03-01T09:59:59Z').states[0]!.state, 'expired');
  assert.equal(trial('soon').states[0]!.state, 'expired');
});

test('policies for other nodes are not this one’s', () => {
  const other = policy('other', { nodeSelector: { matchLabels: { zone: 'b' } }, defaultIngress: 'Deny' });
  assert.deepEqual(enforcement([other], { zone: 'a' }, [ssh], world, NOW).states, []);
});

test('a direction about which nobody says anything has no chain', () => {
  assert.deepEqual([...hostChains([policy('p', { ingress: [SSH] })], 6, 'off').keys()], []);
  assert.deepEqual(
    [...hostChains([policy('p', { ingress: [SSH] })], 4, 'off').keys()],
    ['policy_host_input'],
  );
});
