/**
 * Traffic control as far as BPF needs it: the qdisc `clsact`, which does nothing but hold filters for both directions,
 * and filters `bpf` in direct-action mode. Linux >= 4.5; kernels >= 6.6 have tcx instead.
 */
import { rtnlError } from '../../errors/index.ts';
import {
  attributeTable,
  NLM_F,
  type NlRequest,
  type NlWriter,
  nlBytes,
  nlString,
  nlU32,
  viewOf,
} from '../netlink/index.ts';
import { ERRNO } from '../syscall/index.ts';
import { byNumber, type NameOf, type RtnlChange } from './change.ts';
import { needBytes } from './family.ts';

export const RTM_QDISC = { NEW: 36, DEL: 37, GET: 38 } as const;
export const RTM_FILTER = { NEW: 44, DEL: 45, GET: 46 } as const;

/** struct tcmsg: family and padding 4, ifindex 4, handle 4, parent 4, info 4. */
const HEADER_BYTES = 20;
/** pkt_sched.h: TC_H_CLSACT with TC_H_MIN_INGRESS or TC_H_MIN_EGRESS. */
const CLSACT = 0xffff_fff1;
const CLSACT_HANDLE = 0xffff_0000;
const PARENT = { ingress: 0xffff_fff2, egress: 0xffff_fff3 } as const;
const ETH_P_ALL = 0x0003;
/** pkt_cls.h: TCA_BPF_FLAG_ACT_DIRECT: what the program returns is the verdict. */
const ACT_DIRECT = 1;

export type FilterDirection = keyof typeof PARENT;

/** Attributes of a qdisc and a filter: rtnetlink.h, enum TCA_*. */
const TCA_OPTIONS = 2;
const trafficTable = attributeTable('a traffic control entry', {
  kind: [1, 'TCA_KIND', nlString],
  options: [TCA_OPTIONS, 'TCA_OPTIONS', { ...nlBytes, nested: true }],
});

/** Attributes of a filter of kind `bpf`: pkt_cls.h, enum TCA_BPF_*. */
const bpfTable = attributeTable('a BPF filter', {
  fd: [6, 'TCA_BPF_FD', nlU32, 'a loaded program; written only'],
  name: [7, 'TCA_BPF_NAME', nlString],
  flags: [8, 'TCA_BPF_FLAGS', nlU32],
  tag: [10, 'TCA_BPF_TAG', nlBytes],
  programId: [11, 'TCA_BPF_ID', nlU32, 'Linux >= 4.13'],
});

/** A qdisc of a link. */
export interface Qdisc {
  readonly ifindex: number;
  readonly kind: string;
  readonly parent: number;
  readonly handle: number;
}

/** Where a filter stands: the kernel asks filters of a direction by rising priority. */
export interface FilterPlace {
  readonly ifindex: number;
  readonly direction: FilterDirection;
  /** 1..65535, lower is asked first. */
  readonly priority: number;
  /** Tells filters of one priority apart. */
  readonly handle: number;
}

/** A BPF filter as the kernel has it. */
export interface BpfFilter extends FilterPlace {
  readonly name: string;
  readonly directAction: boolean;
  /** Id of its program. */
  readonly programId: number;
}

function header(w: NlWriter, ifindex: number, handle: number, parent: number, info: number): void {
  w.u32(0).u32(ifindex).u32(handle).u32(parent).u32(info);
}

/** Priority in the upper half, protocol in network order in the lower one. */
function infoOf(priority: number): number {
  return ((priority << 16) | ((ETH_P_ALL & 0xff) << 8) | (ETH_P_ALL >> 8)) >>> 0;
}

const dev = (ifindex: number, nameOf: NameOf) => `dev ${nameOf(ifindex)}`;
const filterWords = (place: FilterPlace, nameOf: NameOf) =>
  `${dev(place.ifindex, nameOf)} ${place.direction} pref ${place.priority} handle 0x${place.handle.toString(16)} bpf`;

/** Gives a link a clsact qdisc; one that is there already is success. ENOENT: the kernel lacks sch_ingress. */
export function ensureClsact(ifindex: number): RtnlChange {
  return {
    request: {
      type: RTM_QDISC.NEW,
      flags: NLM_F.CREATE | NLM_F.EXCL,
      write: (w) => {
        header(w, ifindex, CLSACT_HANDLE, CLSACT, 0);
        trafficTable.write(w, { kind: 'clsact' });
      },
    },
    ignore: [ERRNO.EEXIST],
    text: (nameOf = byNumber) => `tc qdisc add ${dev(ifindex, nameOf)} clsact`,
    fail: (cause) =>
      cause.errno === ERRNO.ENOENT
        ? rtnlError('RTNL_TC_KIND_MISSING', { ifindex, kind: 'clsact', module: 'sch_ingress' }, cause)
        : undefined,
  };
}

