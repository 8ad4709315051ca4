import { createHash } from 'node:crypto';
import { type Family, localMac, type Mac } from '../addr/index.ts';

/** Defaults that flannel has too. */
export const DEFAULT_VNI = 1;
export const DEFAULT_PORT = 8472;

/** Alias of the devices that Portolan made or took over: only these are deleted when nobody wants them. */
export const DEVICE_ALIAS = 'portolan overlay';

/**
 * Bytes that VXLAN adds to a packet: outer IP header (20 or 40), 8 UDP, 8 VXLAN, 14 inner Ethernet
 * (RFC 7348 section 5).
 */
export const VXLAN_OVERHEAD_BYTES: Record<Family, number> = { 4: 50, 6: 70 };

/** Smallest MTU that the overlay takes: IPv6 asks for 1280 (RFC 8200 section 5), IPv4 for 576 (RFC 791). */
export const MIN_MTU_BYTES: Record<Family, number> = { 4: 576, 6: 1280 };

/** Name of the device, as flannel calls it. */
export function deviceName(family: Family, vni: number): string {
  return family === 4 ? `flannel.${vni}` : `flannel-v6.${vni}`;
}

/** True for names that flannel and Portolan give to their devices. */
export function isDeviceName(name: string): boolean {
  return /^flannel(-v6)?\.[0-9]+$/.test(name);
}

/**
 * MAC address of a node's tunnel end. It follows from the node's name, so a device made anew has the address that
 * the peers know, and nothing has to be remembered.
 */
export function vtepMac(node: string, family: Family): Mac {
  return localMac(createHash('sha256').update(`portolan vtep ipv${family} ${node}`).digest());
}
