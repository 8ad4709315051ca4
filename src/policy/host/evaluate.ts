/**
 * What a node's policies mean for one connection of the node itself, and which of them may be enforced. Pure.
 *
 *     the first rule that matches, policies by priority ──► Accept or Deny
 *     else any policy that denies by default            ──► denied
 *     else                                              ──► accepted
 *
 * Replies, the loopback link, neighbour discovery and what a node sends to its own pods are always allowed.
 */
import type { IpAddress } from '../../addr/index.ts';
import { type Labels, labelSelectorSelects } from '../../model/label-selector.ts';
import { type Flow, type PolicyWorld, ruleMatches } from '../evaluate.ts';
import type { Direction } from '../types.ts';
import type { Contact, NodePolicyFacts, NodePolicyState } from './types.ts';

export interface NodeVerdict {
  readonly allowed: boolean;
  /** Policies that decide; several when they deny by default, none when nobody does. */
  readonly by: readonly string[];
  /** Index of the deciding rule. */
  readonly rule: number | undefined;
}

/** `policies` in the order of `inOrder()`. */
export function judgeNode(
  flow: Flow,
  direction: Direction,
  policies: readonly NodePolicyFacts[],
  world: PolicyWorld,
): NodeVerdict {
  const peer = direction === 'ingress' ? flow.from : flow.to;
  for (const policy of policies) {
    const rule = policy[direction].findIndex((each) => ruleMatches(each, peer, flow, world));
    if (rule >= 0) return { allowed: policy[direction][rule]!.action === 'Accept', by: [policy.name], rule };
  }
  const by = policies.filter(({ defaultDeny }) => defaultDeny[direction]).map(({ name }) => name);
  return { allowed: by.length === 0, by, rule: undefined };
}

export function inOrder(policies: Iterable<NodePolicyFacts>): NodePolicyFacts[] {
  return [...policies].sort((a, b) => a.priority - b.priority || (a.name < b.name ? -1 : 1));
}

export interface Enforcement {
  /** In order. */
  readonly enforced: readonly NodePolicyFacts[];
  readonly states: readonly NodePolicyState[];
  /** When the next trial ends, in milliseconds since 1970. */
  readonly nextMs: number | undefined;
}

/** Names a policy as it was accepted: a change of what it says, or of what it may, is another one. */
export function acceptedName({ name, uid, generation, allowLockout }: NodePolicyFacts): string {
  return `${name}/${uid}/${generation}${allowLockout ? '/may lock out' : ''}`;
}

/**
 * Which policies this node enforces: those that select it, whose trial is not over, and that cut no contact without
 * saying that they may. `before` are those that it enforced last. As long as all of these are still there, none of
 * them is given up because of a contact that is new: a node that joins, an admin who logs out or an agent that starts
 * again must not open a firewall. When one is gone or has changed, all are judged anew.
 */
export function enforcement(
  policies: Iterable<NodePolicyFacts>,
  node: Labels,
  contacts: readonly Contact[],
  world: PolicyWorld,
  nowMs: number,
  before: ReadonlySet<string> = new Set(),
): Enforcement {
  const here = inOrder(policies).filter(({ nodeSelector }) => labelSelectorSelects(nodeSelector, node));
  let enforced = here.filter(({ confirmByMs }) => confirmByMs === undefined || confirmByMs > nowMs);
  const refused = new Map<string, string[]>();
  const there = new Set(enforced.map(acceptedName));
  const kept = [...before].every((name) => there.has(name)) ? before : new Set<string>();
  const mayCut = (policy: NodePolicyFacts) => policy.allowLockout || kept.has(acceptedName(policy));
  let cuts: Cut[];
  for (;;) {
    cuts = cutsOf(enforced, contacts, world);
    const guilty = new Set(
      cuts.flatMap(({ by }) =>
        by.filter((name) => enforced.some((each) => each.name === name && !mayCut(each))),
      ),
    );
    if (guilty.size === 0) break;
    for (const name of guilty) refused.set(name, cutBy(cuts, name));
    enforced = enforced.filter(({ name }) => !guilty.has(name));
  }
  const stateOf = (policy: NodePolicyFacts): NodePolicyState => {
    const { name, uid, generation, problems, confirmByMs } = policy;
    const base = { name, uid, generation, problems };
    const lockouts = refused.get(name);
    if (lockouts) return { ...base, state: 'refused', lockouts };
    if (!enforced.includes(policy)) return { ...base, state: 'expired', lockouts: [] };
    const allowed = cutBy(cuts, name);
    return confirmByMs === undefined
      ? { ...base, state: 'in force', lockouts: allowed }
      : { ...base, state: 'on trial', until: new Date(confirmByMs).toISOString(), lockouts: allowed };
  };
  const ends = enforced.flatMap(({ confirmByMs }) => confirmByMs ?? []);
  return {
    enforced,
    states: here.map(stateOf),
    nextMs: ends.length > 0 ? Math.min(...ends) : undefined,
  };
}

interface Cut {
  readonly what: string;
  readonly by: readonly string[];
}

function cutsOf(
  policies: readonly NodePolicyFacts[],
  contacts: readonly Contact[],
  world: PolicyWorld,
): Cut[] {
  const judge = (flow: Flow, direction: Direction) => judgeNode(flow, direction, policies, world);
  return contacts.flatMap(({ what, direction, flow, orFrom }) => {
    const { allowed, by } = judge(flow, direction);
    if (allowed) return [];
    const others = orFrom ? [...orFrom, ...namedPlaces(policies)] : [];
    const passes = others.some((address) => judge({ ...flow, from: { address } }, direction).allowed);
    return passes ? [] : [{ what, by }];
  });
}

/** An address of each network from which a rule accepts anything. */
function namedPlaces(policies: readonly NodePolicyFacts[]): IpAddress[] {
  const accepting = policies.flatMap(({ ingress }) => ingress.filter(({ action }) => action === 'Accept'));
  const peers = accepting.flatMap((rule) => rule.peers ?? []);
  return peers.flatMap((peer) => (peer.kind === 'block' ? peer.ranges.map(({ first }) => first) : []));
}

const cutBy = (cuts: readonly Cut[], name: string) =>
  cuts.filter(({ by }) => by.includes(name)).map(({ what }) => what);
