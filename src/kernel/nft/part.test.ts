import assert from 'node:assert/strict';
import test from 'node:test';
import { parseIp } from '../../addr/index.ts';
import { changeText } from './change.ts';
import { type NftPart, type NftPartFound, partChanges } from './part.ts';
import { COUNTER, DROP, equals, inSet, jumpTo, type NftRule, RETURN, ruleOf } from './rule.ts';
import { ruleChanges } from './rule-changes.ts';
import { ruleSeal } from './seal.ts';
import { targetsOf } from './statements.ts';

const at = { family: 'ip', table: 'portolan' } as const;
const hook = { type: 'filter', hook: 'input', priority: 0, policy: 'accept' } as const;
const web = ruleOf([equals('tcp dport', 80), COUNTER, RETURN], 'web');
const peers = ruleOf([inSet(['ip saddr'], 'a_peers'), RETURN]);
const deeper = ruleOf([jumpTo('a_deeper')]);
const rest = ruleOf([COUNTER, DROP], 'all others');
const part: NftPart = {
  ...at,
  prefix: 'a_',
  sets: [
    { name: 'a_peers', map: false, key: 'ipv4_addr', elements: [{ key: [parseIp('192.0.2.1')] }] },
    {
      name: 'a_verdicts',
      map: true,
      key: 'ipv4_addr',
      elements: [{ key: [parseIp('192.0.2.3')], data: { verdict: 'goto', chain: 'a_deeper' } }],
    },
  ],
  chains: [
    { name: 'a_deeper', rules: [rest] },
    { name: 'a_input', hook, rules: [web, peers, deeper] },
  ],
};
const plain = { interval: false, dynamic: false, data: undefined, timeoutMs: undefined };
const standing: NftPartFound = {
  sets: part.sets.map(({ name, map, key, elements }) => ({ ...plain, name, map, key, elements })),
  chains: part.chains.map(({ name, hook: where, rules }, index) => ({
    name,
    ...(where ? { hook: where } : {}),
    rules: rules.map((rule, place) => ({
      handle: BigInt(10 * (index + 1) + place),
      seal: ruleSeal(rule),
      leadsTo: targetsOf(rule),
    })),
  })),
};

function texts(wanted: NftPart, found: NftPartFound): string[] {
  return partChanges(wanted, found).map(changeText);
}

test('what stands as it is wanted is left alone', () => {
  assert.deepEqual(texts(part, standing), []);
  assert.deepEqual(texts({ ...part, sets: [], chains: [] }, { sets: [], chains: [] }), []);
});

test('a verdict that somebody edited is put right, and nothing else is touched', () => {
  const edited: NftPartFound = {
    ...standing,
    sets: standing.sets.map((set) => ({
      ...set,
      elements: set.elements.map(({ key, data }) => ({
        key,
        ...(data ? { data: { verdict: 'accept' } } : {}),
      })),
    })),
  };
  assert.deepEqual(texts(part, edited), [
    'add table ip portolan',
    'delete element ip portolan a_verdicts { 192.0.2.3 }',
    'add element ip portolan a_verdicts { 192.0.2.3 : goto a_deeper }',
  ]);
});

test('rules that are the same stay where others come and go', () => {
  const first = ruleOf([equals('tcp dport', 22), RETURN]);
  const wanted = {
    ...part,
    chains: part.chains.map((chain) =>
      chain.hook ? { ...chain, rules: [first, web, deeper, rest] } : chain,
    ),
  };
  assert.deepEqual(texts(wanted, standing), [
    'add table ip portolan',
    'delete rule ip portolan a_input handle 21',
    'insert rule ip portolan a_input handle 20 tcp dport 22 return',
    'add rule ip portolan a_input counter drop comment "all others"',
  ]);
});

test('a chain at another hook and a set of another shape are made anew, with the rules that lead there', () => {
  const found: NftPartFound = {
    sets: standing.sets.map((set) => (set.map ? set : { ...set, key: 'ipv6_addr' })),
    chains: standing.chains.map((chain) =>
      chain.hook ? { ...chain, hook: { ...hook, priority: 5 } } : chain,
    ),
  };
  assert.deepEqual(texts(part, found), [
    'add table ip portolan',
    'flush chain ip portolan a_input',
    'delete set ip portolan a_peers',
    'delete chain ip portolan a_input',
    'add set ip portolan a_peers { type ipv4_addr; }',
    'add chain ip portolan a_input { type filter hook input priority 0; policy accept; }',
    'add rule ip portolan a_input tcp dport 80 counter return comment "web"',
    'add rule ip portolan a_input ip saddr @a_peers return',
    'add rule ip portolan a_input jump a_deeper',
    'add element ip portolan a_peers { 192.0.2.1 }',
  ]);
});

test('another policy of a chain is put right in place', () => {
  const found: NftPartFound = {
    ...standing,
    chains: standing.chains.map((chain) =>
      chain.hook ? { ...chain, hook: { ...hook, policy: 'drop' } } : chain,
    ),
  };
  assert.deepEqual(texts(part, found), [
    'add table ip portolan',
    'add chain ip portolan a_input { type filter hook input priority 0; policy accept; }',
  ]);
});

test('a rule that leads to a chain under another name is written anew, whatever its seal says', () => {
  const swapped = standing.chains.map((chain) =>
    chain.hook
      ? {
          ...chain,
          rules: chain.rules.map((rule) => ({ ...rule, leadsTo: rule.leadsTo.map(() => 'a_other') })),
        }
      : chain,
  );
  assert.deepEqual(texts(part, { ...standing, chains: swapped }), [
    'add table ip portolan',
    'delete rule ip portolan a_input handle 22',
    'add rule ip portolan a_input jump a_deeper',
  ]);
});

test('ruleChanges() makes any list of rules of any other, keeping what it can', () => {
  const all = Array.from({ length: 6 }, (_, port) => ruleOf([equals('tcp dport', port + 1), RETURN]));
  let seed = 7;
  const random = (below: number) => {
    seed = (seed * 1_103_515_245 + 12_345) & 0x7fff_ffff;
    return (seed >> 8) % below;
  };
  const some = () => Array.from({ length: random(8) }, () => all[random(all.length)]!);
  for (let round = 0; round < 500; round++) {
    const [from, to] = [some(), some()];
    const found = from.map((rule, place) => ({
      handle: BigInt(place + 1),
      seal: ruleSeal(rule),
      leadsTo: targetsOf(rule),
    }));
    const { deletes, adds } = ruleChanges({ ...at, chain: 'c' }, found, to, () => true);
    const rules: { handle: bigint; rule: NftRule }[] = from.map((rule, place) => ({
      handle: BigInt(place + 1),
      rule,
    }));
    for (const change of [...deletes, ...adds]) {
      const place = (handle: bigint) => rules.findIndex((each) => each.handle === handle);
      if (change.change === 'delete rule') rules.splice(place(change.handle), 1);
      else if (change.change === 'add rule')
        rules.splice(change.before === undefined ? rules.length : place(change.before), 0, {
          handle: 100n,
          rule: change.rule,
        });
    }
    assert.deepEqual(
      rules.map(({ rule }) => rule),
      to,
    );
    const sorted = (list: readonly NftRule[]) => list.map(ruleSeal).sort();
    if (
      String(sorted(from)) === String(sorted(to)) &&
      String(from.map(ruleSeal)) === String(to.map(ruleSeal))
    )
      assert.equal(deletes.length + adds.length, 0);
  }
});
