/** Parts of tables that are kept: whoever deletes or edits them is found out, and what is theirs stays. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import test from 'node:test';
import { promisify } from 'node:util';
import { parseIp } from '../../src/addr/index.ts';
import { createNetns, deleteNetns } from '../../src/kernel/netns/index.ts';
import {
  COUNTER,
  equals,
  inSet,
  jumpTo,
  NftGuard,
  type NftPart,
  NftRuleset,
  RETURN,
  ruleOf,
} from '../../src/kernel/nft/index.ts';

const run = promisify(execFile);
const name = `pt-guard-${process.pid}`;

const nft = (...args: string[]) => run('nsenter', [`--net=/run/netns/${name}`, 'nft', ...args]);

/** A table as nft(8) says. */
async function listed(table = 'portolan'): Promise<string> {
  const { stdout } = await nft('-s', 'list', 'table', 'ip', table).catch(() => ({ stdout: '' }));
  return stdout;
}

const set = { name: 'one_set', map: false, key: 'ipv4_addr', comment: 'of the first owner' };
const part: NftPart = {
  family: 'ip',
  table: 'portolan',
  prefix: 'one_',
  sets: [
    { ...set, elements: [{ key: [parseIp('192.0.2.1')] }] },
    {
      name: 'one_map',
      map: true,
      key: 'ipv4_addr',
      elements: [
        { key: [parseIp('192.0.2.3')], data: { verdict: 'goto', chain: 'one_more' }, comment: 'pod' },
      ],
    },
  ],
  chains: [
    { name: 'one_more', rules: [ruleOf([COUNTER], 'more')] },
    {
      name: 'one_chain',
      hook: { type: 'filter', hook: 'input', priority: 0, policy: 'accept' },
      rules: [
        ruleOf([inSet(['ip saddr'], 'one_set'), COUNTER], 'first: of the set'),
        ruleOf([equals('tcp dport', 80), RETURN], 'first: web'),
        ruleOf([equals('tcp dport', 81), jumpTo('one_more')]),
      ],
    },
  ],
};
const other: NftPart = {
  ...part,
  prefix: 'two_',
  sets: [],
  chains: [{ name: 'two_chain', rules: [ruleOf([COUNTER], 'second: of another owner')] }],
};

/** Each a list of transactions. */
const EDITS: Readonly<Record<string, readonly string[]>> = {
  'the table is deleted': ['delete table ip portolan'],
  'the table is made dormant': ['add table ip portolan { flags dormant; }'],
  'a rule is put before ours': ['insert rule ip portolan one_chain drop'],
  'a rule is added behind ours': ['add rule ip portolan one_chain drop'],
  'all rules are deleted': ['flush chain ip portolan one_chain'],
  'the policy is another': ['chain ip portolan one_chain { policy drop; }'],
  'an element is added': ['add element ip portolan one_set { 192.0.2.9 }'],
  'an element is deleted': ['delete element ip portolan one_set { 192.0.2.1 }'],
  'a chain of our name is added': ['add chain ip portolan one_third'],
  'another chain loses its rules': ['flush chain ip portolan one_more'],
  'a verdict is another': [
    'delete element ip portolan one_map { 192.0.2.3 }; add element ip portolan one_map { 192.0.2.3 : accept }',
  ],
  'a rule is written again by hand': [
    'flush chain ip portolan one_more; add rule ip portolan one_more counter comment "more"',
  ],
  'a chain has the name of another': [
    'add chain ip portolan one_third',
    'rename chain ip portolan one_more one_fourth',
    'rename chain ip portolan one_third one_more',
  ],
  'a set has another shape': [
    'flush chain ip portolan one_chain; delete set ip portolan one_set; add set ip portolan one_set { type ipv4_addr; timeout 5s; }',
  ],
  'a chain hangs elsewhere': [
    'flush chain ip portolan one_chain; delete chain ip portolan one_chain; add chain ip portolan one_chain { type filter hook output priority 5; }',
  ],
};

test('a part is put right after each kind of edit, and left alone after none', async () => {
  using netns = createNetns(name);
  using guard = new NftGuard({ netns });
  try {
    assert.equal(guard.ensure(part), true);
    assert.equal(guard.ensure(other), true);
    const want = await listed();
    assert.match(want, /ip saddr @one_set counter comment "first: of the set"/);
    for (const [what, commands] of Object.entries(EDITS)) {
      for (const command of commands) await nft(command);
      if (!what.includes('by hand')) assert.notEqual(await listed(), want, what);
      assert.equal(guard.ensure(part), true, what);
      guard.ensure(other);
      // The order of chains is that of their making.
      const lines = (text: string) => text.split('\n').sort().join('\n');
      assert.equal(lines(await listed()), lines(want), what);
    }
    for (const command of EDITS['a chain has the name of another']!) await nft(command);
    using afterRestart = new NftGuard({ netns });
    assert.equal(afterRestart.ensure(part), true);
    const lines = (text: string) => text.split('\n').sort().join('\n');
    assert.equal(lines(await listed()), lines(want));
    guard.ensure(part);
    await nft('add', 'table', 'ip', 'somebody');
    assert.equal(guard.ensure(part), false);
    assert.equal(guard.ensure(other), false);
    assert.equal(guard.remove(part), true);
    assert.doesNotMatch(await listed(), /one_/);
    assert.match(await listed(), /two_chain/);
    assert.equal(guard.remove(other), true);
    assert.equal(await listed(), '');
    assert.equal(guard.remove(other), false);
    assert.match(await listed('somebody'), /table ip somebody/);
  } finally {
    deleteNetns(name);
  }
});

