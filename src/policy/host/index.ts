export { type AcceptedPolicies, HostDecider, type HostSources } from './decider.ts';
export { type Enforcement, enforcement, inOrder, judgeNode, type NodeVerdict } from './evaluate.ts';
export { nodePolicyFacts } from './facts.ts';
export { hostChains } from './rules.ts';
export type { Contact, NodePolicyFacts, NodePolicyState } from './types.ts';
