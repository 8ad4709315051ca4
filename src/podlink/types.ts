import { hash } from 'node:crypto';
import {
  addressBits,
  type Cidr,
  type Family,
  type IpAddress,
  localMac,
  type Mac,
  parseIp,
} from '../addr/index.ts';
import { poolGateway } from '../ipam/index.ts';
import type { Addr, Fdb, Link, Neigh, Route, RtnlChange } from '../kernel/rtnl/index.ts';
import type { PodLinkKind } from './kinds.ts';

/**
 * The gateways of every routed pod: link-local addresses that nobody owns. The pod reaches them by a permanent neighbour
 * with the MAC of the host's end, so no ARP, no ND and no address on the host's end are needed.
 */
export const POD_GATEWAYS = { 4: parseIp('169.254.1.1'), 6: parseIp('fe80::1') } as const;

/** What a pod link must be. */
export interface PodLinkSpec {
  /** Name of the end at the host. */
  readonly hostLink: string;
  /** Name of the end in the pod. */
  readonly ifname: string;
  readonly addresses: readonly IpAddress[];
  readonly mtuBytes: number;
  readonly hostMac: Mac;
  readonly podMac: Mac;
  readonly kind: PodLinkKind;
  /** Of a bridged pod: the networks that its addresses are of. */
  readonly networks: readonly Cidr[];
  /** Where the pod's routes lead, by family, and the MAC there. */
  readonly gateways: Readonly<Record<Family, IpAddress>>;
  readonly gatewayMac: Mac;
  /** Lengths of the prefixes on the pod's interface, by family. */
  readonly prefixLengths: Readonly<Record<Family, number>>;
}

/** A pod link that is there. */
export interface PodLink {
  /** Index of the host's end, for programs that attach to it. */
  readonly ifindex: number;
  readonly spec: PodLinkSpec;
}

/** What the kernel has at the host's end of one link. */
export interface HostEnd {
  readonly link: Link;
  readonly routes: readonly Route[];
  readonly neighs: readonly Neigh[];
  /** Entries of the bridge's table at this port; empty for a link that is no port. */
  readonly fdb: readonly Fdb[];
  /** Index of the node's bridge of pods; undefined when there is none. */
  readonly bridge: number | undefined;
}

/** What the kernel has at the pod's end. */
export interface PodEnd {
  readonly link: Link;
  readonly loopbackUp: boolean;
  readonly addrs: readonly Addr[];
  readonly routes: readonly Route[];
  readonly neighs: readonly Neigh[];
}

/** One step, and what CHECK says when it is still to do. */
export interface Step {
  readonly change: RtnlChange;
  /** A function: an ADD takes all steps and asks of none why. */
  readonly missing: () => string;
}

/** Prefix of the names of host ends: only links of this form are ever pruned. */
const HOST_LINK_NAME = /^po[0-9a-f]{11}$/;

/** `po` and 11 hexadecimal digits of a hash: 13 of the 15 bytes that a name may have. Pure. */
export function hostLinkName(containerId: string, ifname: string): string {
  return `po${digest(containerId, ifname).toString('hex', 0, 6).slice(0, 11)}`;
}

/** True for the names that `hostLinkName` makes. */
export function isHostLinkName(name: string): boolean {
  return HOST_LINK_NAME.test(name);
}

/** The bridge of a node's pods. */
export const BRIDGE_NAME = 'portolan0';
/** Tells it from one that somebody else gave this name. */
export const BRIDGE_ALIAS = 'portolan pods';
/** The same on every node: bridges of two nodes never meet, and one that is made anew is still their gateway to pods. */
export const BRIDGE_MAC = localMac(hash('sha256', BRIDGE_NAME, 'buffer').subarray(0, 6));

/** Both ends' MACs are computed, not drawn: then each end's neighbours can be written before the link exists. */
export function podLinkSpec(attachment: {
  readonly containerId: string;
  readonly ifname: string;
  readonly hostLink: string;
  readonly addresses: readonly IpAddress[];
  readonly mtuBytes: number;
  readonly kind: string;
  readonly networks: readonly Cidr[];
}): PodLinkSpec {
  const known = specs.get(attachment);
  if (known) return known;
  const bytes = digest(attachment.containerId, attachment.ifname);
  const hostMac = localMac(bytes.subarray(8, 14));
  const kind = attachment.kind === 'bridge' ? 'bridge' : 'routed';
  const networks = kind === 'bridge' ? attachment.networks : [];
  const networkOf = (family: Family) => networks.find((network) => network.family === family);
  const gateway = (family: Family) => {
    const network = networkOf(family);
    return network ? poolGateway(network) : POD_GATEWAYS[family];
  };
  const prefixLength = (family: Family) => networkOf(family)?.prefixLength ?? addressBits(family);
  const spec: PodLinkSpec = {
    hostLink: attachment.hostLink,
    ifname: attachment.ifname,
    addresses: attachment.addresses,
    mtuBytes: attachment.mtuBytes,
    hostMac,
    podMac: localMac(bytes.subarray(14, 20)),
    kind,
    networks,
    gateways: { 4: gateway(4), 6: gateway(6) },
    gatewayMac: kind === 'bridge' ? BRIDGE_MAC : hostMac,
    prefixLengths: { 4: prefixLength(4), 6: prefixLength(6) },
  };
  specs.set(attachment, spec);
  return spec;
}

/** Attachments are never changed in place, and each pass over all links asks for every one. */
const specs = new WeakMap<object, PodLinkSpec>();

function digest(containerId: string, ifname: string): Buffer {
  return hash('sha256', `${containerId}/${ifname}`, 'buffer');
}
