import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { parseCidr } from '../../addr/index.ts';
import type { NftObject } from '../../kernel/nft-program/index.ts';
import { firewallReport, type NodeNetwork } from './index.ts';
import { clusterCidrsOf } from './observe.ts';

const node: NodeNetwork = {
  podCidrs: [parseCidr('10.244.1.0/24')],
  clusterCidrs: [parseCidr('10.244.0.0/16')],
  uplink: 'eth0',
  tunnel: 'flannel.1',
  podLink: 'po123',
};
const nothing = { ip: '', ip6: '' };
const noBridge = { ip: undefined, ip6: undefined };

function told(legacy: string, nft: NftObject[] = []): string[] {
  const { findings } = firewallReport({ nft, legacy: { ...nothing, ip: legacy }, bridge: noBridge }, node);
  return findings.map(({ says, probe, rule }) => `${says}: ${probe}: ${rule}`);
}

const FORWARDED = [
  'a pod to a pod beside it',
  'a pod to a pod of another node',
  'a pod of another node to a pod here',
  'a pod to the outside',
  'the outside to a pod, by a nodePort',
];

test("Docker's FORWARD policy is named for all that is forwarded, and accept rules take from it", () => {
  const docker = (rules: string) => `*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
${rules}-A FORWARD -j DOCKER-USER
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
`;
  assert.deepEqual(
    told(docker('')),
    FORWARDED.map((each) => `drops: ${each}: policy drop`),
  );
  assert.deepEqual(told(docker('-A DOCKER-USER -s 10.244.0.0/16 -j ACCEPT\n')), [
    'drops: the outside to a pod, by a nodePort: policy drop',
  ]);
  assert.deepEqual(
    told(docker('-A DOCKER-USER -s 10.244.0.0/16 -j ACCEPT\n-A DOCKER-USER -d 10.244.0.0/16 -j ACCEPT\n')),
    [],
  );
});

test('a rule that hangs on what is not known may drop; what follows a possible accept may, too', () => {
  const rules = (text: string) => `*filter\n:INPUT ACCEPT [0:0]\n${text}\nCOMMIT\n`;
  const tunnel = 'packets of the tunnel from other nodes';
  assert.deepEqual(told(rules('-A INPUT -p udp --dport 8472 -j DROP')), [
    `drops: ${tunnel}: -A INPUT -p udp --dport 8472 -j DROP`,
  ]);
  assert.deepEqual(told(rules('-A INPUT -p udp -m set --match-set x src -j DROP')), [
    `may drop: ${tunnel}: -A INPUT -p udp -m set --match-set x src -j DROP`,
  ]);
  assert.deepEqual(told(rules('-A INPUT -m mark --mark 0x1 -j ACCEPT\n-A INPUT -i eth0 -j REJECT')), [
    `may drop: ${tunnel}: -A INPUT -i eth0 -j REJECT`,
  ]);
  assert.deepEqual(told(rules('-A INPUT -i eth0 -j ACCEPT\n-A INPUT -j DROP')), []);
  assert.deepEqual(told(rules('-A INPUT -p tcp -j DROP')), []);
});

test('packets of bridged pods come in by the bridge: strict reverse path checks and rules of bridges are named', () => {
  const bridged = { ...node, podBridge: 'portolan0' };
  const about = (family: string, hook: string, policy: string, ...exprs: object[][]) => {
    const at = { family, table: 'fw', chain: 'c' };
    const nft = [
      { chain: { family, table: 'fw', name: 'c', type: 'filter', hook, prio: 0, policy } },
      ...exprs.map((expr) => ({ rule: { ...at, expr } })),
    ] as NftObject[];
    const { findings } = firewallReport({ nft, legacy: nothing, bridge: noBridge }, bridged);
    return findings.map(({ says, probe }) => `${says}: ${probe}`);
  };
  const strict = {
    match: { op: '==', left: { fib: { result: 'oif', flags: ['saddr', 'mark', 'iif'] } }, right: false },
  };
  const loose = { match: { op: '==', left: { fib: { result: 'oif', flags: ['saddr'] } }, right: false } };
  assert.deepEqual(about('inet', 'prerouting', 'accept', [strict, { drop: null }]), [
    'drops: a bridged pod, on its way in',
  ]);
  assert.deepEqual(about('inet', 'prerouting', 'accept', [loose, { drop: null }]), [
    'may drop: a bridged pod, on its way in',
  ]);
  const arp = { match: { op: '==', left: { payload: { protocol: 'ether', field: 'type' } }, right: 'arp' } };
  assert.deepEqual(about('bridge', 'input', 'drop', [arp, { accept: null }]), [
    'drops: a frame of a bridged pod to its node',
  ]);
  // What crosses no bridge port meets none of the bridge's rules, and the other way round.
  assert.deepEqual(about('bridge', 'forward', 'drop'), []);
  const iif = (name: string) => ({ match: { op: '==', left: { meta: { key: 'iifname' } }, right: name } });
  assert.deepEqual(about('ip', 'forward', 'accept', [iif('po123'), { drop: null }]), []);
  assert.equal(about('ip', 'forward', 'accept', [iif('portolan0'), { drop: null }]).length, 3);
});

