/**
 * A packet that is in a base chain while a transaction is committed has the rules of before and finds elements of
 * after (docs/decisions/0030). What must hold while rules change is tried here against a flood of packets to a pod that
 * is closed throughout: none gets in.
 */
import assert from 'node:assert/strict';
import { availableParallelism } from 'node:os';
import test, { after, before } from 'node:test';
import { parseCidr, parseIp } from '../../src/addr/index.ts';
import type { EgressDesired, EgressPodFate } from '../../src/egress/desired.ts';
import { DROPS, egressPart, egressSteps } from '../../src/egress/rules.ts';
import type { Fate, Slot } from '../../src/egress/types.ts';
import {
  COUNTER,
  DROP,
  equals,
  inSet,
  inSteps,
  type NftChange,
  type NftElement,
  NftGuard,
  type NftRule,
  NftRuleset,
  RETURN,
  ruleOf,
} from '../../src/kernel/nft/index.ts';
import { NftRace, type Raced } from '../lib/nft-race.ts';

/** Each way of changing is tried so long; the wrong one was seen to let a packet in within 0.1 s. */
const TRY_MS = 1000;
/** Long enough for the wrong way on any machine. */
const CONTROL_MS = 20_000;

const at = { family: 'ip', table: 'race' } as const;
const hook = { type: 'filter', hook: 'forward', priority: 0, policy: 'accept' } as const;
const map = { name: 'closed', map: true, key: 'ipv4_addr' };
const set = { name: 'closed_set', map: false, key: 'ipv4_addr' };
const DROP_ALL = [ruleOf([COUNTER, DROP])];
/** Others' rules before ours: the longer a packet is on its way through a chain, the likelier it meets a commit. */
const OTHERS = Array.from({ length: 30 }, (_, port) => ruleOf([equals('udp dport', port + 1), COUNTER]));

let race: NftRace;
let ruleset: NftRuleset;
before(() => {
  race = new NftRace('pnr');
  ruleset = NftRuleset.open({ netns: race.router });
});
after(() => {
  ruleset?.close();
  race?.close();
});

const rules = (chain: string, list: readonly NftRule[]) =>
  list.map((rule): NftChange => ({ ...at, change: 'add rule', chain, rule }));
const own = (): NftElement => ({ key: [race.pod] });
const goes = (chain: string): NftChange => ({
  ...at,
  change: 'add elements',
  set: map,
  elements: [{ ...own(), data: { verdict: 'goto', chain } }],
});
const gone = (): NftChange => ({ ...at, change: 'delete elements', set: map, elements: [own()] });
const removed = (chain: string): NftChange[] => [
  { ...at, change: 'flush chain', chain },
  { ...at, change: 'delete chain', chain },
];

/** The pod closed by an element that leads to a chain that drops. */
function closed(): void {
  if (ruleset.table(at) !== 'absent') ruleset.apply([{ ...at, change: 'delete table' }]);
  ruleset.apply([
    { ...at, change: 'add table' },
    { ...at, change: 'add set', set: map },
    { ...at, change: 'add set', set },
    ...['drop0', 'drop1'].flatMap((chain): NftChange[] => [
      { ...at, change: 'add chain', chain },
      ...rules(chain, DROP_ALL),
    ]),
    { ...at, change: 'add chain', chain: 'forward', hook },
    ...rules('forward', [...OTHERS, ruleOf([{ kind: 'vmap', fields: ['ip daddr'], map: 'closed' }])]),
    goes('drop0'),
  ]);
}

/** The pod gets a chain that is new, and the one before goes: what a change of policies is. */
function renewed(round: number): NftChange[] {
  return [
    gone(),
    { ...at, change: 'add chain', chain: `new${round}` },
    ...rules(`new${round}`, DROP_ALL),
    goes(`new${round}`),
    ...(round > 0 ? removed(`new${round - 1}`) : []),
  ];
}

const told = ({ gotIn, sent, rounds }: Raced) =>
  `${gotIn} of ${sent} packets got in during ${rounds} changes`;

test('in one transaction a new chain lets packets in before its rules are seen', async (t) => {
  closed();
  const counted = await race.run({
    forMs: CONTROL_MS,
    until: ({ gotIn }) => gotIn > 0,
    change: (round) => ruleset.apply(renewed(round)),
  });
  t.diagnostic(told(counted));
  // On a single processor no packet is halfway while a transaction is committed.
  if (availableParallelism() > 1) assert.ok(counted.gotIn > 0, told(counted));
});

const KEEP_CLOSED: Readonly<Record<string, (round: number) => readonly (readonly NftChange[])[]>> = {
  'a new chain with its rules one transaction before what leads to it': (round) => inSteps(renewed(round)),
  'an element that gets another chain, while both stand': (round) => [[gone(), goes(`drop${round & 1}`)]],
  'a chain whose rules are replaced': () => [
    [{ ...at, change: 'flush chain', chain: 'drop0' }, ...rules('drop0', DROP_ALL)],
  ],
  'a base chain whose rules are replaced': () => [
    [
      { ...at, change: 'flush chain', chain: 'forward' },
      ...rules('forward', [...OTHERS, ruleOf([{ kind: 'vmap', fields: ['ip daddr'], map: 'closed' }])]),
    ],
  ],
  'a set that is emptied and filled again': (round) => [
    round === 0
      ? [
          { ...at, change: 'add elements', set, elements: [own()] },
          { ...at, change: 'flush chain', chain: 'forward' },
          ...rules('forward', [...OTHERS, ruleOf([inSet(['ip daddr'], set.name), COUNTER, DROP])]),
        ]
      : [
          { ...at, change: 'flush elements', set },
          { ...at, change: 'add elements', set, elements: [own()] },
        ],
  ],
};

