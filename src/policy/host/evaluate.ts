/**
 * What a node's policies mean for one connection of the node itself, and which of them may be enforced. Pure.
 *
 *     the first rule that matches, policies by priority ──► Accept or Deny
 *     else any policy that denies by default            ──► denied
 *     else                                              ──► accepted
 *
 * Replies, the loopback link, neighbour discovery and what a node sends to its own pods are always allowed.
 */
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

/**
 * Which policies this node enforces: those that select it, whose trial is not over, and that cut no contact without
 * saying that they may.
 */
export function enforcement(
  policies: Iterable<NodePolicyFacts>,
  node: Labels,
  contacts: readonly Contact[],
  world: PolicyWorld,
  nowMs: number,
): Enforcement {
  const here = inOrder(policies).filter(({ nodeSelector }) => labelSelectorSelects(nodeSelector, node));
  let enforced = here.filter(({ confirmByMs }) => confirmByMs === undefined || confirmByMs > nowMs);
  const refused = new Map<string, string[]>();
  let cuts: Cut[];
  for (;;) {
    cuts = cutsOf(enforced, contacts, world);
    const guilty = new Set(
      cuts.flatMap(({ by }) =>
        by.filter((name) => enforced.some((each) => each.name === name && !each.allowLockout)),
      ),
    );
    if (guilty.size === 0) break;
    for (const name of guilty) refused.set(name, cutBy(cuts, name));
    enforced = enforced.filter(({ name }) => !guilty.has(name));
  }
  const stateOf = (policy: NodePolicyFacts): NodePolicyState => {
    const { name, generation, problems, confirmByMs } = policy;
    const base = { name, generation, problems };
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
  return contacts.flatMap(({ what, direction, flow }) => {
    const { allowed, by } = judgeNode(flow, direction, policies, world);
    return allowed ? [] : [{ what, by }];
  });
}

const cutBy = (cuts: readonly Cut[], name: string) =>
  cuts.filter(({ by }) => by.includes(name)).map(({ what }) => what);
