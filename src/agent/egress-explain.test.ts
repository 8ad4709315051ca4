import assert from 'node:assert/strict';
import test from 'node:test';
import { parseCidr, parseIp } from '../addr/index.ts';
import type { EgressDesired, Fate } from '../egress/index.ts';
import { isNetError } from '../errors/index.ts';
import type { PodFacts } from '../policy/index.ts';
import { type EgressWorld, explainEgress } from './egress-explain.ts';

const address = parseIp('192.0.2.50');
const here: Fate = { kind: 'here', address };
const via: Fate = { kind: 'via', address: parseIp('192.0.2.51'), node: 'node3', slot: 1 };
const closed: Fate = { kind: 'closed', address: parseIp('192.0.2.52'), why: 'no node holds 192.0.2.52' };

const podFacts = (more: Partial<PodFacts>): PodFacts => ({
  namespace: 'shop',
  name: 'x',
  uid: '',
  labels: {},
  node: 'node2',
  hostNetwork: false,
  ended: false,
  addresses: [],
  ports: [],
  ...more,
});
const API: Record<string, PodFacts | 'unknown'> = {
  'shop/far': podFacts({}),
  'shop/host': podFacts({ hostNetwork: true }),
  'shop/new': podFacts({ node: '' }),
  'shop/starting': podFacts({ node: 'node1' }),
  'shop/gone': podFacts({ ended: true }),
  'shop/unsaid': 'unknown',
  'plain/far': podFacts({ namespace: 'plain' }),
  'shut/far': podFacts({ namespace: 'shut' }),
};
const state = (namespace: string, fate: Fate) => ({ namespace, family: 4 as const, fate, pods: 1 });
const world: EgressWorld = {
  node: 'node1',
  desired: {
    slots: [],
    states: [state('shop', here), state('other', via), state('shut', closed)],
    local: [
      {
        pod: { name: 'shop/web', namespace: 'shop', addresses: [] },
        address: parseIp('10.244.1.2'),
        fate: here,
      },
    ],
    remote: [],
    elected: [],
    cluster: [parseCidr('10.244.0.0/16')],
    own: [],
    nodeAddresses: [parseIp('192.0.2.1')],
    active: true,
  } satisfies EgressDesired,
  isNamespace: (name) => ['shop', 'other', 'shut', 'plain'].includes(name),
  local: new Set(['shop/web', 'plain/pod']),
  findPod: async (namespace, name) => API[`${namespace}/${name}`],
};

const OUTSIDE = '198.51.100.7';

test('explain tells for pods and namespaces with which address the other side sees them', async () => {
  const plain = (family: number, namespace: string) =>
    `its node: namespace ${namespace} asks for no IPv${family} egress address: it is masqueraded`;
  const cases: [from: string, to: string, want: string][] = [
    ['shop/web', OUTSIDE, '192.0.2.50: node1 holds 192.0.2.50; the other side sees 192.0.2.50'],
    ['shop', OUTSIDE, '192.0.2.50: node1 holds 192.0.2.50; the other side sees 192.0.2.50'],
    [
      'other',
      OUTSIDE,
      '192.0.2.51: slot 1: routed to node3, which holds 192.0.2.51; the other side sees 192.0.2.51',
    ],
    ['shut', OUTSIDE, 'none: dropped: no node holds 192.0.2.52'],
    ['shut/far', OUTSIDE, 'none: dropped: no node holds 192.0.2.52'],
    ['plain', OUTSIDE, plain(4, 'plain')],
    ['plain/pod', OUTSIDE, plain(4, 'plain')],
    ['plain/far', OUTSIDE, plain(4, 'plain')],
    ['shop', '2001:db8::7', plain(6, 'shop')],
    ['shop/web', '10.244.9.9', 'its own: 10.244.9.9 is of a pod or Service: pods keep their address'],
    [
      'shop/web',
      '192.0.2.1',
      "its node: 192.0.2.1 is of a node: it sees the pod's node, and a pod of its own by the pod's address",
    ],
    [
      'shop/far',
      OUTSIDE,
      '192.0.2.50: shop/far is on node2; on its node it goes to the holder of 192.0.2.50',
    ],
    [
      'shop/starting',
      OUTSIDE,
      '192.0.2.50: shop/starting has no link on node1 yet; on its node it goes to the holder of 192.0.2.50',
    ],
    [
      'shop/new',
      OUTSIDE,
      '192.0.2.50: shop/new is on no node yet; on its node it goes to the holder of 192.0.2.50',
    ],
    [
      'shop/gone',
      OUTSIDE,
      '192.0.2.50: shop/gone has ended; on its node it goes to the holder of 192.0.2.50',
    ],
    [
      'shop/unsaid',
      OUTSIDE,
      '192.0.2.50: shop/unsaid is no pod of node1; on its node it goes to the holder of 192.0.2.50',
    ],
    ['shop/host', OUTSIDE, 'its node: shop/host is in the network of its node node2'],
  ];
  for (const [from, to, want] of cases) {
    const { source, address: as, lines } = await explainEgress(world, from, to);
    assert.equal(`${as ?? source}: ${lines.join('; ')}`, want, `${from} to ${to}`);
  }
});

test('explain refuses what is not there, names it, and says what to do', async () => {
  const cases: [from: string, to: string, code: string, message: RegExp, remedy: RegExp][] = [
    ['shop', 'there', 'EGRESS_BAD_ADDRESS', /"there"/, /--to 198/],
    ['', OUTSIDE, 'EGRESS_BAD_FROM', /""/, /--from shop\/web/],
    ['/web', OUTSIDE, 'EGRESS_BAD_FROM', /"\/web"/, /--from shop\/web/],
    ['shop/', OUTSIDE, 'EGRESS_BAD_FROM', /"shop\/"/, /--from shop\/web/],
    ['a/b/c', OUTSIDE, 'EGRESS_BAD_FROM', /"a\/b\/c"/, /--from shop\/web/],
    ['shpo', OUTSIDE, 'EGRESS_NO_SUCH_NAMESPACE', /no namespace "shpo"/, /kubectl get namespaces/],
    ['shpo/none', OUTSIDE, 'EGRESS_NO_SUCH_NAMESPACE', /"shpo\/none": .*"shpo"/, /kubectl get namespaces/],
    ['shpo/web', OUTSIDE, 'EGRESS_NO_SUCH_NAMESPACE', /no namespace "shpo"/, /there is "shop\/web"$/],
    ['web', OUTSIDE, 'EGRESS_NO_SUCH_NAMESPACE', /"web"/, /on this node there is "shop\/web"$/],
    ['web', '10.244.9.9', 'EGRESS_NO_SUCH_NAMESPACE', /"web"/, /there is "shop\/web"$/],
    ['shop/none', OUTSIDE, 'EGRESS_NO_SUCH_POD', /pod "none".* "shop"/, /kubectl get pods -n shop/],
    ['plain/none', OUTSIDE, 'EGRESS_NO_SUCH_POD', /pod "none".* "plain"/, /kubectl get pods -n plain/],
  ];
  for (const [from, to, code, message, remedy] of cases)
    await assert.rejects(explainEgress(world, from, to), (error) => {
      assert.ok(isNetError(error, code as 'EGRESS_BAD_FROM'), String(error));
      assert.match(error.message, message);
      assert.match(error.remedy, remedy);
      return true;
    });
});
