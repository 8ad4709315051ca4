import assert from 'node:assert/strict';
import test from 'node:test';
import { parseIp, parseMac } from '../addr/index.ts';
import { partText } from '../kernel/nft/index.ts';
import { sourcePart } from './source-part.ts';

const link = (hostLink: string, ...addresses: string[]) => ({
  hostLink,
  addresses: addresses.map(parseIp),
});

test('sourcePart() lets each pod send with its own address of the family, and counts the rest', () => {
  const links = [
    link('pob', '10.244.1.6', 'fd00:10:244:1::6'),
    link('poa', '10.244.1.5', 'fd00:10:244:1::5'),
  ];
  assert.equal(
    partText(sourcePart(4, links)),
    `add table ip portolan
add set ip portolan source_links { type ifname; comment "links of pods"; }
add set ip portolan source_pods { type ifname . ipv4_addr; comment "what each pod may send with"; }
add chain ip portolan source_other
add chain ip portolan source_prerouting { type filter hook prerouting priority -300; policy accept; }
add rule ip portolan source_other counter drop comment "pods: a source address that is not the pod's own"
add rule ip portolan source_prerouting iifname @source_links iifname . ip saddr != @source_pods goto source_other comment "pods: sends with an address that is none of its own"
add element ip portolan source_links { poa, pob }
add element ip portolan source_pods { poa . 10.244.1.5, pob . 10.244.1.6 }
`,
  );
});

test('in IPv6 neighbour discovery and listener reports pass', () => {
  const text = partText(sourcePart(6, [link('poa', '10.244.1.5')]));
  assert.deepEqual(
    text.split('\n').filter((line) => line.includes('source_other ip6')),
    [
      'add rule ip6 portolan source_other ip6 saddr fe80::/10 ip6 daddr { fe80::-febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff, ff00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff } return comment "pods: neighbour discovery"',
      'add rule ip6 portolan source_other ip6 saddr ::/128 ip6 daddr ff00::/8 return comment "pods: whether an address is free"',
    ],
  );
  // A pod without an IPv6 address is asked as well: it has no source of its own there.
  assert.match(text, /add element ip6 portolan source_links \{ poa \}/);
  assert.doesNotMatch(text, /add element ip6 portolan source_pods/);
});

test('pods of a bridge are asked where they come in, at the bridge, and told apart by their MACs', () => {
  const links = ['10.244.1.5', '10.244.1.6'].map((address, at) => ({
    ...link(`po${at}`, address),
    bridged: parseMac(`02:00:00:00:00:0${at}`),
  }));
  const text = partText(sourcePart(4, [...links, link('poa', '10.244.1.7')]));
  assert.deepEqual(
    text.split('\n').filter((line) => /element|source_prerouting .*@/.test(line)),
    [
      'add rule ip portolan source_prerouting iifname @source_links iifname . ip saddr != @source_pods goto source_other comment "pods: sends with an address that is none of its own"',
      'add rule ip portolan source_prerouting iifname "portolan0" meta iiftype ether ether saddr . ip saddr != @source_ports goto source_other comment "pods: sends with an address that is none of its own"',
      'add element ip portolan source_links { poa }',
      'add element ip portolan source_pods { poa . 10.244.1.7 }',
      'add element ip portolan source_ports { 02:00:00:00:00:00 . 10.244.1.5, 02:00:00:00:00:01 . 10.244.1.6 }',
    ],
  );
});

test('without pods there are no rules', () => {
  assert.equal(partText(sourcePart(4, [])), '');
});
