/** Rules sent as netlink messages: nft(8) lists them as it lists those that it was given as text. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test, { after, before } from 'node:test';
import { type Cidr, type Family, parseCidr, parseIp } from '../../src/addr/index.ts';
import { createNetns, deleteNetns, type Netns } from '../../src/kernel/netns/index.ts';
import {
  ACCEPT,
  among,
  COUNTER,
  changesText,
  ctState,
  DROP,
  equals,
  goTo,
  inCidrs,
  inSet,
  jumpTo,
  masqueradeRules,
  type NftChange,
  type NftRule,
  NftRuleset,
  type NftStatement,
  RETURN,
  ruleOf,
  ruleText,
  sourceNatRules,
} from '../../src/kernel/nft/index.ts';
import { baseChains } from '../../src/policy/rules.ts';

const NAME = `pt-nr-${process.pid}`;
let netns: Netns;
before(() => {
  netns = createNetns(NAME);
});
after(() => {
  netns?.close();
  deleteNetns(NAME);
});

const nft = (args: readonly string[], input = '') =>
  execFileSync('ip', ['netns', 'exec', NAME, 'nft', ...args], {
    encoding: 'utf8',
    input,
    stdio: ['pipe', 'pipe', 'pipe'],
  });

/** The listing of a table without what has to differ. */
function listed(family: string, table: string): unknown[] {
  const { nftables } = JSON.parse(nft(['-j', 'list', 'table', family, table])) as { nftables: object[] };
  return nftables
    .filter((object) => !('metainfo' in object))
    .map((object) =>
      JSON.parse(JSON.stringify(object), (key, value: unknown) => {
        if (key === 'handle') return undefined;
        if ((key === 'table' || key === 'name') && value === table) return 'TABLE';
        return (key === 'elem' || key === 'set') && Array.isArray(value)
          ? value.map((each) => JSON.stringify(each)).sort()
          : value;
      }),
    );
}

/** Base chain, ordinary chains, sets and maps that the rules below name. */
function ground(family: Family, table: string): NftChange[] {
  const at = { family: family === 4 ? 'ip' : 'ip6', table } as const;
  const address = family === 4 ? 'ipv4_addr' : 'ipv6_addr';
  const [one, two] = (family === 4 ? ['10.0.0.1', '10.0.0.7'] : ['fd00::1', 'fd00::7']).map(parseIp);
  const set = { name: 'g', map: false, key: address, comment: 'pods (app = web)' };
  const ports = { name: 'p', map: false, key: `${address} . inet_proto . inet_service` };
  const verdicts = { name: 'm', map: true, key: address };
  const blocks = { name: 'blocks', map: false, key: address, interval: true };
  return [
    { ...at, change: 'add table' },
    { ...at, change: 'add set', set },
    { ...at, change: 'add set', set: ports },
    { ...at, change: 'add set', set: verdicts },
    { ...at, change: 'add set', set: blocks },
    { ...at, change: 'add chain', chain: 'to/x.y' },
    {
      ...at,
      change: 'add chain',
      chain: 'base',
      hook: { type: 'filter', hook: 'forward', priority: -5, policy: 'drop' },
    },
    {
      ...at,
      change: 'add chain',
      chain: 'nat',
      hook: { type: 'nat', hook: 'postrouting', priority: 100, policy: 'accept' },
    },
    ...masqueradeRules([], 'pods to the outside').map(
      (rule): NftChange => ({ ...at, change: 'add rule', chain: 'nat', rule }),
    ),
    { ...at, change: 'add rule', chain: 'nat', rule: ruleOf([{ kind: 'keep source', family }]) },
    ...sourceNatRules(two!, 'egress').map(
      (rule): NftChange => ({ ...at, change: 'add rule', chain: 'nat', rule }),
    ),
    { ...at, change: 'add elements', set, elements: [{ key: [one!], comment: 'pod x/a' }, { key: [two!] }] },
    { ...at, change: 'add elements', set: ports, elements: [{ key: [one!, 17, 53] }] },
    { ...at, change: 'add elements', set: blocks, elements: [{ key: [one!], keyEnd: [two!] }] },
    {
      ...at,
      change: 'add elements',
      set: verdicts,
      elements: [
        { key: [one!], data: { verdict: 'goto', chain: 'to/x.y' }, comment: 'pod x/a' },
        { key: [two!], data: { verdict: 'drop' } },
      ],
    },
  ];
}

