/** What this kernel's BPF can do, as values: each is asked for once it matters, by trying. */
import { kernelError } from '../../errors/index.ts';
import { Arena, closeFd, ERRNO } from '../syscall/index.ts';
import { bpf, loadWithoutSignals } from './call.ts';
import { ATTACH, CMD, MAP_FLAG, MAP_TYPE, PROG_TYPE } from './constants.ts';
import { kernelBtf, kernelTypeId } from './kernel-btf.ts';

/** One ability of the kernel. */
export interface Feature {
  readonly name: string;
  /** The kernel version or option that brings it, e.g. `Linux >= 6.6`. */
  readonly requires: string;
  /** Undefined when it cannot be told here, for example without root. Only a clear answer is remembered. */
  available(): boolean | undefined;
}

/** Throws KERNEL_FEATURE_MISSING when the kernel clearly lacks the feature. */
export function requireFeature(feature: Feature): void {
  if (feature.available() === false)
    throw kernelError('KERNEL_FEATURE_MISSING', { feature: feature.name, requires: feature.requires });
}

/** What a part of Portolan asks of the kernel. */
export interface KernelNeed {
  readonly feature: Feature;
  /** What it is for, to complete "for ...". */
  readonly usedFor: string;
  /** What is done where it is missing; a need without this is refused. */
  readonly without?: string;
}

/** Throws KERNEL_FEATURE_MISSING for the first need that the kernel clearly lacks and nothing stands in for. */
export function requireNeeds(needs: readonly KernelNeed[]): void {
  for (const { feature, without } of needs) if (without === undefined) requireFeature(feature);
}

/** Declares a feature. `probe` answers undefined when it could not tell. */
export function feature(name: string, requires: string, probe: () => boolean | undefined): Feature {
  let known: boolean | undefined;
  return {
    name,
    requires,
    available() {
      known ??= probe();
      return known;
    },
  };
}

/**
 * Features by their names here, comma-separated, that are to count as missing: so that what is done without them can
 * be tried on a kernel that has them.
 */
const FAKE = 'PORTOLAN_FAKE_MISSING';

/** Lets the environment deny features. Asked at each call, since tests change it. */
function deniable<const Features extends Readonly<Record<string, Feature>>>(features: Features): Features {
  const denied = (key: string) => (process.env[FAKE] ?? '').split(',').includes(key);
  return Object.fromEntries(
    Object.entries(features).map(([key, feature]) => [
      key,
      { ...feature, available: () => (denied(key) ? false : feature.available()) },
    ]),
  ) as unknown as Features;
}

/** The features that Portolan asks for. */
export const bpfFeatures = deniable({
  hashMaps: feature('BPF hash maps', 'Linux >= 4.10 with CONFIG_BPF_SYSCALL', () =>
    mapType(MAP_TYPE.HASH, 4),
  ),
  lpmMaps: feature('BPF longest-prefix maps', 'Linux >= 4.11', () =>
    mapType(MAP_TYPE.LPM_TRIE, 8, MAP_FLAG.NO_PREALLOC),
  ),
  ringBuffers: feature('BPF ring buffers', 'Linux >= 5.8', () => mapType(MAP_TYPE.RINGBUF, 0)),
  batches: feature('batches of BPF map elements', 'Linux >= 5.6', batches),
  socketHooks: feature('cgroup socket hooks with getpeername', 'Linux >= 5.8 with CONFIG_CGROUP_BPF', () =>
    program(PROG_TYPE.CGROUP_SOCK_ADDR, ATTACH.CGROUP_INET4_GETPEERNAME, 1),
  ),
  // Attaching to a missing interface answers EINVAL like a kernel without XDP links, so types are asked instead.
  xdpLinks: feature('XDP links', 'Linux >= 5.9', () =>
    kernelBtf() ? kernelTypeId('bpf_xdp_link_attach', 'function') !== undefined : undefined,
  ),
  xdpFrags: feature('XDP programs for packets in several parts', 'Linux >= 5.18', () =>
    helper(PROG_TYPE.XDP, 0, 188),
  ),
  tcx: feature('tcx links', 'Linux >= 6.6 with CONFIG_NET_CLS_ACT', tcxAttachable),
  netfilterLinks: feature('netfilter programs', 'Linux >= 6.4 with CONFIG_NETFILTER_BPF_LINK', () =>
    program(PROG_TYPE.NETFILTER, ATTACH.NETFILTER, 1),
  ),
  destroySockets: feature(
    'bpf_sock_destroy in socket iterators',
    'Linux >= 6.5 with CONFIG_DEBUG_INFO_BTF',
    () => kernelTypeId('bpf_sock_destroy', 'function') !== undefined,
  ),
  conntrack: feature(
    'conntrack from XDP and tc programs',
    'Linux >= 6.0 with CONFIG_NF_CONNTRACK=y',
    () => kernelTypeId('bpf_skb_ct_lookup', 'function') !== undefined,
  ),
  cgroupLinks: feature('BPF links at cgroups', 'Linux >= 5.7 with CONFIG_CGROUP_BPF', cgroupLinks),
  coarseTime: feature('bpf_ktime_get_coarse_ns', 'Linux >= 5.11', () => helper(PROG_TYPE.SCHED_CLS, 0, 160)),
  netnsCookie: feature('bpf_get_netns_cookie at sockets', 'Linux >= 5.7', () =>
    helper(PROG_TYPE.CGROUP_SOCK_ADDR, ATTACH.CGROUP_INET4_CONNECT, 122),
  ),
  socketErrors: feature('bpf_set_retval at sockets', 'Linux >= 5.18', () =>
    helper(PROG_TYPE.CGROUP_SOCK_ADDR, ATTACH.CGROUP_INET4_CONNECT, 187),
  ),
} as const);

