/**
 * Rules that report packets to the agent: a rule of its own before the one that decides, because a limit in the
 * deciding rule would let pass what exceeds it. What decides is named by the prefix, so records need no lookup. Pure.
 */
import type { NftRule, NftStatement } from '../kernel/nft/index.ts';
import { ruleOf } from '../kernel/nft/index.ts';
import type { Direction } from './types.ts';

/** Which first packets of connections are reported. */
export type Logging = 'off' | 'denied' | 'all';

/** nflog group of policy records; any number that nobody else on the node uses. */
export const LOG_GROUP = 2520;
/** Headers of both families with room for extension headers. */
export const LOG_SNAPLEN_BYTES = 128;
/** Reports of one rule, so that a flood costs the agent little. */
const REPORTS_A_SECOND = 20;
const REPORTS_AT_ONCE = 50;
/** linux/netfilter/nf_log.h NF_LOG_PREFIXLEN, with its zero byte. */
const LONGEST_PREFIX = 127;

/** The rule that reports what `matches`; `owner` as in the comment of the deciding rule. */
export function logRule(
  matches: readonly NftStatement[],
  verdict: 'allowed' | 'denied',
  owner: string,
): NftRule {
  const prefix = `${verdict} ${owner}`.slice(0, LONGEST_PREFIX);
  return ruleOf([
    ...matches,
    { kind: 'limit', rate: REPORTS_A_SECOND, per: 'second', burst: REPORTS_AT_ONCE },
    { kind: 'log', prefix, group: LOG_GROUP, snaplen: LOG_SNAPLEN_BYTES },
  ]);
}

export interface LogPrefix {
  readonly verdict: 'allowed' | 'denied';
  readonly direction: Direction;
  /** What decided: a policy with its rule, or "default deny: isolated by ...". */
  readonly by: string;
}

const KINDS: Readonly<Record<string, string>> = {
  cnp: 'ClusterNetworkPolicy ',
  nnp: 'NodeNetworkPolicy ',
};

/** What a prefix of `logRule` says; undefined for others. */
export function readLogPrefix(prefix: string): LogPrefix | undefined {
  const match =
    /^(allowed|denied) (np|cnp|nnp) (?:default deny (ingress|egress): (.*)|(\S+) (ingress|egress)(\[\d+\].*))$/.exec(
      prefix,
    );
  if (!match) return undefined;
  const [, verdict, kind, isolated, why, policy, direction, index] = match;
  const base = { verdict: verdict as LogPrefix['verdict'], direction: (isolated ?? direction) as Direction };
  // A default of nodes says: by NAMES, one of pods: isolated by NAMES.
  if (isolated) return { ...base, by: `default deny, ${why?.replace(/^by /, 'by NodeNetworkPolicy ')}` };
  return { ...base, by: `${KINDS[kind ?? ''] ?? ''}${policy} ${direction}${index}` };
}
