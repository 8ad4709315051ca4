export { EbpfEngine, type EbpfEngineOptions, type StaleSockets } from './engine.ts';
export { REASONS, type Reason } from './layout.ts';
export { masqueradeParts } from './masquerade.ts';
export { ENGINE_NEEDS as EBPF_ENGINE_NEEDS } from './needs.ts';
export type { EngineSizes } from './objects.ts';
export { NODE_HOOKS, type NodeHook } from './xdp-hooks.ts';