for (const [what, change] of Object.entries(KEEP_CLOSED))
  test(`${what}: nothing gets in`, async (t) => {
    closed();
    const counted = await race.run({
      forMs: TRY_MS,
      change: (round) => {
        for (const step of change(round)) ruleset.apply(step);
      },
    });
    t.diagnostic(told(counted));
    assert.equal(counted.gotIn, 0, told(counted));
    assert.ok(counted.sent > 0);
  });

/** Rewrites that follow each other; each is another list of pods, namespaces, ways and addresses than the one before. */
const REWRITES = 200;

/** Whoever floods is a pod of another node that has no egress address here: it must not leave by this node. */
function egress(round: number): EgressDesired {
  const slots = Array.from(
    { length: round % 4 },
    (_, n): Slot => ({
      number: n + 1,
      family: 4,
      node: `node${n + 2}`,
      gateway: parseIp(`192.0.2.${n + 2}`),
      oif: 1,
      onlink: true,
    }),
  );
  const fates: readonly Fate[] = [
    { kind: 'closed', address: undefined, why: 'nobody holds it' },
    { kind: 'here', address: parseIp(`203.0.113.${1 + (round % 3)}`) },
    ...slots.map(
      ({ node, number }): Fate => ({ kind: 'via', address: parseIp('203.0.113.9'), node, slot: number }),
    ),
  ];
  const local = Array.from({ length: 5 + (round % 7) }, (_, n): EgressPodFate => {
    const address = parseIp(`10.244.1.${10 + n}`);
    const namespace = `ns${(n + round) % 3}`;
    return {
      pod: { name: `${namespace}/p${n}`, namespace, addresses: [address] },
      address,
      fate: fates[(n + round) % fates.length]!,
    };
  });
  return {
    slots,
    states: [],
    local,
    remote: [],
    elected: round % 2 ? [parseIp('203.0.113.1')] : [],
    cluster: [parseCidr('198.18.0.0/15')],
    own: [parseCidr('10.244.1.0/24')],
    nodeAddresses: [parseIp('192.0.2.1')],
    active: true,
  };
}

test('a part that is rewritten without a pause lets nothing through and forgets no count', async (t) => {
  if (ruleset.table(at) !== 'absent') ruleset.apply([{ ...at, change: 'delete table' }]);
  using guard = new NftGuard({ netns: race.router });
  const dropped = () => {
    const rules = ruleset.rules({ family: 'ip', table: 'portolan' });
    return rules.find(({ comment }) => comment === DROPS.stranger)!.packets!;
  };
  guard.ensure(egressPart(4, egress(0)));
  let before = 0;
  const counted = await race.run({
    forMs: 60_000,
    until: ({ rounds }) => rounds >= REWRITES,
    change: (round) => {
      assert.ok(guard.ensure(egressPart(4, egress(round + 1))));
      const now = dropped();
      assert.ok(now >= before, `${now} dropped, and ${before} before`);
      before = now;
    },
  });
  t.diagnostic(told(counted));
  assert.equal(counted.gotIn, 0, told(counted));
  assert.ok(counted.rounds >= REWRITES);
  assert.ok(dropped() >= counted.sent, `${dropped()} counted of ${counted.sent}`);
});

test('a pod whose egress address goes is never seen with another one', async (t) => {
  if (ruleset.table(at) !== 'absent') ruleset.apply([{ ...at, change: 'delete table' }]);
  const egressAddress = '203.0.113.1';
  const source = parseIp('198.18.0.9');
  // Others' rules between the hooks that let packets by and translate them: a commit is likelier to come in between.
  ruleset.apply([
    { ...at, change: 'add table' },
    { ...at, change: 'add chain', chain: 'slow', hook: { ...hook, priority: 10 } },
    ...rules('slow', [...OTHERS, ...OTHERS, ...OTHERS]),
  ]);
  const receiver = NftRuleset.open({ netns: race.receiver });
  const right = ruleOf([equals('ip saddr', parseIp(egressAddress)), RETURN]);
  receiver.apply([
    { ...at, change: 'add table' },
    { ...at, change: 'add chain', chain: 'seen', hook: { ...hook, hook: 'prerouting' } },
    ...rules('seen', [right, ruleOf([equals('udp dport', 9000), COUNTER], 'another source')]),
  ]);
  const remote: EgressPodFate = {
    pod: { name: 'a/p', namespace: 'a', addresses: [source] },
    address: source,
    fate: { kind: 'here', address: parseIp(egressAddress) },
  };
  const desired = (here: boolean): EgressDesired => ({
    ...egress(0),
    local: [],
    elected: [],
    remote: here ? [remote] : [],
  });
  using guard = new NftGuard({ netns: race.router });
  const change = (round: number) => {
    const [before, now] = [desired(round % 2 === 1), desired(round % 2 === 0)];
    for (const part of egressSteps(4, before, now)) guard.ensure(part);
  };
  guard.ensure(egressPart(4, desired(false)));
  try {
    const counted = await race.run({ forMs: 2000, rate: 10_000, source: String(source), change });
    const other = receiver.rules(at).find(({ comment }) => comment === 'another source')!.packets;
    t.diagnostic(`${told(counted)}, ${other} with another source`);
    assert.ok(counted.gotIn > 0);
    assert.equal(other, 0);
  } finally {
    receiver.close();
  }
});
