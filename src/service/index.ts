/** Service load balancing: plans (pure), engines, and the controller that joins them. See README.md. */
export { frontendKey } from './claims.ts';
export {
  ServiceController,
  type ServiceControllerOptions,
  type ServiceLog,
  type TableSource,
  type Timing,
} from './controller.ts';
export * from './describe.ts';
export type * from './engine.ts';
export {
  EBPF_ENGINE_NEEDS,
  EbpfEngine,
  type EbpfEngineOptions,
  type EngineSizes,
  masqueradeParts,
  NODE_HOOKS,
  type NodeHook,
  type StaleSockets,
} from './engines/ebpf/index.ts';
export {
  carryFlows,
  NFT_SERVICES_TABLE,
  NftablesEngine,
  type NftablesEngineOptions,
  removeNftServices,
} from './engines/nftables/index.ts';
export {
  type BackendExplanation,
  explainService,
  explanationText,
  type PortExplanation,
  type ServiceExplanation,
} from './explain.ts';
export { POOLED_CONDITION, serviceFacts, sliceFacts } from './facts.ts';
export { type HealthCheckOptions, HealthCheckServers } from './health-check.ts';
export { hostPortFacts, hostPortsOfPod, type PodPorts, planHostPorts } from './host-ports.ts';
export { countOpenSockets, type SocketBackends } from './open-sockets.ts';
export { ServicePlanner, type ServiceTables } from './planner.ts';
export { type ShownBackend, type ShownPort, type ShownService, showService } from './show.ts';
export { destroyStaleSockets, type StaleSocketOptions } from './stale-sockets.ts';
export type * from './types.ts';
