/** What a section's name says about the programs in it, as libbpf reads it (tools/lib/bpf/libbpf.c, section_defs). */
import { ATTACH, PROG_FLAG, PROG_TYPE } from './constants.ts';

export interface ProgramKind {
  readonly type: number;
  /** expected_attach_type; 0 where the type has none. */
  readonly attachType: number;
  readonly flags: number;
  /** Name of the kernel function or typedef in the kernel's BTF that it attaches to, for tracing programs. */
  readonly kernelTarget?: { readonly name: string; readonly what: 'function' | 'typedef' };
  /** What follows the first slash, e.g. the tracepoint `skb/kfree_skb`. */
  readonly target: string;
}

type Row = readonly [prefix: string, type: number, attachType: number, flags?: number, btf?: string];

/** `btf` is the prefix of the name in the kernel's BTF. Prefixes match whole path parts. */
const ROWS: readonly Row[] = [
  ['xdp.frags/devmap', PROG_TYPE.XDP, ATTACH.XDP_DEVMAP, PROG_FLAG.XDP_HAS_FRAGS],
  ['xdp/devmap', PROG_TYPE.XDP, ATTACH.XDP_DEVMAP],
  ['xdp/cpumap', PROG_TYPE.XDP, ATTACH.XDP_CPUMAP],
  ['xdp.frags', PROG_TYPE.XDP, ATTACH.XDP, PROG_FLAG.XDP_HAS_FRAGS],
  ['xdp', PROG_TYPE.XDP, ATTACH.XDP],
  ['tcx/ingress', PROG_TYPE.SCHED_CLS, ATTACH.TCX_INGRESS],
  ['tcx/egress', PROG_TYPE.SCHED_CLS, ATTACH.TCX_EGRESS],
  ['tc', PROG_TYPE.SCHED_CLS, 0],
  ['classifier', PROG_TYPE.SCHED_CLS, 0],
  ['action', PROG_TYPE.SCHED_ACT, 0],
  ['socket', PROG_TYPE.SOCKET_FILTER, 0],
  ['cgroup_skb/ingress', PROG_TYPE.CGROUP_SKB, ATTACH.CGROUP_INET_INGRESS],
  ['cgroup_skb/egress', PROG_TYPE.CGROUP_SKB, ATTACH.CGROUP_INET_EGRESS],
  ['cgroup/connect4', PROG_TYPE.CGROUP_SOCK_ADDR, ATTACH.CGROUP_INET4_CONNECT],
  ['cgroup/connect6', PROG_TYPE.CGROUP_SOCK_ADDR, ATTACH.CGROUP_INET6_CONNECT],
  ['cgroup/sendmsg4', PROG_TYPE.CGROUP_SOCK_ADDR, ATTACH.CGROUP_UDP4_SENDMSG],
  ['cgroup/sendmsg6', PROG_TYPE.CGROUP_SOCK_ADDR, ATTACH.CGROUP_UDP6_SENDMSG],
  ['cgroup/recvmsg4', PROG_TYPE.CGROUP_SOCK_ADDR, ATTACH.CGROUP_UDP4_RECVMSG],
  ['cgroup/recvmsg6', PROG_TYPE.CGROUP_SOCK_ADDR, ATTACH.CGROUP_UDP6_RECVMSG],
  ['cgroup/getpeername4', PROG_TYPE.CGROUP_SOCK_ADDR, ATTACH.CGROUP_INET4_GETPEERNAME],
  ['cgroup/getpeername6', PROG_TYPE.CGROUP_SOCK_ADDR, ATTACH.CGROUP_INET6_GETPEERNAME],
  ['cgroup/getsockname4', PROG_TYPE.CGROUP_SOCK_ADDR, ATTACH.CGROUP_INET4_GETSOCKNAME],
  ['cgroup/getsockname6', PROG_TYPE.CGROUP_SOCK_ADDR, ATTACH.CGROUP_INET6_GETSOCKNAME],
  ['cgroup/bind4', PROG_TYPE.CGROUP_SOCK_ADDR, ATTACH.CGROUP_INET4_BIND],
  ['cgroup/bind6', PROG_TYPE.CGROUP_SOCK_ADDR, ATTACH.CGROUP_INET6_BIND],
  ['cgroup/post_bind4', PROG_TYPE.CGROUP_SOCK, ATTACH.CGROUP_INET4_POST_BIND],
  ['cgroup/post_bind6', PROG_TYPE.CGROUP_SOCK, ATTACH.CGROUP_INET6_POST_BIND],
  ['cgroup/sock_create', PROG_TYPE.CGROUP_SOCK, ATTACH.CGROUP_INET_SOCK_CREATE],
  ['cgroup/sock_release', PROG_TYPE.CGROUP_SOCK, ATTACH.CGROUP_INET_SOCK_RELEASE],
  ['cgroup/sock', PROG_TYPE.CGROUP_SOCK, ATTACH.CGROUP_INET_SOCK_CREATE],
  ['cgroup/getsockopt', PROG_TYPE.CGROUP_SOCKOPT, ATTACH.CGROUP_GETSOCKOPT],
  ['cgroup/setsockopt', PROG_TYPE.CGROUP_SOCKOPT, ATTACH.CGROUP_SETSOCKOPT],
  ['sockops', PROG_TYPE.SOCK_OPS, ATTACH.CGROUP_SOCK_OPS],
  ['sk_skb/stream_parser', PROG_TYPE.SK_SKB, ATTACH.SK_SKB_STREAM_PARSER],
  ['sk_skb/stream_verdict', PROG_TYPE.SK_SKB, ATTACH.SK_SKB_STREAM_VERDICT],
  ['sk_msg', PROG_TYPE.SK_MSG, ATTACH.SK_MSG_VERDICT],
  ['sk_lookup', PROG_TYPE.SK_LOOKUP, ATTACH.SK_LOOKUP],
  ['sk_reuseport', PROG_TYPE.SK_REUSEPORT, 0],
  ['lwt_in', PROG_TYPE.LWT_IN, 0],
  ['lwt_out', PROG_TYPE.LWT_OUT, 0],
  ['lwt_xmit', PROG_TYPE.LWT_XMIT, 0],
  ['netfilter', PROG_TYPE.NETFILTER, ATTACH.NETFILTER],
  ['tracepoint', PROG_TYPE.TRACEPOINT, 0],
  ['tp', PROG_TYPE.TRACEPOINT, 0],
  ['raw_tracepoint', PROG_TYPE.RAW_TRACEPOINT, 0],
  ['raw_tp', PROG_TYPE.RAW_TRACEPOINT, 0],
  ['tp_btf', PROG_TYPE.TRACING, ATTACH.TRACE_RAW_TP, 0, 'btf_trace_'],
  ['fentry', PROG_TYPE.TRACING, ATTACH.TRACE_FENTRY, 0, ''],
  ['fexit', PROG_TYPE.TRACING, ATTACH.TRACE_FEXIT, 0, ''],
  ['iter.s', PROG_TYPE.TRACING, ATTACH.TRACE_ITER, PROG_FLAG.SLEEPABLE, 'bpf_iter_'],
  ['iter', PROG_TYPE.TRACING, ATTACH.TRACE_ITER, 0, 'bpf_iter_'],
  ['syscall', PROG_TYPE.SYSCALL, 0, PROG_FLAG.SLEEPABLE],
];

/** The program kind of a section, e.g. `cgroup/connect4` or `tcx/ingress/web`; undefined when none is known. */
export function programKind(section: string): ProgramKind | undefined {
  const row = ROWS.find(([prefix]) => section === prefix || section.startsWith(`${prefix}/`));
  if (!row) return undefined;
  const [prefix, type, attachType, flags = 0, btf] = row;
  const target = section.slice(prefix.length + 1);
  const kind = { type, attachType, flags, target };
  if (btf === undefined || target === '') return kind;
  return {
    ...kind,
    kernelTarget: { name: `${btf}${target}`, what: prefix === 'tp_btf' ? 'typedef' : 'function' },
  };
}
