export { nextFree, poolGateway, reservedRole, usableAddresses } from './pool.ts';
export { AttachmentStore, type AttachmentStoreOptions } from './store.ts';
export {
  type Attachment,
  type AttachmentKey,
  type AttachmentRequest,
  type AttachmentState,
  attachmentKey,
  type PodIdentity,
  type PoolUsage,
  type PortMapping,
} from './types.ts';
export type { DataSync } from './wal-sync.ts';
