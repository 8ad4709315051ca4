/**
 * Refusals of datagrams are ICMP errors, of which the kernel sends one client about one a second after the first few
 * (icmp_ratelimit), and a client that hears nothing waits. "Unreachable" is taken out of that limit; the one for the
 * whole node (icmp_msgs_per_sec) stays. They are no larger than what they answer, so nobody gains by provoking them.
 */
import { isNetError } from '../../../errors/index.ts';
import { readSysctl, type SysctlPlace, writeSysctl } from '../../../kernel/sysctl/index.ts';

/** What is limited, by family, as the kernel has it by itself: types 3, 4, 11, 12; and for IPv6 all but 2. */
const LIMITS = [
  { name: 'net/ipv4/icmp_ratemask', kernel: '6168', without: '6160' },
  { name: 'net/ipv6/icmp/ratemask', kernel: '0-1,3-127', without: '0,3-127' },
] as const;

/** Somebody else's choice is left alone, and a /proc/sys that can't be written: then clients wait longer, and no more. */
export function allowUnreachables(place: SysctlPlace): void {
  for (const { name, kernel, without } of LIMITS) exchange(name, kernel, without, place);
}

/** The kernel's defaults again. */
export function limitUnreachables(place: SysctlPlace): void {
  for (const { name, kernel, without } of LIMITS) exchange(name, without, kernel, place);
}

function exchange(name: string, from: string, to: string, place: SysctlPlace): void {
  try {
    if (readSysctl(name, place) === from) writeSysctl(name, to, place);
  } catch (error) {
    if (!isNetError(error, 'KERNEL_SYSCALL')) throw error;
  }
}
