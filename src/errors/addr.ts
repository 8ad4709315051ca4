import { entry, errorsOf } from './net-error.ts';

/** Text or bytes that are not the address, prefix, MAC, port or index that they should be. */
export const addrCatalogue = {
  ADDR_BAD_IP: entry(
    (c: { text: string; why: string }) => `Cannot read IP address "${c.text}": ${c.why}`,
    () => 'Write it as 192.0.2.1 or 2001:db8::1, without leading zeros, prefix length or zone',
  ),
  ADDR_BAD_CIDR: entry(
    (c: { text: string; why: string }) => `Cannot read CIDR "${c.text}": ${c.why}`,
    () => 'Write it as 192.0.2.0/24 or 2001:db8::/64, with all bits after the prefix zero',
  ),
  ADDR_BAD_MAC: entry(
    (c: { text: string; why: string }) => `Cannot read MAC address "${c.text}": ${c.why}`,
    () => 'Write it as six pairs of hexadecimal digits with colons, e.g. 02:00:5e:10:00:01',
  ),
  ADDR_BAD_PORT: entry(
    (c: { text: string }) => `Cannot read port "${c.text}": want a whole number from 1 to 65535`,
    () => 'Write the port as a decimal number without sign or leading zeros',
  ),
  ADDR_BAD_IFINDEX: entry(
    (c: { text: string }) =>
      `Cannot use interface index "${c.text}": want a whole number from 1 to 2147483647`,
    () => '"ip link" prints the index before each name',
  ),
  ADDR_OUT_OF_RANGE: entry(
    (c: { what: string; within: string }) => `Cannot take ${c.what} of ${c.within}: there are not that many`,
    () => 'Choose a larger network or a smaller number',
  ),
  ADDR_FAMILY_MISMATCH: entry(
    (c: { left: string; right: string }) =>
      `Cannot combine "${c.left}" with "${c.right}": one is IPv4, the other IPv6`,
    () => 'Give both in the same family',
  ),
} as const;

export const addrError = errorsOf(addrCatalogue);