/** Deletes the clsact qdisc of a link and all filters in it; absent is success. */
export function deleteClsact(ifindex: number): RtnlChange {
  return {
    request: {
      type: RTM_QDISC.DEL,
      flags: 0,
      write: (w) => {
        header(w, ifindex, CLSACT_HANDLE, CLSACT, 0);
        trafficTable.write(w, { kind: 'clsact' });
      },
    },
    ignore: [ERRNO.ENOENT, ERRNO.EINVAL, ERRNO.ENODEV],
    text: (nameOf = byNumber) => `tc qdisc del ${dev(ifindex, nameOf)} clsact`,
  };
}

/**
 * Puts a program at a place, new or instead of the one that is there. The kernel swaps the whole filter under RCU:
 * each packet sees the one or the other.
 */
export function replaceBpfFilter(place: FilterPlace, program: { fd: number; name: string }): RtnlChange {
  return {
    request: {
      type: RTM_FILTER.NEW,
      flags: NLM_F.CREATE,
      write: (w) => {
        header(w, place.ifindex, place.handle, PARENT[place.direction], infoOf(place.priority));
        trafficTable.write(w, { kind: 'bpf' });
        w.nest(TCA_OPTIONS, () =>
          bpfTable.write(w, { fd: program.fd, name: program.name, flags: ACT_DIRECT }),
        );
      },
    },
    ignore: [],
    text: (nameOf = byNumber) =>
      `tc filter replace ${filterWords(place, nameOf)} ${program.name} direct-action`,
    fail: (cause) =>
      cause.errno === ERRNO.ENOENT
        ? rtnlError('RTNL_TC_KIND_MISSING', { ifindex: place.ifindex, kind: 'bpf', module: 'cls_bpf' }, cause)
        : undefined,
  };
}

/** Deletes a filter; absent, also with its qdisc or link, is success. */
export function deleteBpfFilter(place: FilterPlace): RtnlChange {
  return {
    request: {
      type: RTM_FILTER.DEL,
      flags: 0,
      write: (w) => {
        header(w, place.ifindex, place.handle, PARENT[place.direction], infoOf(place.priority));
        trafficTable.write(w, { kind: 'bpf' });
      },
    },
    ignore: [ERRNO.ENOENT, ERRNO.EINVAL, ERRNO.ENODEV],
    text: (nameOf = byNumber) => `tc filter del ${filterWords(place, nameOf)}`,
  };
}

export function qdiscQuery(ifindex: number): NlRequest {
  return { type: RTM_QDISC.GET, flags: 0, write: (w) => header(w, ifindex, 0, 0, 0) };
}

export function filterQuery(ifindex: number, direction: FilterDirection): NlRequest {
  return { type: RTM_FILTER.GET, flags: 0, write: (w) => header(w, ifindex, 0, PARENT[direction], 0) };
}

/** Reads RTM_*QDISC. Throws NETLINK_MALFORMED. */
export function readQdisc(body: Uint8Array): Qdisc {
  needBytes('a qdisc', body, HEADER_BYTES);
  const view = viewOf(body);
  return {
    ifindex: view.getInt32(4, true),
    handle: view.getUint32(8, true),
    parent: view.getUint32(12, true),
    kind: trafficTable.readFrom(body, HEADER_BYTES).kind ?? '',
  };
}

export function isClsact(qdisc: Qdisc): boolean {
  return qdisc.kind === 'clsact';
}

/** Reads RTM_*TFILTER; undefined for a filter of another kind, or the head of a priority. Throws NETLINK_MALFORMED. */
export function readBpfFilter(body: Uint8Array): BpfFilter | undefined {
  needBytes('a filter', body, HEADER_BYTES);
  const view = viewOf(body);
  const { kind, options } = trafficTable.readFrom(body, HEADER_BYTES);
  const handle = view.getUint32(8, true);
  const parent = view.getUint32(12, true);
  if (kind !== 'bpf' || !options || handle === 0) return undefined;
  const direction = parent === PARENT.ingress ? 'ingress' : parent === PARENT.egress ? 'egress' : undefined;
  if (!direction) return undefined;
  const bpf = bpfTable.read(options);
  return {
    ifindex: view.getInt32(4, true),
    direction,
    handle,
    priority: view.getUint32(16, true) >>> 16,
    name: bpf.name ?? '',
    directAction: ((bpf.flags ?? 0) & ACT_DIRECT) !== 0,
    programId: bpf.programId ?? 0,
  };
}
