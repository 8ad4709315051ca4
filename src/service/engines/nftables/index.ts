export { carryFlows } from './carry-flows.ts';
export { NftablesEngine, type NftablesEngineOptions } from './engine.ts';
export { removeNftServices } from './kernel.ts';
export { TABLE as NFT_SERVICES_TABLE } from './layout.ts';
