export { EbpfEngine, type EbpfEngineOptions, type StaleSockets } from './engine.ts';
export type { PacketAnswer, PacketQuery } from './explain.ts';
export { REASONS, type Reason } from './layout.ts';
export { masqueradeParts } from './masquerade.ts';
export type { EngineSizes } from './objects.ts';
