/** From NodeNetworkPolicy objects to facts. Pure. */
import { ALLOW_LOCKOUT, CONFIRM_BY, type NodeNetworkPolicy } from '../../model/node-network-policy.ts';
import { ruleFacts } from '../cluster-facts.ts';
import type { NodePolicyFacts } from './types.ts';

export function nodePolicyFacts({ metadata, spec }: NodeNetworkPolicy): NodePolicyFacts {
  const problems: string[] = [];
  const rules = (direction: 'ingress' | 'egress', side: 'from' | 'to') =>
    (spec[direction] ?? []).map((rule, index) =>
      ruleFacts(rule, rule[side] ?? [], `${direction}[${index}]`, problems),
    );
  const confirmBy = metadata.annotations?.[CONFIRM_BY];
  return {
    name: metadata.name,
    uid: metadata.uid ?? '',
    generation: metadata.generation ?? 0,
    priority: spec.priority,
    nodeSelector: spec.nodeSelector,
    defaultDeny: { ingress: spec.defaultIngress === 'Deny', egress: spec.defaultEgress === 'Deny' },
    ingress: rules('ingress', 'from'),
    egress: rules('egress', 'to'),
    // A time that cannot be read has gone by: a trial must end.
    confirmByMs: confirmBy === undefined ? undefined : Date.parse(confirmBy) || 0,
    allowLockout: metadata.annotations?.[ALLOW_LOCKOUT] === 'true',
    problems,
  };
}