/** They say nothing about the kernel, only about this moment or this process. */
const INCONCLUSIVE: ReadonlySet<number> = new Set([
  ERRNO.EPERM,
  ERRNO.ENOMEM,
  ERRNO.EMFILE,
  ERRNO.ENFILE,
  ERRNO.EAGAIN,
  ERRNO.EINTR,
  ERRNO.EBUSY,
]);

/** Whether a try at a feature that ended with a descriptor or with -errno shows it; undefined when it shows nothing. */
export function featureVerdict(result: number): boolean | undefined {
  if (result < 0) return INCONCLUSIVE.has(-result) ? undefined : false;
  closeFd(result);
  return true;
}

function createMap(type: number, keySize: number, flags: number): number {
  const ATTR = 72;
  const arena = new Arena(ATTR);
  const ring = type === MAP_TYPE.RINGBUF;
  arena.view.setUint32(0, type, true);
  arena.view.setUint32(4, keySize, true);
  arena.view.setUint32(8, ring ? 0 : 4, true);
  arena.view.setUint32(12, ring ? 4096 : 1, true);
  arena.view.setUint32(16, flags, true);
  return bpf(CMD.MAP_CREATE, arena.from(0, ATTR));
}

function mapType(type: number, keySize: number, flags = 0): boolean | undefined {
  return featureVerdict(createMap(type, keySize, flags));
}

function batches(): boolean | undefined {
  const map = createMap(MAP_TYPE.HASH, 4, 0);
  if (map < 0) return featureVerdict(map);
  const arena = new Arena(56 + 32);
  arena.reserve(56);
  arena.point(16, arena.reserve(4));
  arena.point(24, arena.reserve(4));
  arena.view.setUint32(32, 1, true);
  arena.view.setUint32(36, map, true);
  const result = bpf(CMD.MAP_UPDATE_BATCH, arena.from(0, 56));
  closeFd(map);
  return result === 0 ? true : featureVerdict(result);
}

const LOAD_TRIES = 20;

/** BPF_MOV64_IMM(r0, value); BPF_EXIT */
function returning(value: number): number[] {
  return [0xb7, 0, 0, 0, value, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
}

/** Loads `return VALUE`, or other code. */
function loadTrivial(type: number, attachType: number, returned: number, before: number[] = []): number {
  const ATTR = 128;
  const code = Uint8Array.of(...before, ...returning(returned));
  const arena = new Arena(ATTR + code.length + 32);
  arena.reserve(ATTR);
  arena.view.setUint32(0, type, true);
  arena.view.setUint32(4, code.length / 8, true);
  arena.point(8, arena.put(code));
  arena.point(16, arena.putString('GPL'));
  arena.view.setUint32(68, attachType, true);
  return loadWithoutSignals(arena.from(0, ATTR), LOAD_TRIES);
}

function program(type: number, attachType: number, returned: number): boolean | undefined {
  return featureVerdict(loadTrivial(type, attachType, returned));
}

/**
 * Whether programs of a type may call a helper, by its number (enum bpf_func_id). Its only argument is in r1: the
 * context, or a number for bpf_set_retval.
 */
function helper(type: number, attachType: number, id: number): boolean | undefined {
  const SET_RETVAL = 187;
  const zero = [0xb7, 1, 0, 0, 0, 0, 0, 0]; // BPF_MOV64_IMM(r1, 0)
  const call = [0x85, 0, 0, 0, id, 0, 0, 0];
  return featureVerdict(loadTrivial(type, attachType, 1, id === SET_RETVAL ? [...zero, ...call] : call));
}

/** A link to something that is no cgroup: a kernel without such links does not look at it. */
function cgroupLinks(): boolean | undefined {
  const fd = loadTrivial(PROG_TYPE.CGROUP_SOCK_ADDR, ATTACH.CGROUP_INET4_CONNECT, 1);
  if (fd < 0) return featureVerdict(fd);
  const ATTR = 48;
  const arena = new Arena(ATTR);
  arena.view.setUint32(0, fd, true);
  arena.view.setInt32(4, -1, true);
  arena.view.setUint32(8, ATTACH.CGROUP_INET4_CONNECT, true);
  const result = bpf(CMD.LINK_CREATE, arena.from(0, ATTR));
  closeFd(fd);
  return result === -ERRNO.EBADF ? true : featureVerdict(result);
}

/** Attaching to an interface that cannot exist: a kernel that has tcx misses the interface. */
function tcxAttachable(): boolean | undefined {
  const fd = loadTrivial(PROG_TYPE.SCHED_CLS, 0, 0);
  if (fd < 0) return featureVerdict(fd);
  const ATTR = 48;
  const NO_SUCH_IFINDEX = 0x7fff_fff0;
  const arena = new Arena(ATTR);
  arena.view.setUint32(0, fd, true);
  arena.view.setUint32(4, NO_SUCH_IFINDEX, true);
  arena.view.setUint32(8, ATTACH.TCX_INGRESS, true);
  const result = bpf(CMD.LINK_CREATE, arena.from(0, ATTR));
  closeFd(fd);
  return result === -ERRNO.ENODEV ? true : featureVerdict(result);
}