test('a part that somebody deleted while it was written is not taken for how it should be', async () => {
  // Two owners of one table wrote at once while a person deleted it: the guard read the table back after the
  // deletion, kept "nothing" as the picture to compare with, and never made the part again.
  using netns = createNetns(name);
  using guard = new NftGuard({ netns });
  try {
    for (let round = 0; round < 5; round++) {
      let over = false;
      const deleting = (async () => {
        for (let times = 0; times < 8; times++)
          await nft('delete', 'table', 'ip', 'portolan').catch(() => {});
        over = true;
      })();
      while (!over) {
        guard.ensure(part);
        await new Promise((resolve) => setImmediate(resolve));
      }
      await deleting;
      guard.ensure(part);
      assert.match(await listed(), /chain one_chain/, `round ${round}`);
    }
    assert.equal(guard.ensure(part), false);
  } finally {
    deleteNetns(name);
  }
});

test('a part that differs in elements only keeps its rules and what they counted', async () => {
  const netns = createNetns(`${name}-elements`);
  const inside = (...args: string[]) => run('nsenter', [`--net=${netns.path}`, ...args]);
  try {
    using guard = new NftGuard({ netns });
    const of = (...addresses: string[]): NftPart => ({
      ...part,
      sets: [{ ...set, elements: addresses.map((address) => ({ key: [parseIp(address)] })) }],
    });
    const rules = async () => (await inside('nft', '-a', 'list', 'table', 'ip', 'portolan')).stdout;
    const handles = (text: string) => [...text.matchAll(/# handle \d+/g)].map(String);
    await inside('ip', 'link', 'set', 'lo', 'up');
    guard.ensure(of('192.0.2.1', '127.0.0.1'));
    const before = await rules();
    await inside('ping', '-c', '1', '-W', '1', '127.0.0.1');
    assert.equal(guard.ensure(of('127.0.0.1', '192.0.2.7')), true);
    const after = await rules();
    assert.match(after, /elements = \{ 127\.0\.0\.1, 192\.0\.2\.7 \}/);
    assert.match(after, /counter packets 2 /);
    assert.deepEqual(handles(after), handles(before));
    assert.equal(guard.ensure(of('127.0.0.1', '192.0.2.7')), false);
    // Somebody edits at the same time: all of it is put right.
    await inside('nft', 'flush', 'chain', 'ip', 'portolan', 'one_chain');
    assert.equal(guard.ensure(of('192.0.2.8')), true);
    const repaired = await rules();
    assert.match(repaired, /elements = \{ 192\.0\.2\.8 \}/);
    assert.match(repaired, /first: web/);
  } finally {
    netns.close();
    deleteNetns(`${name}-elements`);
  }
});

test('a part stays at its hooks, and rules keep their counters where others come and go, also after a restart', async () => {
  const netns = createNetns(`${name}-keep`);
  const inside = (...args: string[]) => run('nsenter', [`--net=${netns.path}`, ...args]);
  const web = (...ports: number[]): NftPart => ({
    ...part,
    chains: part.chains.map((chain) =>
      chain.hook
        ? {
            ...chain,
            rules: [
              ...ports.map((port) => ruleOf([equals('tcp dport', port), RETURN])),
              ruleOf([COUNTER], 'first: all'),
              ...ports.map((port) => ruleOf([equals('udp dport', port), RETURN])),
            ],
          }
        : chain,
    ),
  });
  try {
    await inside('ip', 'link', 'set', 'lo', 'up');
    using ruleset = NftRuleset.open({ netns });
    const seen = () => ({
      chains: ruleset.chains(part).map(({ name, handle }) => `${name} ${handle}`),
      counted: ruleset.rules(part).find(({ comment }) => comment === 'first: all')!,
    });
    {
      using guard = new NftGuard({ netns });
      guard.ensure(web(80, 81));
      const before = seen();
      await inside('ping', '-c', '1', '-W', '1', '127.0.0.1');
      for (const ports of [[], [82], [80, 82, 81], [81, 80]]) {
        assert.equal(guard.ensure(web(...ports)), true);
        const text = await inside('nft', 'list', 'chain', 'ip', 'portolan', 'one_chain');
        const found = [...text.stdout.matchAll(/(tcp|udp) dport (\d+)/g)].map(([, , port]) => Number(port));
        assert.deepEqual(found, [...ports, ...ports]);
      }
      const { chains, counted } = seen();
      assert.deepEqual(chains, before.chains);
      assert.equal(counted.handle, before.counted.handle);
      assert.equal(counted.packets, 2);
    }
    const generation = ruleset.generation();
    using next = new NftGuard({ netns });
    assert.equal(next.ensure(web(81, 80)), false);
    assert.equal(ruleset.generation(), generation);
    assert.equal(seen().counted.packets, 2);
  } finally {
    netns.close();
    deleteNetns(`${name}-keep`);
  }
});
