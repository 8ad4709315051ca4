export { clusterPolicyFacts, nodeFacts, nodesByAddress } from './cluster-facts.ts';
export { type LocalState, PolicyCompiler } from './compiler.ts';
export { PolicyController, type PolicyControllerOptions, type PolicyStatus } from './controller.ts';
export { cleanupPolicies, NftPolicyEngine } from './engine.ts';
export { type Endpoint, evaluate, type Flow, type PolicyWorld, type Verdict } from './evaluate.ts';
export { type Explanation, endpointText, explain } from './explain.ts';
export { namespaceLabels, podFacts, policyFacts } from './facts.ts';
export { type FlowGap, type FlowRecord, flowRecordText, openFlowLog } from './flow-log.ts';
export {
  type AcceptedPolicies,
  type Contact,
  enforcement,
  type NodePolicyFacts,
  type NodePolicyState,
  nodePolicyFacts,
} from './host/index.ts';
export type { LocalPod } from './known-world.ts';
export type { Logging } from './logging.ts';
export { ownerName } from './names.ts';
export { policyPlanText } from './plan.ts';
export { policyChain } from './rules.ts';
export type {
  ClusterPolicyFacts,
  Direction,
  NodeFacts,
  PodFacts,
  PolicyFacts,
  TableSource,
  Tier,
} from './types.ts';
