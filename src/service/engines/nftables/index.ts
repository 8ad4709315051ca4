export { NftablesEngine, type NftablesEngineOptions } from './engine.ts';
export { TABLE as NFT_SERVICES_TABLE } from './layout.ts';
