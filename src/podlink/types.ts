import { hash } from 'node:crypto';
import { type IpAddress, localMac, type Mac, parseIp } from '../addr/index.ts';
import type { Addr, Link, Neigh, Route } from '../kernel/rtnl/index.ts';

/**
 * The gateways of every pod: link-local addresses that nobody owns. The pod reaches them by a permanent neighbour
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
}

/** What the kernel has at the pod's end. */
export interface PodEnd {
  readonly link: Link;
  readonly loopbackUp: boolean;
  readonly addrs: readonly Addr[];
  readonly routes: readonly Route[];
  readonly neighs: readonly Neigh[];
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

/** Both ends' MACs are computed, not drawn: then each end's neighbours can be written before the link exists. */
export function podLinkSpec(attachment: {
  readonly containerId: string;
  readonly ifname: string;
  readonly hostLink: string;
  readonly addresses: readonly IpAddress[];
  readonly mtuBytes: number;
}): PodLinkSpec {
  const known = specs.get(attachment);
  if (known) return known;
  const bytes = digest(attachment.containerId, attachment.ifname);
  const spec: PodLinkSpec = {
    hostLink: attachment.hostLink,
    ifname: attachment.ifname,
    addresses: attachment.addresses,
    mtuBytes: attachment.mtuBytes,
    hostMac: localMac(bytes.subarray(8, 14)),
    podMac: localMac(bytes.subarray(14, 20)),
  };
  specs.set(attachment, spec);
  return spec;
}

/** Attachments are never changed in place, and each pass over all links asks for every one. */
const specs = new WeakMap<object, PodLinkSpec>();

function digest(containerId: string, ifname: string): Buffer {
  return hash('sha256', `${containerId}/${ifname}`, 'buffer');
}
