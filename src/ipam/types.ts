import type { Cidr, IpAddress } from '../addr/index.ts';
import type { Protocol } from '../model/kubernetes.ts';

/** Names one attachment: a container may have several interfaces. */
export interface AttachmentKey {
  readonly containerId: string;
  /** Name of the interface inside the container, e.g. `eth0`. */
  readonly ifname: string;
}

/** The Pod that a container belongs to, as far as the caller said. */
export interface PodIdentity {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
}

/**
 * `pending` from the moment its addresses are taken until its link is ready: what is found pending at start
 * belongs to an ADD that never returned, and is undone.
 */
export type AttachmentState = 'pending' | 'ready';

/** A port of the node that leads to a port of a container: the CNI capability `portMappings`. */
export interface PortMapping {
  readonly hostPort: number;
  readonly containerPort: number;
  readonly protocol: Protocol;
  /** Canonical; undefined for all addresses of the node. */
  readonly hostIP: string | undefined;
}

/** One interface of one container together with the addresses that it holds. */
export interface Attachment extends AttachmentKey {
  /** Path of the network namespace as the runtime gave it. */
  readonly netns: string;
  /** Inode of that namespace: tells it from a later one at the same path. */
  readonly netnsInode: bigint;
  readonly pod: PodIdentity | undefined;
  /** At most one of each family. */
  readonly addresses: readonly IpAddress[];
  /** Name of the interface at the host's end. */
  readonly hostLink: string;
  /** Kind of the pod link, e.g. `routed`. */
  readonly kind: string;
  /** The networks that its addresses are of; empty unless they were asked to be recorded. */
  readonly networks: readonly Cidr[];
  /** Name of the CNI network that asked; GC of one network spares the others. Empty for pods of the agent itself. */
  readonly network: string;
  readonly mtuBytes: number;
  /** Asked for by a runtime; hostPorts of Pods that only the API names are not here. */
  readonly portMappings: readonly PortMapping[];
  readonly state: AttachmentState;
  readonly createdAtMs: number;
}

/** What a new attachment is made of; addresses are chosen by the store. */
export interface AttachmentRequest
  extends Omit<Attachment, 'addresses' | 'networks' | 'portMappings' | 'state' | 'createdAtMs'> {
  /** Default none. */
  readonly portMappings?: readonly PortMapping[];
  /** Records the pools of the addresses as `networks`: a node may get others while the pod lives. Default false. */
  readonly recordNetworks?: boolean;
  /** Addresses that must be these; of the other families a free one is chosen. */
  readonly wanted?: readonly IpAddress[];
}

/** How full one pool is. */
export interface PoolUsage {
  readonly pool: Cidr;
  readonly used: number;
  /** Addresses that pods may have: without network, gateway and broadcast address. */
  readonly usable: bigint;
}

/** The one text of a key, for maps. The slash can't be part of a container id. */
export function attachmentKey(key: AttachmentKey): string {
  return `${key.containerId}/${key.ifname}`;
}
