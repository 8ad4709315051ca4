/** What can go wrong between a compiled BPF object and the kernel that runs it. */
import { entry, errorsOf } from './net-error.ts';

export const bpfCatalogue = {
  BPF_OBJECT_MALFORMED: entry(
    (c: { object: string; part: string; offset: number; why: string }) =>
      `Cannot read BPF object "${c.object}": ${c.part} at offset ${c.offset}: ${c.why}`,
    () =>
      'Build the object again with "node tools/build.ts --only bpf --force"; it is truncated or not for BPF',
  ),
  BPF_OBJECT_UNSUPPORTED: entry(
    (c: { object: string; what: string; why: string }) =>
      `Cannot use BPF object "${c.object}": ${c.what}: ${c.why}`,
    () => 'Change the BPF source so that it does without, or extend src/kernel/bpf',
  ),
  BPF_BTF_REFUSED: entry(
    (c: { object: string; log: string }) =>
      `Cannot load the type information (BTF) of "${c.object}": the kernel refuses it${told(c.log)}`,
    () => 'Requires Linux >= 5.2 with CONFIG_DEBUG_INFO_BTF or at least CONFIG_BPF_SYSCALL',
  ),
  BPF_PROGRAM_REFUSED: entry(
    (c: { object: string; program: string; section: string; tail: string; log: string }) =>
      `Cannot load BPF program "${c.program}" (section "${c.section}") of "${c.object}"${told(c.tail)}`,
    (c) =>
      c.log === ''
        ? 'The verifier said nothing: the program type may be missing in this kernel or forbidden here (see "portolan status")'
        : 'The last lines of the verifier log are above; the whole log is in the context of this error',
  ),
  BPF_MAP_REFUSED: entry(
    (c: { map: string; definition: string }) => `Cannot create BPF map "${c.map}" (${c.definition})`,
    () =>
      'E2BIG or ENOMEM: reduce max_entries or give the cgroup more memory; EINVAL: this kernel lacks the map type',
  ),
  BPF_MAP_CALL: entry(
    (c: { action: string; map: string }) => `Cannot ${c.action} BPF map "${c.map}"`,
    () =>
      'E2BIG: the map is full, raise its max_entries; EPERM: it is frozen; EINVAL: wrong key, value or flags',
  ),
  BPF_MAP_SIZE: entry(
    (c: { map: string; what: string; got: number; want: number }) =>
      `Cannot use BPF map "${c.map}": ${c.what} has ${c.got} bytes, want ${c.want}`,
    () => 'The structure in TypeScript and the map of the BPF object differ: build both from the same source',
  ),
  BPF_VARIABLE_UNKNOWN: entry(
    (c: { object: string; variable: string; known: string }) =>
      `Cannot set "${c.variable}" of BPF object "${c.object}": no such variable in .rodata, .data or .bss, want one of: ${c.known}`,
    () => 'Declare it "const volatile" in the BPF source, or correct the name',
  ),
  BPF_VARIABLE_VALUE: entry(
    (c: { object: string; variable: string; why: string }) =>
      `Cannot set "${c.variable}" of BPF object "${c.object}": ${c.why}`,
    () => 'Pass a number, a bigint or exactly as many bytes as the variable has',
  ),
  BPF_LAYOUT_DIFFERS: entry(
    (c: { struct: string; differences: readonly string[] }) =>
      `Cannot use struct ${c.struct}: TypeScript and BTF differ: ${c.differences.join('; ')}`,
    () => 'Change the field list or the C header so that names, offsets and sizes agree',
  ),
  BPF_PIN_FAILED: entry(
    (c: { action: string; path: string; why: string }) => `Cannot ${c.action} "${c.path}": ${c.why}`,
    () => 'The folder must exist in a mounted bpffs ("mount -t bpf bpf /sys/fs/bpf")',
  ),
  BPF_PIN_MISSING: entry(
    (c: { path: string }) => `Cannot adopt "${c.path}": nothing is pinned there`,
    () => '"bpftool -f map" and "bpftool link" show what is pinned where',
  ),
  BPF_PIN_MISMATCH: entry(
    (c: { path: string; pinned: string; wanted: string }) =>
      `Cannot adopt "${c.path}": it is ${c.pinned}, want ${c.wanted}`,
    (c) => `Delete "${c.path}", or run the version of Portolan that made it`,
  ),
  BPF_ATTACH_FAILED: entry(
    (c: { program: string; target: string }) => `Cannot attach BPF program "${c.program}" to ${c.target}`,
    () =>
      'EBUSY: another program is there ("bpftool net", "bpftool cgroup tree"); ENODEV: no such interface in this namespace; EINVAL: this kernel lacks the link type',
  ),
  BPF_FILTER_TAKEN: entry(
    (c: { program: string; target: string; owner: string }) =>
      `Cannot attach BPF program "${c.program}" to ${c.target}: filter "${c.owner}" is at its place`,
    () => 'Another tool made it: "tc filter show dev LINK ingress" shows it, give it another pref or handle',
  ),
  BPF_LINK_CALL: entry(
    (c: { action: string; link: string }) => `Cannot ${c.action} BPF link ${c.link}`,
    () => 'ENOLINK: what it was attached to is gone; EPERM or EINVAL: the program is of another type',
  ),
  BPF_RUN_FAILED: entry(
    (c: { program: string }) => `Cannot run BPF program "${c.program}" on test data`,
    () =>
      'EINVAL: data or context too short (14 bytes at least); ENOTSUPP: this program type has no test run',
  ),
  BPF_NO_KERNEL_TYPE: entry(
    (c: { object: string; what: string; name: string }) =>
      `Cannot load "${c.object}": this kernel has no ${c.what} "${c.name}"`,
    () =>
      'The kernel is older than the program needs, or lacks /sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF)',
  ),
  BPFFS_MOUNT_FAILED: entry(
    (c: { path: string }) => `Cannot mount a bpffs at "${c.path}"`,
    (c) => `Try "mount -t bpf bpf ${c.path}" as root; in a container, mount it from the host`,
  ),
  CGROUP_NO_V2: entry(
    () => 'Cannot find a cgroup2 file system: none is mounted',
    () =>
      'Mount one with "mount -t cgroup2 none /sys/fs/cgroup/unified", or boot with systemd.unified_cgroup_hierarchy=1',
  ),
  CGROUP_FAILED: entry(
    (c: { action: string; path: string; why: string }) => `Cannot ${c.action} cgroup "${c.path}": ${c.why}`,
    () => 'EBUSY: processes or child cgroups are still inside; see cgroup.procs',
  ),
};

function told(log: string): string {
  return log === '' ? '' : `:\n${log}`;
}

export const bpfError = errorsOf(bpfCatalogue);
