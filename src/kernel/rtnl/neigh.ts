import type { Family, IpAddress, Mac } from '../../addr/index.ts';
import {
  AF,
  attributeTable,
  NLM_F,
  type NlWriter,
  nlIp,
  nlMac,
  nlU8,
  nlU16,
  nlU16be,
  nlU32,
  viewOf,
} from '../netlink/index.ts';
import { ERRNO } from '../syscall/index.ts';
import { byNumber, type RtnlChange } from './change.ts';
import { afOf, familyOf, needBytes } from './family.ts';

export const RTM_NEIGH = { NEW: 28, DEL: 29, GET: 30 } as const;

/** NUD_*, neighbour.h */
export const NUD = {
  INCOMPLETE: 1,
  REACHABLE: 2,
  STALE: 4,
  DELAY: 8,
  PROBE: 0x10,
  FAILED: 0x20,
  NOARP: 0x40,
  PERMANENT: 0x80,
} as const;
/** The entry is wanted: the kernel makes it and asks for the MAC address, or asks again whether it still holds. */
const NTF_USE = 1;
const NTF_SELF = 2;
const NTF_MASTER = 4;
const HEADER_BYTES = 12;

/** Attributes of a neighbour or FDB entry: neighbour.h, enum NDA_*. */
const neighTable = attributeTable('a neighbour', {
  destination: [1, 'NDA_DST', nlIp, 'neighbour: its address; FDB of a tunnel: the far end'],
  mac: [2, 'NDA_LLADDR', nlMac],
  vlan: [5, 'NDA_VLAN', nlU16],
  port: [6, 'NDA_PORT', nlU16be],
  vni: [7, 'NDA_VNI', nlU32],
  ifindex: [8, 'NDA_IFINDEX', nlU32],
  master: [9, 'NDA_MASTER', nlU32],
  protocol: [12, 'NDA_PROTOCOL', nlU8],
});

/** An entry of the ARP or ND table. */
export interface Neigh {
  readonly family: Family;
  readonly ifindex: number;
  readonly destination: IpAddress;
  readonly mac?: Mac | undefined;
  /** NUD_* bits. */
  readonly state: number;
  readonly permanent: boolean;
}

/** An entry of the forwarding table of a bridge or tunnel. */
export interface Fdb {
  readonly ifindex: number;
  readonly mac: Mac;
  /** Of a tunnel: the address that frames to this MAC are sent to. */
  readonly destination?: IpAddress | undefined;
  readonly master?: number | undefined;
  readonly vlan?: number | undefined;
  readonly state: number;
  readonly permanent: boolean;
  /** In the device's own table, not in that of the bridge above. */
  readonly self: boolean;
}

/** struct ndmsg */
function header(w: NlWriter, family: number, ifindex: number, state: number, flags: number): void {
  w.u8(family).u8(0).u16(0).u32(ifindex).u16(state).u8(flags).u8(0);
}

export type NeighSpec = Pick<Neigh, 'ifindex' | 'destination'> & { readonly mac?: Mac | undefined };
export type FdbSpec = Pick<Fdb, 'ifindex' | 'mac' | 'destination'>;

/** Sets a permanent neighbour. */
export function replaceNeigh(spec: NeighSpec & { readonly mac: Mac }): RtnlChange {
  return {
    request: {
      type: RTM_NEIGH.NEW,
      flags: NLM_F.CREATE | NLM_F.REPLACE,
      write(w) {
        header(w, afOf(spec.destination.family), spec.ifindex, NUD.PERMANENT, 0);
        neighTable.write(w, { destination: spec.destination, mac: spec.mac });
      },
    },
    ignore: [],
    text: (nameOf = byNumber) =>
      `ip neigh replace ${spec.destination} lladdr ${spec.mac} dev ${nameOf(spec.ifindex)} nud permanent`,
  };
}

/** Has the kernel find a neighbour's MAC address, or make sure of it. */
export function useNeigh(spec: Pick<NeighSpec, 'ifindex' | 'destination'>): RtnlChange {
  return {
    request: {
      type: RTM_NEIGH.NEW,
      flags: NLM_F.CREATE,
      write(w) {
        header(w, afOf(spec.destination.family), spec.ifindex, 0, NTF_USE);
        neighTable.write(w, { destination: spec.destination });
      },
    },
    ignore: [],
    text: (nameOf = byNumber) => `ip neigh replace ${spec.destination} dev ${nameOf(spec.ifindex)} use`,
  };
}

