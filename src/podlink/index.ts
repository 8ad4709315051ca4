export { PodBridge } from './bridge.ts';
export { POD_LINK_KINDS, type PodLinkKind } from './kinds.ts';
export { type HostEnds, type LinkTables, PodLinks, type PodLinksOptions } from './links.ts';
export { hostSysctls, planHostEnd, planPodEnd, podSysctls, vethSpec, vethText } from './plan.ts';
export {
  type DesiredPodLink,
  type PodLinkPass,
  PodLinkReconciler,
  type PodLinkReconcilerOptions,
} from './reconciler.ts';
export { LinkRemover } from './remover.ts';
export { SOURCE_PREFIX, type SourceLink, SPOOFED, sourceLinkOf, sourcePart } from './source-part.ts';
export {
  BRIDGE_NAME,
  type HostEnd,
  hostLinkName,
  isHostLinkName,
  POD_GATEWAYS,
  type PodEnd,
  type PodLink,
  type PodLinkSpec,
  podLinkSpec,
  type Step,
} from './types.ts';
