export { EbpfEngine, type EbpfEngineOptions } from './engine.ts';
export { REASONS, type Reason } from './layout.ts';
export { masqueradeParts } from './masquerade.ts';
export { ENGINE_NEEDS as EBPF_ENGINE_NEEDS } from './needs.ts';
export type { EngineSizes } from './objects.ts';
export type { StaleSockets } from './socket-backends.ts';
export { NODE_HOOKS, type NodeHook } from './xdp-hooks.ts';
