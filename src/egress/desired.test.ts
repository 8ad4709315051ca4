import assert from 'node:assert/strict';
import test from 'node:test';
import { parseCidr, parseIp } from '../addr/index.ts';
import type { ConntrackEntry } from '../kernel/conntrack/index.ts';
import { type NftPart, partText } from '../kernel/nft/index.ts';
import type { Route } from '../kernel/rtnl/index.ts';
import {
  changedTranslations,
  insideTest,
  staleEntries,
  type Translation,
  translationsOf,
} from './connections.ts';
import { desiredEgress, type EgressInput } from './desired.ts';
import { egressPart, egressSteps } from './rules.ts';
import type { EgressNode, Wish } from './types.ts';

const cluster = [parseCidr('10.244.0.0/16'), parseCidr('10.96.0.0/16')];
const node = (at: number, claims: EgressNode['claims'] = new Map()): EgressNode => ({
  name: `node${at}`,
  podCidrs: [parseCidr(`10.244.${at}.0/24`)],
  addresses: [parseIp(`192.0.2.${at}`)],
  claims,
});
const way = (at: number): Route => ({
  family: 4,
  destination: parseCidr(`10.244.${at}.0/24`),
  type: 'unicast',
  table: 254,
  protocol: 250,
  scope: 0,
  tos: 0,
  oif: 3,
  gateway: parseIp(`10.244.${at}.0`),
  onlink: true,
  metric: 0,
  dead: false,
});
const pod = (namespace: string, name: string, address: string) => ({
  namespace,
  name: `${namespace}/${name}`,
  addresses: [parseIp(address)],
});
const wishes = (list: Record<string, string | undefined>) =>
  new Map(
    Object.entries(list).map(([namespace, text]): [string, Wish] => [
      namespace,
      text
        ? { namespace, addresses: { 4: parseIp(text) } }
        : { namespace, addresses: {}, problem: 'it is junk' },
    ]),
  );
function input(more: Partial<EgressInput> = {}): EgressInput {
  return {
    node: 'node1',
    families: [4],
    wishes: wishes({ here: '192.0.2.50', there: '192.0.2.51', nobody: '192.0.2.52', wrong: undefined }),
    isKnown: (namespace) => namespace !== 'new',
    nodes: [node(1, new Map([['192.0.2.50', 2]])), node(2, new Map([['192.0.2.51', 'own']])), node(3)],
    local: [
      pod('here', 'a', '10.244.1.2'),
      pod('there', 'b', '10.244.1.3'),
      pod('nobody', 'c', '10.244.1.4'),
      pod('wrong', 'd', '10.244.1.5'),
      pod('plain', 'e', '10.244.1.6'),
      pod('new', 'f', '10.244.1.7'),
    ],
    remote: [pod('here', 'g', '10.244.3.2'), pod('there', 'h', '10.244.3.3')],
    routes: [way(2), way(3)],
    cluster,
    own: [parseCidr('10.244.1.0/24')],
    ...more,
  };
}

test('each namespace has a fate, and closed says why', () => {
  const { states, local, remote, slots } = desiredEgress(input());
  assert.deepEqual(
    states.map(({ namespace, fate, pods }) => [
      namespace,
      fate.kind,
      fate.kind === 'closed' ? fate.why : '',
      pods,
    ]),
    [
      ['here', 'here', '', 1],
      ['nobody', 'closed', 'no node holds 192.0.2.52', 1],
      ['there', 'via', '', 1],
      ['wrong', 'closed', 'its annotation is wrong: it is junk', 1],
    ],
  );
  assert.deepEqual(
    local.map(({ pod: { name }, fate }) => [name, fate.kind]),
    [
      ['here/a', 'here'],
      ['there/b', 'via'],
      ['nobody/c', 'closed'],
      ['wrong/d', 'closed'],
      ['new/f', 'closed'],
    ],
    'a pod of a namespace that nothing is known of is closed, one that asks for nothing is no concern',
  );
  assert.deepEqual(
    remote.map(({ pod: { name } }) => name),
    ['here/g'],
  );
  assert.deepEqual(
    slots.map(({ node: name, number }) => [name, number]),
    [['node2', 1]],
  );
});

test('a holder that the overlay has no route to is no holder', () => {
  const { states } = desiredEgress(input({ routes: [way(3)] }));
  const { fate } = states.find(({ namespace }) => namespace === 'there')!;
  assert.equal(
    fate.kind === 'closed' && fate.why,
    '192.0.2.51 is on node "node2", and the overlay has no route to that',
  );
});

