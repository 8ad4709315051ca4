/** Elements of nftables sets by raw nfnetlink; nft(8) is the oracle. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test, { after, before } from 'node:test';
import { IpAddress, parseIp } from '../../src/addr/index.ts';
import { isNetError, kernelCause } from '../../src/errors/index.ts';
import { createNetns, deleteNetns, type Netns } from '../../src/kernel/netns/index.ts';
import {
  formatKey,
  type NftChange,
  type NftElement,
  NftRuleset,
  type NftSet,
} from '../../src/kernel/nft/index.ts';

const name = `pt-ne-${process.pid}`;
let netns: Netns;
let nft: NftRuleset;

function runNft(args: string[], input = ''): string {
  return execFileSync('ip', ['netns', 'exec', name, 'nft', ...args], {
    input,
    encoding: 'utf8',
    maxBuffer: 64 << 20,
  });
}

before(() => {
  netns = createNetns(name);
  runNft(
    ['-f', '-'],
    `table ip t {
  chain web { }
  chain other { }
  map endpoints { type ipv4_addr . inet_service : ipv4_addr . inet_service; }
  map frontends { type ipv4_addr . inet_proto . inet_service : verdict; }
  set networks { type ipv4_addr; flags interval; }
  set ranges { type ipv4_addr . inet_service; flags interval; }
  set seen { type ipv4_addr; flags timeout; timeout 1h; }
  set links { type ifname; }
  set marks { type mark; }
  set small { type inet_service; size 4; }
}
table ip6 t {
  map endpoints { type ipv6_addr . inet_service : ipv6_addr . inet_service; }
  set macs { type ether_addr; }
}
`,
  );
  nft = NftRuleset.open({ netns });
});

after(() => {
  nft?.close();
  netns?.close();
  deleteNetns(name);
});

const at = (set: NftSet) => ({
  family: set.family,
  table: set.table,
  set: { ...set, map: set.data !== undefined },
});

/** Makes the set hold exactly these elements, in one step. */
function replace(set: NftSet, elements: readonly NftElement[]): void {
  const changes: NftChange[] = [
    { ...at(set), change: 'flush elements' },
    { ...at(set), change: 'add elements', elements },
  ];
  nft.apply(changes);
}

/** The elements as nft prints them, sorted. */
function listed(kind: 'set' | 'map', family: string, set: string): string[] {
  const text = runNft(['list', kind, family, 't', set]).replace(/ expires [0-9a-z]+/g, '');
  const elements = /elements = \{([\s\S]*?)\}\n\t\}/.exec(text)?.[1] ?? '';
  return elements
    .split(',')
    .map((element) => element.trim())
    .filter(Boolean)
    .sort();
}

