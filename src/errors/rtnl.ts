import { entry, errorsOf } from './net-error.ts';

/** Netlink in general, and links, addresses, routes, neighbours, FDB entries and rules. */
export const rtnlCatalogue = {
  NETLINK_MALFORMED: entry(
    (c: { what: string; why: string }) => `Cannot read ${c.what}: ${c.why}`,
    () => 'The kernel sent something that this version does not understand; report it with "uname -r"',
  ),
  NETLINK_NO_ANSWER: entry(
    (c: { what: string; timeoutMs: number }) =>
      `Cannot ${c.what}: the kernel did not answer within ${c.timeoutMs} ms`,
    () => 'Another process may hold the kernel\'s network lock; look for a hanging "ip" or CNI process',
  ),
  NETLINK_DUMP_INTERRUPTED: entry(
    (c: { what: string; tries: number }) =>
      `Cannot list ${c.what}: the table changed during each of ${c.tries} tries`,
    () => 'Something changes this table without pause; find it with "ip monitor"',
  ),
  NETLINK_CLOSED: entry(
    (c: { what: string }) => `Cannot ${c.what}: the netlink socket is closed`,
    () => 'This is an error of the program: it used a socket after closing it',
  ),
  RTNL_LINK_EXISTS: entry(
    (c: { name: string; kind: string }) => `Cannot create link "${c.name}": it exists with kind "${c.kind}"`,
    (c) => `Delete it with "ip link del ${c.name}", or choose another name`,
  ),
  RTNL_NO_SUCH_LINK: entry(
    (c: { action: string; link: string }) => `Cannot ${c.action}: there is no link "${c.link}"`,
    () => '"ip link" lists the links of this namespace',
  ),
  RTNL_LINK_KIND_MISSING: entry(
    (c: { name: string; kind: string }) =>
      `Cannot create link "${c.name}": this kernel has no links of kind "${c.kind}"`,
    (c) => `Load the module with "modprobe ${c.kind}", or use a kernel that has it`,
  ),
  RTNL_BAD_LINK_NAME: entry(
    (c: { name: string; why: string }) => `Cannot use link name "${c.name}": ${c.why}`,
    () => 'Use 1 to 15 characters without "/", ":" and spaces',
  ),
  RTNL_EXISTS: entry(
    (c: { action: string }) => `Cannot ${c.action}: it exists already`,
    () => 'Replace it instead of adding it, or delete the other one first',
  ),
  RTNL_GATEWAY_UNREACHABLE: entry(
    (c: { action: string }) => `Cannot ${c.action}: the gateway is not reachable over that link`,
    () => 'Give the link an address of the gateway\'s network, or add the route with "onlink"',
  ),
  RTNL_TC_KIND_MISSING: entry(
    (c: { ifindex: number; kind: string; module: string }) =>
      `Cannot set up traffic control at link ${c.ifindex}: this kernel has no "${c.kind}"`,
    (c) => `Load the module with "modprobe ${c.module}", or use a kernel that has it or tcx (>= 6.6)`,
  ),
  RTNL_FAILED: entry(
    (c: { action: string }) => `Cannot ${c.action}`,
    () => "The kernel's answer is in brackets; the same command of ip(8) would get it too",
  ),
} as const;

export const rtnlError = errorsOf(rtnlCatalogue);
