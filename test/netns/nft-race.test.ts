/**
 * A packet that is in a base chain while a transaction is committed has the rules of before and finds elements of
 * after (docs/decisions/0030). What must hold while rules change is tried here against a flood of packets to a pod that
 * is closed throughout: none gets in.
 */
import assert from 'node:assert/strict';
import { availableParallelism } from 'node:os';
import test, { after, before } from 'node:test';
import {
  COUNTER,
  DROP,
  equals,
  inSet,
  inSteps,
  type NftChange,
  type NftElement,
  type NftRule,
  NftRuleset,
  ruleOf,
} from '../../src/kernel/nft/index.ts';
import { NftRace } from '../lib/nft-race.ts';

/** Each way of changing is tried so long; the wrong one was seen to let a packet in within 0.1 s. */
const TRY_MS = 1000;
/** Long enough for the wrong way on any machine. */
const CONTROL_MS = 20_000;

const at = { family: 'ip', table: 'race' } as const;
const hook = { type: 'filter', hook: 'forward', priority: 0, policy: 'accept' } as const;
const map = { name: 'closed', map: true, key: 'ipv4_addr' };
const set = { name: 'closed_set', map: false, key: 'ipv4_addr' };
const DROPS = [ruleOf([COUNTER, DROP])];
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
      ...rules(chain, DROPS),
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
    ...rules(`new${round}`, DROPS),
    goes(`new${round}`),
    ...(round > 0 ? removed(`new${round - 1}`) : []),
  ];
}

const told = ({ gotIn, sent, rounds }: Awaited<ReturnType<NftRace['run']>>) =>
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
    [{ ...at, change: 'flush chain', chain: 'drop0' }, ...rules('drop0', DROPS)],
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
