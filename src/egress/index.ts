export { claimsText, readClaims, readWish } from './annotation.ts';
export { cleanupEgress } from './cleanup.ts';
export { insideTest } from './connections.ts';
export {
  EgressController,
  type EgressOptions,
  type EgressSources,
  type EgressStatus,
  type RemotePods,
} from './controller.ts';
export type { EgressDesired } from './desired.ts';
export { movableAddresses, wantedAddresses } from './holders.ts';
export { DROPS, EGRESS_PREFIX } from './rules.ts';
export { isSlotTable, planSlots } from './slots.ts';
export {
  type Claim,
  type Claims,
  EGRESS_ANNOTATION,
  type EgressNode,
  type EgressPod,
  type EgressState,
  type Fate,
  HELD_ANNOTATION,
  type Wish,
} from './types.ts';