/** Deletes a neighbour; absent is success. */
export function deleteNeigh(spec: NeighSpec): RtnlChange {
  return {
    request: {
      type: RTM_NEIGH.DEL,
      flags: 0,
      write(w) {
        header(w, afOf(spec.destination.family), spec.ifindex, 0, 0);
        neighTable.write(w, { destination: spec.destination });
      },
    },
    ignore: [ERRNO.ENOENT, ERRNO.ENODEV],
    text: (nameOf = byNumber) => `ip neigh del ${spec.destination} dev ${nameOf(spec.ifindex)}`,
  };
}

function writeFdb(w: NlWriter, spec: FdbSpec, state: number): void {
  header(w, AF.BRIDGE, spec.ifindex, state, NTF_SELF);
  neighTable.write(w, { destination: spec.destination, mac: spec.mac });
}

/** Sets a permanent FDB entry of the device itself (`self`). */
export function replaceFdb(spec: FdbSpec): RtnlChange {
  return {
    request: {
      type: RTM_NEIGH.NEW,
      flags: NLM_F.CREATE | NLM_F.REPLACE,
      write: (w) => writeFdb(w, spec, NUD.PERMANENT),
    },
    ignore: [],
    text: (nameOf = byNumber) =>
      `bridge fdb replace ${spec.mac} dev ${nameOf(spec.ifindex)}${spec.destination ? ` dst ${spec.destination}` : ''} self permanent`,
  };
}

/** Deletes an FDB entry of the device itself; absent is success. */
export function deleteFdb(spec: FdbSpec): RtnlChange {
  return {
    request: { type: RTM_NEIGH.DEL, flags: 0, write: (w) => writeFdb(w, spec, NUD.PERMANENT) },
    ignore: [ERRNO.ENOENT, ERRNO.ENODEV],
    text: (nameOf = byNumber) =>
      `bridge fdb del ${spec.mac} dev ${nameOf(spec.ifindex)}${spec.destination ? ` dst ${spec.destination}` : ''} self`,
  };
}

export type BridgeFdbSpec = Pick<Fdb, 'ifindex' | 'mac'>;

/** Says at which port of a bridge a MAC is; it stays there whatever frames say (`static`). */
export function replaceBridgeFdb(spec: BridgeFdbSpec): RtnlChange {
  return {
    request: {
      type: RTM_NEIGH.NEW,
      flags: NLM_F.CREATE | NLM_F.REPLACE,
      write(w) {
        header(w, AF.BRIDGE, spec.ifindex, NUD.NOARP, NTF_MASTER);
        neighTable.write(w, { mac: spec.mac });
      },
    },
    ignore: [],
    text: (nameOf = byNumber) => `bridge fdb replace ${spec.mac} dev ${nameOf(spec.ifindex)} master static`,
  };
}

export function neighQuery(family: Family | undefined, ifindex: number | undefined) {
  return {
    type: RTM_NEIGH.GET,
    flags: 0,
    write(w: NlWriter) {
      header(w, family ? afOf(family) : 0, 0, 0, 0);
      neighTable.write(w, { ifindex });
    },
  };
}

export function fdbQuery(ifindex: number | undefined) {
  return {
    type: RTM_NEIGH.GET,
    flags: 0,
    write: (w: NlWriter) => header(w, AF.BRIDGE, ifindex ?? 0, 0, 0),
  };
}

/** True when RTM_*NEIGH is about a forwarding table. */
export function isFdb(body: Uint8Array): boolean {
  return body[0] === AF.BRIDGE;
}

/** Reads RTM_*NEIGH of an IP family; undefined for others. Throws NETLINK_MALFORMED. */
export function readNeigh(body: Uint8Array): Neigh | undefined {
  needBytes('a neighbour', body, HEADER_BYTES);
  const family = familyOf(body[0]!);
  if (!family) return undefined;
  const a = neighTable.readFrom(body, HEADER_BYTES);
  if (!a.destination) return undefined;
  const state = viewOf(body).getUint16(8, true);
  return {
    family,
    ifindex: viewOf(body).getInt32(4, true),
    destination: a.destination,
    mac: a.mac,
    state,
    permanent: (state & NUD.PERMANENT) !== 0,
  };
}

/** Reads RTM_*NEIGH of AF_BRIDGE; undefined without a MAC. Throws NETLINK_MALFORMED. */
export function readFdb(body: Uint8Array): Fdb | undefined {
  needBytes('an FDB entry', body, HEADER_BYTES);
  const a = neighTable.readFrom(body, HEADER_BYTES);
  if (!a.mac) return undefined;
  const state = viewOf(body).getUint16(8, true);
  const flags = body[10]!;
  return {
    ifindex: viewOf(body).getInt32(4, true),
    mac: a.mac,
    destination: a.destination,
    master: a.master,
    vlan: a.vlan,
    state,
    permanent: (state & NUD.PERMANENT) !== 0,
    self: (flags & NTF_SELF) !== 0 && (flags & NTF_MASTER) === 0,
  };
}
