import { addrError } from '../errors/addr.ts';
import { readIpv4 } from './ipv4.ts';

/** An IPv6 address as a 128-bit number. */
export type Ipv6 = bigint & { readonly __brand: 'Ipv6' };

const GROUP = /^[0-9a-fA-F]{1,4}$/;

/** The address in `text` (RFC 4291 section 2.2, no zone), or the reason why it is none. */
export function readIpv6(text: string): Ipv6 | string {
  if (text.length > 45) return 'it is too long';
  const halves = text.split('::');
  if (halves.length > 2) return '"::" may stand once';
  const head = groupsOf(halves[0]!, halves.length === 1);
  if (typeof head === 'string') return head;
  if (halves.length === 1) {
    if (head.length !== 8) return 'want eight groups';
    return join(head);
  }
  const tail = groupsOf(halves[1]!, true);
  if (typeof tail === 'string') return tail;
  const missing = 8 - head.length - tail.length;
  if (missing < 1) return '"::" stands for nothing';
  return join([...head, ...new Array<number>(missing).fill(0), ...tail]);
}

function groupsOf(text: string, last: boolean): number[] | string {
  if (text === '') return [];
  const parts = text.split(':');
  const groups: number[] = [];
  for (const [at, part] of parts.entries()) {
    if (last && at === parts.length - 1 && part.includes('.')) {
      const v4 = readIpv4(part);
      if (typeof v4 === 'string') return v4;
      groups.push(v4 >>> 16, v4 & 0xffff);
    } else if (GROUP.test(part)) groups.push(Number.parseInt(part, 16));
    else return part === '' ? 'a group is empty' : `group ${JSON.stringify(part)} is not hexadecimal`;
  }
  return groups;
}

function join(groups: readonly number[]): Ipv6 {
  let value = 0n;
  for (const group of groups) value = (value << 16n) | BigInt(group);
  return value as Ipv6;
}

/** Reads an IPv6 address. Throws ADDR_BAD_IP. */
export function parseIpv6(text: string): Ipv6 {
  const read = readIpv6(text);
  if (typeof read === 'string') throw addrError('ADDR_BAD_IP', { text, why: read });
  return read;
}

/** Canonical text, RFC 5952: lower case, longest run of zero groups (first of equals, two at least) as "::". */
export function formatIpv6(value: bigint): string {
  const groups: number[] = [];
  for (let shift = 112n; shift >= 0n; shift -= 16n) groups.push(Number((value >> shift) & 0xffffn));
  // RFC 5952 section 5: the well-known prefix of IPv4-mapped addresses keeps the dotted form.
  if (value >> 32n === 0xffffn) {
    const low = Number(value & 0xffff_ffffn);
    return `::ffff:${low >>> 24}.${(low >>> 16) & 255}.${(low >>> 8) & 255}.${low & 255}`;
  }
  let runStart = -1;
  let runLength = 1;
  for (let at = 0; at < 8; at++) {
    let end = at;
    while (end < 8 && groups[end] === 0) end++;
    if (end - at > runLength) {
      runStart = at;
      runLength = end - at;
    }
    if (end > at) at = end;
  }
  const hex = (part: readonly number[]) => part.map((group) => group.toString(16)).join(':');
  if (runStart < 0) return hex(groups);
  return `${hex(groups.slice(0, runStart))}::${hex(groups.slice(runStart + runLength))}`;
}
