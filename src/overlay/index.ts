export { ANNOTATION_PREFIX, leaseAnnotations, leaseOfNode, type NodeRecord } from './annotations.ts';
export { type Backend, backends } from './backend.ts';
export { desiredOverlay, emptyOverlay, ownLease } from './desired.ts';
export { type OverlayKernel, openOverlayKernel } from './kernel.ts';
export { filterPart, forwardBlockers } from './masquerade.ts';
export {
  DEFAULT_PORT,
  DEFAULT_VNI,
  DEVICE_ALIAS,
  deviceName,
  isDeviceName,
  VXLAN_OVERHEAD_BYTES,
  vtepMac,
} from './names.ts';
export { planOverlay } from './plan.ts';
export {
  cleanupOverlay,
  type OverlayOptions,
  OverlayReconciler,
  type OverlayStatus,
  overlayParts,
  planText,
} from './reconciler.ts';
export { subnetEnv, writeAtomically } from './subnet-env.ts';
export { changeText } from './text.ts';
export type {
  BackendType,
  Desired,
  Lease,
  LeaseEndpoint,
  Observed,
  OverlayChange,
  OverlayConfig,
  PeerState,
  Underlay,
  Vtep,
} from './types.ts';
