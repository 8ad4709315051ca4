import { addressBits, Cidr, type Family, type IpAddress } from '../../addr/index.ts';
import {
  attributeTable,
  malformed,
  NLM_F,
  type NlWriter,
  nlI32,
  nlIp,
  nlString,
  nlU8,
  nlU32,
  viewOf,
} from '../netlink/index.ts';
import { ERRNO } from '../syscall/index.ts';
import { byNumber, type RtnlChange } from './change.ts';
import { afOf, familyOf, needBytes } from './family.ts';
import { RT_SCOPE } from './route.ts';

export const RTM_ADDR = { NEW: 20, DEL: 21, GET: 22 } as const;

const HEADER_BYTES = 8;
/** IFA_F_*, if_addr.h */
const NODAD = 0x02;
const DADFAILED = 0x08;
const DEPRECATED = 0x20;
const TENTATIVE = 0x40;
const PERMANENT = 0x80;
const NOPREFIXROUTE = 0x200;

/** struct ifa_cacheinfo: lifetimes in seconds; the kernel's own stamps behind them are not read. */
const FOREVER = 0xffff_ffff;
const nlLifetime = {
  write: (w: NlWriter, { preferredS, validS }: { preferredS: number; validS: number }) =>
    w.u32(preferredS).u32(validS).u32(0).u32(0),
  read: (bytes: Uint8Array) => {
    const view = viewOf(bytes);
    return { preferredS: view.getUint32(0, true), validS: view.getUint32(4, true) };
  },
};

/** Attributes of an address: if_addr.h, enum IFA_*. */
const addrTable = attributeTable('an address', {
  address: [1, 'IFA_ADDRESS', nlIp, 'the peer, on point-to-point links; otherwise as local'],
  local: [2, 'IFA_LOCAL', nlIp],
  label: [3, 'IFA_LABEL', nlString],
  broadcast: [4, 'IFA_BROADCAST', nlIp],
  lifetime: [6, 'IFA_CACHEINFO', nlLifetime],
  flags: [8, 'IFA_FLAGS', nlU32],
  priority: [9, 'IFA_RT_PRIORITY', nlU32],
  targetNetnsId: [10, 'IFA_TARGET_NETNSID', nlI32],
  protocol: [11, 'IFA_PROTO', nlU8],
});

/** An address of a link. */
export interface Addr {
  readonly family: Family;
  readonly ifindex: number;
  readonly address: IpAddress;
  readonly prefixLength: number;
  /** RT_SCOPE_*: 0 global, 253 link, 254 host. */
  readonly scope: number;
  readonly peer?: IpAddress | undefined;
  readonly label?: string | undefined;
  /** Not of limited lifetime. */
  readonly permanent: boolean;
  /** IPv6: not usable yet, or never, because duplicate address detection runs or has found one. */
  readonly tentative: boolean;
  readonly duplicate: boolean;
  readonly noPrefixRoute: boolean;
  /** Not chosen as a source while there is another one. */
  readonly deprecated: boolean;
}

/** An address to put on a link. */
export interface AddrSpec {
  readonly ifindex: number;
  readonly address: IpAddress;
  readonly prefixLength: number;
  readonly scope?: number | undefined;
  readonly peer?: IpAddress | undefined;
  /** IPv6: usable at once, without duplicate address detection; default true. */
  readonly noDad?: boolean | undefined;
  /** Adds no route to the network of the address; default false. */
  readonly noPrefixRoute?: boolean | undefined;
  /** IPv6: no source of packets while there is another address; default false. */
  readonly deprecated?: boolean | undefined;
}

function write(w: NlWriter, spec: AddrSpec): void {
  const family = spec.address.family;
  const flags =
    (family === 6 && spec.noDad !== false ? NODAD : 0) | (spec.noPrefixRoute ? NOPREFIXROUTE : 0) | PERMANENT;
  w.u8(afOf(family))
    .u8(spec.prefixLength)
    .u8(flags & 0xff)
    .u8(spec.scope ?? 0)
    .u32(spec.ifindex);
  const lifetime = spec.deprecated ? { preferredS: 0, validS: FOREVER } : undefined;
  addrTable.write(w, { address: spec.peer ?? spec.address, local: spec.address, lifetime, flags });
}

function text(verb: string, spec: AddrSpec, nameOf = byNumber): string {
  const peer = spec.peer ? ` peer ${spec.peer}` : '';
  return `ip addr ${verb} ${spec.address}${peer}/${spec.prefixLength} dev ${nameOf(spec.ifindex)}${spec.scope === RT_SCOPE.LINK ? ' scope link' : ''}${spec.noPrefixRoute ? ' noprefixroute' : ''}${spec.deprecated ? ' preferred_lft 0' : ''}`;
}

/** Adds an address, or refreshes it. */
export function replaceAddr(spec: AddrSpec): RtnlChange {
  return {
    request: { type: RTM_ADDR.NEW, flags: NLM_F.CREATE | NLM_F.REPLACE, write: (w) => write(w, spec) },
    ignore: [],
    text: (nameOf) => text('replace', spec, nameOf),
  };
}

/** Deletes an address; absent is success, also with its link. */
export function deleteAddr(spec: AddrSpec): RtnlChange {
  return {
    request: { type: RTM_ADDR.DEL, flags: 0, write: (w) => write(w, spec) },
    ignore: [ERRNO.EADDRNOTAVAIL, ERRNO.ENODEV],
    text: (nameOf) => text('del', spec, nameOf),
  };
}

export function addrQuery(family: Family | undefined, ifindex: number) {
  return {
    type: RTM_ADDR.GET,
    flags: 0,
    write: (w: NlWriter) => {
      w.u8(family ? afOf(family) : 0)
        .u8(0)
        .u8(0)
        .u8(0)
        .u32(ifindex);
    },
  };
}

/** Reads RTM_NEWADDR or RTM_DELADDR; undefined for another family. Throws NETLINK_MALFORMED. */
export function readAddr(body: Uint8Array): Addr | undefined {
  needBytes('an address', body, HEADER_BYTES);
  const family = familyOf(body[0]!);
  if (!family) return undefined;
  const a = addrTable.readFrom(body, HEADER_BYTES);
  const address = a.local ?? a.address;
  if (!address) throw malformed('an address', 'it has neither IFA_LOCAL nor IFA_ADDRESS');
  const flags = a.flags ?? body[2]!;
  const peer = a.local && a.address && !a.local.equals(a.address) ? a.address : undefined;
  return {
    family,
    ifindex: viewOf(body).getInt32(4, true),
    address,
    prefixLength: body[1]!,
    scope: body[3]!,
    peer,
    label: a.label,
    permanent: (flags & PERMANENT) !== 0,
    tentative: (flags & TENTATIVE) !== 0,
    duplicate: (flags & DADFAILED) !== 0,
    noPrefixRoute: (flags & NOPREFIXROUTE) !== 0,
    deprecated: (flags & DEPRECATED) !== 0,
  };
}

/** Whether an address has a network of its own: such a one was added for something, and goes elsewhere with it. */
export function isLone({ address, prefixLength }: Pick<Addr, 'address' | 'prefixLength'>): boolean {
  return prefixLength === addressBits(address.family);
}

/** The network that an address says is on its link. */
export function networkOf(addr: Addr): Cidr {
  return Cidr.around(addr.peer ?? addr.address, addr.prefixLength);
}