test('rules are written for what is asked, and none while nothing is', () => {
  assert.equal(
    partText(egressPart(4, desiredEgress(input({ wishes: new Map(), local: [], remote: [] })))),
    '',
  );
  const text = partText(egressPart(4, desiredEgress(input())));
  for (const line of [
    'add rule ip portolan egress_to_1 meta mark set meta mark & 0x80ffffff | 0x1000000 comment "egress: by node2"',
    'add rule ip portolan egress_as_192.0.2.50 meta l4proto { tcp, udp, sctp } snat to 192.0.2.50:32768-65535 fully-random comment "egress"',
    'add rule ip portolan egress_closed/wrong counter drop comment "egress: closed for namespace wrong"',
    'add rule ip portolan egress_forward meta mark & 0x7f000000 == 0x1000000 rt nexthop != 10.244.2.0 counter drop comment "egress: not on the way to node2"',
  ])
    assert.ok(text.split('\n').includes(line), `${line} in\n${text}`);
  assert.match(text, /10\.244\.1\.3 comment "pod there\/b" : goto egress_to_1/);
  assert.match(text, /10\.244\.3\.2 comment "pod here\/g" : goto egress_as_192\.0\.2\.50/);
  assert.match(text, /egress_held \{ 192\.0\.2\.50 \}/);
  assert.doesNotMatch(text, /10\.244\.1\.6/, 'a pod of no such namespace');
});

test('connections are cut whose translation is no longer the wanted one, and no others', () => {
  const entry = (source: string, destination: string, translated: string, backend = destination) =>
    ({
      original: { source: parseIp(source), destination: parseIp(destination) },
      reply: { source: parseIp(backend), destination: parseIp(translated) },
    }) as ConntrackEntry;
  const out = '198.51.100.7';
  const entries = {
    'here, as its node': entry('10.244.1.2', out, '192.0.2.1'),
    'here, as it should be': entry('10.244.1.2', out, '192.0.2.50'),
    'there, as its node': entry('10.244.1.3', out, '192.0.2.1'),
    'there, untranslated': entry('10.244.1.3', out, '10.244.1.3'),
    'to a pod': entry('10.244.1.3', '10.244.2.9', '10.244.1.3'),
    'to a Service': entry('10.244.1.3', '10.96.0.1', '192.0.2.1', '10.244.2.9'),
    'to a node': entry('10.244.1.3', '192.0.2.3', '192.0.2.1'),
    'from outside': entry(out, '10.244.1.3', out),
    'of no such pod': entry('10.244.1.6', out, '192.0.2.1'),
    'left, untranslated': entry('10.244.1.8', out, '10.244.1.8'),
    'left, masqueraded': entry('10.244.1.8', out, '192.0.2.1'),
    'left, as before': entry('10.244.1.9', out, '192.0.2.50'),
  };
  const before = new Map<string, Translation>([
    ['10.244.1.8', 'elsewhere'],
    ['10.244.1.9', { to: parseIp('192.0.2.50') }],
  ]);
  const wanted = changedTranslations(before, translationsOf(desiredEgress(input())));
  const isInside = insideTest(
    cluster,
    [1, 2, 3].map((at) => parseIp(`192.0.2.${at}`)),
  );
  const stale = staleEntries({ entries: Object.values(entries), wanted, before, isInside });
  assert.deepEqual(
    Object.entries(entries).flatMap(([name, each]) => (stale.includes(each) ? [name] : [])),
    ['here, as its node', 'there, as its node', 'left, untranslated', 'left, as before'],
  );
});

test('a pod whose egress address goes is let by no more before it is translated no more', () => {
  const before = desiredEgress(input());
  const after = desiredEgress(input({ remote: [] }));
  const has = (part: NftPart, set: string) =>
    part.sets.find(({ name }) => name === set)!.elements.some(({ key }) => String(key[0]) === '10.244.3.2');
  const steps = egressSteps(4, before, after);
  assert.deepEqual(
    steps.map((part) => [has(part, 'egress_known'), has(part, 'egress_as')]),
    [
      [false, true],
      [false, false],
    ],
  );
  assert.equal(partText(steps[1]!), partText(egressPart(4, after)));
  for (const [from, to] of [
    [after, before],
    [before, before],
  ] as const)
    assert.deepEqual(egressSteps(4, from, to).map(partText), [partText(egressPart(4, to))]);
});