test('what lets pass what conntrack translated helps Services of the nftables engine only', () => {
  const expr = (...parts: object[]) => ({
    rule: { family: 'inet', table: 'wall', chain: 'fw', expr: parts },
  });
  const wall = [
    {
      chain: {
        family: 'inet',
        table: 'wall',
        name: 'fw',
        type: 'filter',
        hook: 'forward',
        prio: 0,
        policy: 'drop',
      },
    },
    expr({ match: { op: 'in', left: { ct: { key: 'status' } }, right: 'dnat' } }, { accept: null }),
  ];
  const own = [
    { table: { family: 'ip', name: 'portolan-services' } },
    {
      chain: {
        family: 'ip',
        table: 'portolan-services',
        name: 'forward',
        type: 'filter',
        hook: 'forward',
        prio: 0,
        policy: 'drop',
      },
    },
  ];
  const nodePort = (objects: object[]) =>
    told('', objects as NftObject[]).filter((line) => /by a nodePort/.test(line));
  assert.match(nodePort(wall).join(), /drops/);
  assert.deepEqual(nodePort([...wall, ...own]), []);
  assert.deepEqual(told('', own as NftObject[]), []);
});

test('the networks of the cluster are around those of the node, when nobody says', () => {
  const of = (podCidrs: string[], clusterCidrs: string[] = []) =>
    clusterCidrsOf({ podCidrs: podCidrs.map(parseCidr), clusterCidrs: clusterCidrs.map(parseCidr) }).map(
      String,
    );
  assert.deepEqual(of(['10.42.7.0/24', 'fd00:42:0:7::/64']), ['10.42.0.0/16', 'fd00:42::/56']);
  assert.deepEqual(of(['10.0.0.0/8']), ['10.0.0.0/8']);
  assert.deepEqual(of(['10.42.7.0/24'], ['10.40.0.0/13']), ['10.40.0.0/13']);
  assert.deepEqual(of([]), ['10.244.0.0/16', 'fd00:10:244::/56']);
});

test('any text and any objects are judged or left out, and never throw', () => {
  fc.assert(
    fc.property(
      fc.string(),
      fc.array(fc.dictionary(fc.string(), fc.object({ maxDepth: 2 }))),
      (text, objects) => {
        told(`*filter\n:FORWARD DROP [0:0]\n-A FORWARD ${text}`, objects as NftObject[]);
      },
    ),
    { numRuns: 50 },
  );
  const expression = fc.array(
    fc.oneof(
      fc.object(),
      fc.record({ match: fc.record({ op: fc.string(), left: fc.jsonValue(), right: fc.jsonValue() }) }),
      fc.record({ vmap: fc.record({ key: fc.jsonValue(), data: fc.jsonValue() }) }),
      fc.record({ jump: fc.jsonValue() }),
    ),
    { maxLength: 4 },
  );
  const chain = { family: 'inet', table: 't', name: 'c', type: 'filter', hook: 'forward', prio: 0 };
  fc.assert(
    fc.property(expression, (expr) => {
      told('', [{ chain }, { rule: { family: 'inet', table: 't', chain: 'c', expr } }] as NftObject[]);
    }),
    { numRuns: 50 },
  );
});