test('elements of each kind of set appear in nft as meant', () => {
  const v4 = parseIp;
  const cases: [family: 'ip' | 'ip6', kind: 'set' | 'map', set: string, NftElement[], string[]][] = [
    [
      'ip',
      'map',
      'endpoints',
      [{ key: [v4('10.96.0.1'), 80], data: [v4('10.1.1.1'), 8080], comment: 'default/web' }],
      ['10.96.0.1 . 80 comment "default/web" : 10.1.1.1 . 8080'],
    ],
    [
      'ip',
      'map',
      'frontends',
      [
        { key: [v4('10.96.0.1'), 6, 80], data: { verdict: 'goto', chain: 'web' } },
        { key: [v4('10.96.0.1'), 17, 53], data: { verdict: 'drop' } },
      ],
      ['10.96.0.1 . tcp . 80 : goto web', '10.96.0.1 . udp . 53 : drop'],
    ],
    [
      'ip',
      'set',
      'networks',
      [
        { key: [v4('10.0.0.0')], keyEnd: [v4('10.0.0.255')], comment: 'node a' },
        { key: [v4('10.0.1.0')], keyEnd: [v4('10.0.1.9')] },
        { key: [v4('10.9.9.9')] },
        { key: [v4('255.0.0.0')], keyEnd: [v4('255.255.255.255')] },
      ],
      ['10.0.0.0/24 comment "node a"', '10.0.1.0-10.0.1.9', '10.9.9.9', '255.0.0.0/8'],
    ],
    [
      'ip',
      'set',
      'ranges',
      [{ key: [v4('1.2.3.0'), 80], keyEnd: [v4('1.2.3.255'), 90] }, { key: [v4('4.4.4.4'), 1] }],
      ['1.2.3.0/24 . 80-90', '4.4.4.4 . 1'],
    ],
    [
      'ip',
      'set',
      'seen',
      [{ key: [v4('1.1.1.1')], timeoutMs: 90_000 }, { key: [v4('2.2.2.2')] }],
      ['1.1.1.1 timeout 1m30s', '2.2.2.2'],
    ],
    ['ip', 'set', 'links', [{ key: ['po0123456789'] }], ['"po0123456789"']],
    ['ip', 'set', 'marks', [{ key: [0x4000] }], ['0x00004000']],
    [
      'ip6',
      'map',
      'endpoints',
      [{ key: [v4('fd00::1'), 80], data: [v4('fd00:1::2'), 8080] }],
      ['fd00::1 . 80 : fd00:1::2 . 8080'],
    ],
    ['ip6', 'set', 'macs', [{ key: ['02:00:00:00:00:01'] }], ['02:00:00:00:00:01']],
  ];
  for (const [family, kind, set, elements, expected] of cases) {
    const target = nft.set({ family, table: 't' }, set);
    replace(target, elements);
    assert.deepEqual(listed(kind, family, set), expected, set);
    // And what we read is what we wrote.
    assert.deepEqual(nft.elements(target).map(formatKey).sort(), elements.map(formatKey).sort());
    nft.apply([{ ...at(target), change: 'delete elements', elements: [elements[0]!] }]);
    assert.equal(nft.elements(target).length, elements.length - 1, `${set} after a deletion`);
    nft.apply([{ ...at(target), change: 'flush elements' }]);
    assert.deepEqual(listed(kind, family, set), []);
  }
});

test('what nft writes is read with comments, timeouts, intervals and verdicts', () => {
  runNft(
    ['-f', '-'],
    `add element ip t networks { 10.0.0.0/8 comment "pods", 192.168.0.1 }
add element ip t frontends { 10.96.0.7 . tcp . 443 comment "x" : jump other }
add element ip t seen { 9.9.9.9 timeout 30s }
`,
  );
  const networks = nft.elements(nft.set({ family: 'ip', table: 't' }, 'networks'));
  assert.deepEqual(
    networks.map((element) => [formatKey(element), element.comment]),
    [
      ['10.0.0.0-10.255.255.255', 'pods'],
      ['192.168.0.1', undefined],
    ],
  );
  const [frontend] = nft.elements(nft.set({ family: 'ip', table: 't' }, 'frontends'));
  assert.deepEqual([frontend?.data, frontend?.comment], [{ verdict: 'jump', chain: 'other' }, 'x']);
  const [seen] = nft.elements(nft.set({ family: 'ip', table: 't' }, 'seen'));
  assert.equal(seen?.timeoutMs, 30_000);
  assert.ok(seen.expiresMs! > 20_000 && seen.expiresMs! <= 30_000);
  runNft(['-f', '-'], 'flush set ip t networks; flush map ip t frontends; flush set ip t seen\n');
});

test('twenty thousand elements go in one transaction and are replaced by others in the next', () => {
  const set = nft.set({ family: 'ip', table: 't' }, 'endpoints');
  const elements = (network: number): NftElement[] =>
    Array.from({ length: 20_000 }, (_, n) => ({
      key: [IpAddress.v4(0x0a600000 + n), 80],
      data: [IpAddress.v4(0x0a000000 + (network << 16) + n), 8080],
      comment: `default/service-number-${n}`,
    }));
  const before = nft.generation();
  replace(set, elements(1));
  assert.equal(nft.generation(), before + 1);
  replace(set, elements(2));
  assert.equal(nft.generation(), before + 2);
  const found = nft.elements(set);
  assert.equal(found.length, 20_000);
  assert.ok(found.every(({ data }) => Array.isArray(data) && String(data[0]).startsWith('10.2.')));
  const lines = runNft(['list', 'map', 'ip', 't', 'endpoints']).match(/ : 10\.2\./g);
  assert.equal(lines?.length, 20_000);
  nft.apply([{ ...at(set), change: 'flush elements' }]);
});

