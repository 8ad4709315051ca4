/**
 * A node's own firewall as nft chains of one family. Pure.
 *
 *     policy_host_input    established, lo, ND, MLD, DHCP ──► accept;  rules by priority;  drop when denied by default
 *     policy_host_output   the same, and what goes to pods of this node ──► accept
 */
import type { Family } from '../../addr/index.ts';
import { ACCEPT, among, COUNTER, DROP, equals, inSet, type NftRule, ruleOf } from '../../kernel/nft/index.ts';
import { type Logging, logRule } from '../logging.ts';
import { comment, HOST_CHAINS, HOST_PODS, ruleComment } from '../names.ts';
import { addressField, ESTABLISHED, NEIGHBOURS, ruleLines } from '../rules.ts';
import type { Chain } from '../tables.ts';
import type { Direction } from '../types.ts';
import type { NodePolicyFacts } from './types.ts';

const HOOKS = { ingress: 'input', egress: 'output' } as const;
const LINKS = { ingress: 'iifname', egress: 'oifname' } as const;

/**
 * Switches that snoop forward neighbour solicitations only to whom they have heard reports of: queries, reports and
 * done of both versions pass (RFC 2710, RFC 3810; "must not be dropped" in RFC 4890 section 4.4.1).
 */
const LISTENERS = ruleOf(
  [
    among(
      'icmpv6 type',
      [130, 131, 132, 143].map((type) => ({ key: [type] })),
    ),
    ACCEPT,
  ],
  'multicast listeners, without whom switches stop neighbour discovery',
);

const udp = (sport: number, dport: number, comment: string) =>
  ruleOf([equals('udp sport', sport), equals('udp dport', dport), ACCEPT], comment);

/**
 * Without these a node loses its addresses, some hours after nobody meant to cut it off. An answer to a multicast or
 * broadcast is no reply to connection tracking: DHCP (RFC 2131 section 4.1) and DHCPv6 (RFC 8415 section 7.2).
 */
const KEEPS_ADDRESSES: Readonly<Record<Direction, Readonly<Record<Family, readonly NftRule[]>>>> = {
  ingress: {
    4: [udp(67, 68, 'DHCP servers')],
    6: [NEIGHBOURS, LISTENERS, udp(547, 546, 'DHCPv6 servers')],
  },
  egress: {
    4: [udp(68, 67, 'DHCP client')],
    6: [NEIGHBOURS, LISTENERS, udp(546, 547, 'DHCPv6 client')],
  },
};

/** No chain for a direction about which no policy says anything. */
export function hostChains(
  policies: readonly NodePolicyFacts[],
  family: Family,
  logging: Logging,
): Map<string, Chain> {
  const chains = new Map<string, Chain>();
  for (const direction of ['ingress', 'egress'] as const) {
    const rules = hostRules(policies, direction, family, logging);
    if (rules.length === 0) continue;
    const always = [ESTABLISHED, ruleOf([equals(LINKS[direction], 'lo'), ACCEPT])];
    always.push(...KEEPS_ADDRESSES[direction][family]);
    if (direction === 'egress')
      always.push(
        ruleOf([inSet([addressField(family, 'daddr')], HOST_PODS), ACCEPT], 'a node reaches its own pods'),
      );
    chains.set(HOST_CHAINS[direction], {
      hook: { type: 'filter', priority: 0, policy: 'accept', hook: HOOKS[direction] },
      rules: [...always, ...rules],
    });
  }
  return chains;
}

function hostRules(
  policies: readonly NodePolicyFacts[],
  direction: Direction,
  family: Family,
  logging: Logging,
): NftRule[] {
  const rules = policies.flatMap((policy) =>
    policy[direction].flatMap((rule, index) => {
      const owner = ruleComment('nnp', policy.name, `${direction}[${index}]`, rule.name);
      return rule.action === 'Accept'
        ? ruleLines(rule, direction, family, [ACCEPT, logging === 'all' ? 'allowed' : undefined], owner)
        : ruleLines(rule, direction, family, [DROP, logging === 'off' ? undefined : 'denied'], owner);
    }),
  );
  const denying = policies.filter(({ defaultDeny }) => defaultDeny[direction]).map(({ name }) => name);
  if (denying.length === 0) return rules;
  const why = comment(`nnp default deny ${direction}: by ${denying.join(', ')}`);
  if (logging !== 'off') rules.push(logRule([], 'denied', why));
  return [...rules, ruleOf([COUNTER, DROP], why)];
}
