/** Names of chains and sets in tables `ip portolan` and `ip6 portolan`, and the comments that name owners. Pure. */
import { createHash } from 'node:crypto';
import type { Family } from '../addr/index.ts';
import type { Protocol } from '../model/kubernetes.ts';
import type { Standing } from './standing.ts';
import type { Direction, Tier } from './types.ts';

/** All that network policy owns in the shared tables begins with this. */
export const PREFIX = 'policy_';

export const FORWARD = `${PREFIX}forward`;
export const INPUT = `${PREFIX}input`;
export const OUTPUT = `${PREFIX}output`;
/** Where a connection goes that its source's policies allow: to the policies of its destination. */
export const TO = `${PREFIX}to`;
/** What the node itself receives and sends. */
export const HOST_CHAINS: Readonly<Record<Direction, string>> = {
  ingress: `${PREFIX}host_input`,
  egress: `${PREFIX}host_output`,
};
/** Addresses of local pods, which their node always reaches. */
export const HOST_PODS = `${PREFIX}host_pods`;
/** Local pods that are isolated in any direction. */
export const ISOLATED = `${PREFIX}isolated`;
/** The address of an isolated local pod twice: by a Service a pod may come to itself. */
export const SELVES = `${PREFIX}selves`;
/** Address of a local pod to its group of policies. */
export const VERDICTS: Readonly<Record<Direction, string>> = {
  ingress: `${PREFIX}ingress`,
  egress: `${PREFIX}egress`,
};
const SHORT: Readonly<Record<Direction, string>> = { ingress: 'in', egress: 'out' };

export function nftFamily(family: Family): 'ip' | 'ip6' {
  return family === 4 ? 'ip' : 'ip6';
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 12);
}

/** Set of the addresses of a selection's pods. */
export function groupName(selectionId: string): string {
  return `${PREFIX}g_${digest(selectionId)}`;
}

/** Set of address, protocol and port of all pods that have a port of this name. */
export function namedPortName(name: string, protocol: Protocol): string {
  return `${PREFIX}p_${digest(`${name}/${protocol}`)}`;
}

/** Chain of one policy; nft allows "/", "." and "-" in names, and 127 characters in older kernels. */
export function policyChainName(key: string, direction: Direction): string {
  const name = `${PREFIX}${SHORT[direction]}/${key}`;
  return name.length <= 100 ? name : `${name.slice(0, 87)}_${digest(key)}`;
}

/** Names by standing: a policy that changes asks for those of all pods. */
const groupNames = new WeakMap<Standing, Partial<Record<Direction, string>>>();

/** Chain of pods that stand under the same policies in a direction. */
export function groupChainName(standing: Standing, direction: Direction): string {
  const names = groupNames.get(standing) ?? {};
  groupNames.set(standing, names);
  const name = names[direction] ?? nameOfGroup(standing, direction);
  names[direction] = name;
  return name;
}

function nameOfGroup({ admin, policies, baseline }: Standing, direction: Direction): string {
  const keys = [
    ...admin.map((name) => `admin ${name}`),
    ...policies,
    ...baseline.map((name) => `baseline ${name}`),
  ];
  return `${PREFIX}${SHORT[direction]}_${digest(keys.join('\n'))}`;
}

/** Chain of ClusterNetworkPolicies of one tier, in their order. */
export function tierChainName(tier: Tier, names: readonly string[], direction: Direction): string {
  return `${PREFIX}${tier.toLowerCase()}_${SHORT[direction]}_${digest(names.join('\n'))}`;
}

/** Whether a rule with this comment is a policy's: ruleComment() and the drop behind all of a pod's policies. */
export function isRuleComment(comment: string): boolean {
  return /^(np|cnp|nnp) /.test(comment);
}

const LONGEST_COMMENT = 120;
/** What a rule's comment has room for beside the kind, direction and index. */
const LONGEST_OWNER = 90;

/** A policy's `namespace/name` as comments have it: all of it, or its beginning and a digest of all. */
export function ownerName(key: string): string {
  return key.length <= LONGEST_OWNER ? key : `${key.slice(0, LONGEST_OWNER - 13)}~${digest(key)}`;
}

/** The comment of a rule; the name that people gave it may be cut, whose it is and which one may not. */
export function ruleComment(
  kind: 'np' | 'cnp' | 'nnp',
  key: string,
  rule: string,
  called: string | undefined = undefined,
): string {
  return comment(`${kind} ${ownerName(key)} ${rule}${called ? ` ${called}` : ''}`);
}

/** Text that nft takes between quotes, cut to what the kernel keeps. */
export function comment(text: string): string {
  const safe = text.replace(/[^\w .,/=()!:;[\]+~-]/g, '_');
  return safe.length <= LONGEST_COMMENT ? safe : `${safe.slice(0, LONGEST_COMMENT - 3)}...`;
}