test('a refused element is named, and nothing of its transaction is done', () => {
  const set = nft.set({ family: 'ip', table: 't' }, 'endpoints');
  const element = (n: number, port: number): NftElement => ({
    key: [IpAddress.v4(0x0a600000 + n), 80],
    data: [parseIp('10.1.1.1'), port],
  });
  replace(set, [element(1777, 1)]);
  const refused = (run: () => void, errno: string, named: string) =>
    assert.throws(run, (error) => {
      assert.ok(isNetError(error, 'NFT_ELEMENTS_REFUSED'));
      assert.equal(error.context['element'], named);
      assert.equal(kernelCause(error)?.name, errno);
      return true;
    });
  const many = Array.from({ length: 3000 }, (_, n) => element(n, 2));
  refused(
    () => nft.apply([{ ...at(set), change: 'add elements', elements: many }]),
    'EEXIST',
    '10.96.6.241 . 80',
  );
  refused(
    () => nft.apply([{ ...at(set), change: 'delete elements', elements: [element(1777, 1), element(5, 1)] }]),
    'ENOENT',
    '10.96.0.5 . 80',
  );
  assert.deepEqual(nft.elements(set).map(formatKey), ['10.96.6.241 . 80']);
  const frontends = nft.set({ family: 'ip', table: 't' }, 'frontends');
  const toNowhere: NftElement = {
    key: [parseIp('10.96.0.3'), 6, 80],
    data: { verdict: 'goto', chain: 'none' },
  };
  refused(
    () => nft.apply([{ ...at(frontends), change: 'add elements', elements: [toNowhere] }]),
    'ENOENT',
    '10.96.0.3 . 6 . 80',
  );
  const small = nft.set({ family: 'ip', table: 't' }, 'small');
  assert.throws(
    () =>
      nft.apply([
        {
          ...at(small),
          change: 'add elements',
          elements: [1, 2, 3, 4, 5, 6, 7, 8].map((port) => ({ key: [port] })),
        },
      ]),
    (error) => isNetError(error, 'NFT_ELEMENTS_REFUSED') && kernelCause(error)?.name === 'ENFILE',
  );
  assert.deepEqual(nft.elements(small), []);
  assert.throws(
    () => nft.set({ family: 'ip', table: 't' }, 'absent'),
    (error) => isNetError(error, 'NFT_NO_SUCH_SET'),
  );
  // A pair of deletion and addition gives a key other data.
  nft.apply([
    { ...at(set), change: 'delete elements', elements: [element(1777, 1)] },
    { ...at(set), change: 'add elements', elements: [element(1777, 9)] },
  ]);
  assert.deepEqual(listed('map', 'ip', 'endpoints'), ['10.96.6.241 . 80 : 10.1.1.1 . 9']);
});

test('a transaction planned on an old generation is refused when someone else was faster', () => {
  const set = nft.set({ family: 'ip', table: 't' }, 'links');
  const generation = nft.generation();
  runNft(['add', 'element', 'ip', 't', 'links', '{ "eth7" }']);
  assert.throws(
    () => nft.apply([{ ...at(set), change: 'flush elements' }], { generation }),
    (error) => isNetError(error, 'NFT_GENERATION_CHANGED'),
  );
  assert.deepEqual(listed('set', 'ip', 'links'), ['"eth7"']);
  nft.apply([{ ...at(set), change: 'flush elements' }], { generation: nft.generation() });
  assert.deepEqual(listed('set', 'ip', 'links'), []);
});