function shapes(family: Family): NftRule[] {
  const ip = family === 4 ? 'ip' : 'ip6';
  const address = (n: number) => parseIp(family === 4 ? `10.0.${n}.0` : `fd00:${n}::`);
  const [wide, odd] = (family === 4 ? ['10.64.0.0/10', '224.0.0.0/4'] : ['fd00:10::/44', 'ff00::/8']).map(
    parseCidr,
  ) as [Cidr, Cidr];
  const far = parseIp(family === 4 ? '255.255.255.255' : 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff');
  const statements: NftStatement[][] = [
    [ctState('established', 'related'), ACCEPT],
    [ctState('invalid'), DROP],
    [inSet([`${ip} saddr`], 'g'), COUNTER, ACCEPT],
    [{ kind: 'lookup', fields: [`${ip} daddr`], set: 'blocks', not: true }, RETURN],
    [inSet([`${ip} daddr`, 'meta l4proto', 'th dport'], 'p'), COUNTER, goTo('to/x.y')],
    [{ kind: 'vmap', fields: [`${ip} saddr`], map: 'm' }],
    [jumpTo('to/x.y')],
    [equals(`${ip} saddr`, address(1)), COUNTER, DROP],
    [among(`${ip} daddr`, [{ key: [address(1)], keyEnd: [address(9)] }]), ACCEPT],
    [among(`${ip} saddr`, [{ key: [address(0)] }, { key: [address(3)], keyEnd: [address(4)] }]), ACCEPT],
    [among(`${ip} saddr`, [{ key: [address(0)] }, { key: [address(3)], keyEnd: [far] }]), ACCEPT],
    [among(`${ip} saddr`, [{ key: [address(5)] }, { key: [address(3)] }]), ACCEPT],
    [
      {
        kind: 'among',
        fields: [`${ip} saddr`],
        values: [{ key: [address(2)], keyEnd: [address(3)] }],
        not: true,
      },
      DROP,
    ],
    [{ kind: 'among', fields: ['meta l4proto'], values: [{ key: [6] }], not: true }, DROP],
    [equals('meta l4proto', 17), ACCEPT],
    [equals('tcp dport', 80), ACCEPT],
    [among('udp dport', [{ key: [53], keyEnd: [99] }]), ACCEPT],
    [among('sctp dport', [{ key: [9], keyEnd: [9] }]), ACCEPT],
    [among('tcp dport', [{ key: [22] }, { key: [80] }, { key: [8000], keyEnd: [8999] }]), ACCEPT],
    [
      inSet([`${ip} saddr`], 'g'),
      {
        kind: 'among',
        fields: ['meta l4proto', 'th dport'],
        values: [{ key: [6, 80] }, { key: [17, 53], keyEnd: [17, 99] }],
      },
      COUNTER,
      ACCEPT,
    ],
    [
      { kind: 'among', fields: ['meta l4proto', 'th dport'], values: [{ key: [6, 80] }, { key: [132, 9] }] },
      ACCEPT,
    ],
    [{ kind: 'flags', mask: ['fin', 'syn', 'rst', 'ack'], flags: ['syn'], not: true }, DROP],
    [{ kind: 'flags', mask: ['syn', 'ack'], flags: ['syn', 'ack'] }, DROP],
    [{ kind: 'mark', field: 'meta mark', mask: 0x4000, value: 0x4000 }, ACCEPT],
    [{ kind: 'mark', field: 'ct mark', mask: 0xff, value: 1, not: true }, ACCEPT],
    [equals('meta mark', 7), ACCEPT],
    [{ kind: 'set mark', mask: 0x7f00_0000, value: 0x300_0000 }],
    [{ kind: 'direction', direction: 'reply' }, RETURN],
    [{ kind: 'direction', direction: 'original' }, ACCEPT],
    [{ kind: 'nexthop', address: address(1), not: true }, COUNTER, DROP],
    [{ kind: 'nexthop', address: address(2) }, ACCEPT],
    [inCidrs(`${ip} saddr`, [wide]), ACCEPT],
    [inCidrs(`${ip} daddr`, [wide, odd, wide], true), ACCEPT],
    [inCidrs(`${ip} daddr`, [odd], true), DROP],
    [equals('iifname', 'eth0'), ACCEPT],
    [among('oifname', [{ key: ['eth0'] }, { key: ['wlan0'] }]), ACCEPT],
    [equals('fib daddr type', 2), ACCEPT],
    [{ kind: 'limit', rate: 10, per: 'second', burst: 5 }, ACCEPT],
    [{ kind: 'limit', rate: 30, per: 'minute', burst: 7 }, COUNTER, DROP],
    [{ kind: 'log', prefix: 'np x/y deny', group: 5 }],
    [{ kind: 'limit', rate: 10, per: 'second', burst: 10 }, { kind: 'trace' }],
    [{ kind: 'log', prefix: 'np x/y deny', group: 5, snaplen: 128 }, DROP],
    [equals('udp sport', 67), equals('udp dport', 68), ACCEPT],
    [equals('tcp dport', 22), { kind: 'reject', with: 'tcp reset' }],
    [{ kind: 'reject', with: family === 4 ? 'icmp' : 'icmpv6' }],
    [among(family === 4 ? 'icmp type' : 'icmpv6 type', [{ key: [family === 4 ? 8 : 128] }]), ACCEPT],
  ];
  const own = [...baseChains(family, true).values()].flatMap(({ rules }) => rules);
  if (family === 6)
    statements.push([
      among(
        'icmpv6 type',
        [130, 131, 132, 143].map((type) => ({ key: [type] })),
      ),
      ACCEPT,
    ]);
  const known = (rule: NftRule) => !/policy_/.test(ruleText(rule));
  return [
    ...statements.map((each, at) => ruleOf(each, at % 2 ? `np x/y ingress[${at}]` : undefined)),
    ruleOf([COUNTER, DROP], 'c'.repeat(120)),
    ...own.filter(known),
  ];
}

for (const family of [4, 6] as const)
  test(`every shape of rule, set and chain is listed as nft's own, IPv${family}`, () => {
    using ruleset = NftRuleset.open({ netns });
    const ip = family === 4 ? 'ip' : 'ip6';
    const changes = (table: string): NftChange[] => [
      ...ground(family, table),
      ...shapes(family).map(
        (rule): NftChange => ({ change: 'add rule', family: ip, table, chain: 'base', rule }),
      ),
    ];
    nft(['-f', '-'], changesText(changes('a')));
    ruleset.apply(changes('b'));
    const [text, netlink] = [listed(ip, 'a'), listed(ip, 'b')];
    assert.ok(text.length > 45, `${text.length} objects`);
    for (const [at, object] of text.entries()) assert.deepEqual(netlink[at], object);
    assert.equal(netlink.length, text.length);
    // And what nft prints of ours, nft takes again.
    const printed = nft(['list', 'table', ip, 'b']);
    nft(['delete', 'table', ip, 'b']);
    nft(['-f', '-'], printed);
    assert.deepEqual(listed(ip, 'b'), text);
    const chains = ruleset.chains({ family: ip, table: 'b' });
    assert.deepEqual(chains.map(({ name, hook }) => [name, hook?.priority, hook?.policy]).sort(), [
      ['base', -5, 'drop'],
      ['nat', 100, 'accept'],
      ['to/x.y', undefined, undefined],
    ]);
    assert.deepEqual(ruleset.chains({ family: ip, table: 'nothing' }), []);
    assert.equal(ruleset.table({ family: ip, table: 'nothing' }), 'absent');
  });

test('a transaction that the kernel refuses does nothing and names the change', () => {
  using ruleset = NftRuleset.open({ netns });
  const at = { family: 'ip', table: 'c' } as const;
  ruleset.apply([
    { ...at, change: 'add table' },
    { ...at, change: 'add chain', chain: 'here' },
  ]);
  const before = nft(['list', 'table', 'ip', 'c']);
  const rule = (target: string): NftChange => ({
    ...at,
    change: 'add rule',
    chain: 'here',
    rule: ruleOf([jumpTo(target)]),
  });
  assert.throws(
    () => ruleset.apply([{ ...at, change: 'add chain', chain: 'more' }, rule('more'), rule('missing')]),
    { code: 'NFT_CHANGE_REFUSED', message: /refuses "add rule ip c here jump missing"/ },
  );
  const long = ruleOf([DROP], 'c'.repeat(128));
  assert.throws(() => ruleset.apply([{ ...at, change: 'add rule', chain: 'here', rule: long }]), {
    code: 'NFT_VALUE_INVALID',
    message: /longer than 127 bytes/,
  });
  assert.throws(() => ruleset.apply([{ ...at, change: 'delete chain', chain: 'missing' }]), {
    code: 'NFT_CHANGE_REFUSED',
  });
  assert.throws(() => ruleset.apply([{ ...at, change: 'add chain', chain: 'late' }], { generation: 1 }), {
    code: 'NFT_GENERATION_CHANGED',
  });
  assert.equal(nft(['list', 'table', 'ip', 'c']), before);
});

test('a rule may have more values than a message takes, of all kinds of keys', () => {
  const many = Array.from({ length: 7_000 }, (_, at) => at);
  const network = (at: number) => parseCidr(`10.${at >> 8}.${at & 255}.0/25`);
  const six = (at: number) => parseIp(`fd00::${at.toString(16)}:1`);
  const rules: [NftRule, number][] = [
    [ruleOf([inCidrs('ip daddr', many.map(network)), DROP], 'networks'), many.length],
    [
      ruleOf(
        [
          among(
            'ip6 daddr',
            many.map((at) => ({ key: [six(at)] })),
          ),
          DROP,
        ],
        'addresses',
      ),
      many.length,
    ],
    [
      ruleOf(
        [
          among(
            'tcp dport',
            many.map((at) => ({ key: [2 * at] })),
          ),
          ACCEPT,
        ],
        'ports',
      ),
      many.length,
    ],
  ];
  using ruleset = NftRuleset.open({ netns });
  const table = { family: 'inet', table: 'values' } as const;
  ruleset.apply([
    { ...table, change: 'add table' },
    { ...table, change: 'add chain', chain: 'c' },
    ...rules.map(([rule]): NftChange => ({ ...table, change: 'add rule', chain: 'c', rule })),
  ]);
  const { nftables } = JSON.parse(nft(['-j', 'list', 'table', 'inet', 'values'])) as {
    nftables: { rule?: { comment: string; expr: { match?: { right: { set: unknown[] } } }[] } }[];
  };
  const found = nftables.flatMap(({ rule }) =>
    rule ? [[rule.comment, rule.expr.find(({ match }) => match)?.match?.right.set.length]] : [],
  );
  assert.deepEqual(
    found,
    rules.map(([{ comment }, count]) => [comment, count]),
  );
  ruleset.apply([{ ...table, change: 'delete table' }]);
});

test('a large transaction goes as one: thousands of rules with sets of their own, tens of thousands of elements', () => {
  using ruleset = NftRuleset.open({ netns });
  const at = { family: 'ip6', table: 'd' } as const;
  const first = parseIp('fd00:1::');
  const set = { name: 'many', map: false, key: 'ipv6_addr' };
  const changes: NftChange[] = [
    { ...at, change: 'add table' },
    { ...at, change: 'add set', set },
    {
      ...at,
      change: 'add elements',
      set,
      elements: Array.from({ length: 20_000 }, (_, n) => ({ key: [first.plus(n)], comment: `pod x/p${n}` })),
    },
  ];
  for (let chain = 0; chain < 500; chain++) {
    changes.push({ ...at, change: 'add chain', chain: `c${chain}` });
    for (let rule = 0; rule < 4; rule++)
      changes.push({
        ...at,
        change: 'add rule',
        chain: `c${chain}`,
        rule: ruleOf([among('tcp dport', [{ key: [80] }, { key: [1000 + rule] }]), ACCEPT], `r${rule}`),
      });
  }
  ruleset.apply(changes);
  const text = nft(['list', 'table', 'ip6', 'd']);
  assert.equal((text.match(/tcp dport \{ 80, 100\d \} accept comment/g) ?? []).length, 2000);
  assert.equal((text.match(/pod x\/p\d+/g) ?? []).length, 20_000);
});
