/**
 * NodePorts at 127.0.0.1: packets from a loopback address may leave by a link only with route_localnet. Together with
 * it a rule drops what comes from outside to such an address and belongs to no translated connection (CVE-2020-8558).
 */
import { ensureSysctl, type SysctlPlace } from '../../../kernel/sysctl/index.ts';

const ROUTE_LOCALNET = 'net/ipv4/conf/all/route_localnet';

/** Throws KERNEL_SYSCALL. Returns whether it changed something. */
export function allowLoopbackRoutes(place: SysctlPlace): boolean {
  return ensureSysctl(ROUTE_LOCALNET, 1, place);
}

/** The kernel's default again. Throws KERNEL_SYSCALL. */
export function forbidLoopbackRoutes(place: SysctlPlace): boolean {
  return ensureSysctl(ROUTE_LOCALNET, 0, place);
}

/** 127.0.0.0/8 */
export function isLoopback(address: string): boolean {
  return address.startsWith('127.');
}
