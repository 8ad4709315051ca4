/**
 * The file view of a process container: which mounts in which order. Pure; what the host looks like comes in.
 *
 *   /              the host's root file system, read-only, plus the mount points that the pod needs and it lacks
 *   /home, /srv …  each other mount of the host, read-only
 *   /proc /sys /dev /dev/shm /dev/mqueue      own
 *   /tmp /var/tmp /run /root                  empty, in memory, bounded
 *   /etc/hosts /etc/hostname /etc/resolv.conf the pod's
 *   volumes
 */
import { posix } from 'node:path';
import { podsError } from '../../errors/index.ts';
import type { HostMount } from '../../kernel/mount/index.ts';
import type { MountOp } from './request.ts';

/** What the planner asks about the host's files. */
export interface HostView {
  /** Follows symbolic links; undefined when nothing is there. */
  kind(path: string): 'folder' | 'file' | undefined;
  /** The path without symbolic links; undefined when it does not exist. */
  realPath(path: string): string | undefined;
  /** True when the path itself is a symbolic link. */
  isLink(path: string): boolean;
}

export interface PlannedVolume {
  source: { hostPath: string } | { shared: string };
  /** Whether the source is a file. */
  file: boolean;
  target: string;
  readonly: boolean;
}

export interface MountsInput {
  hostMounts: readonly HostMount[];
  host: HostView;
  volumes: readonly PlannedVolume[];
  /** Files of the pod by their path in the container, e.g. `/etc/hosts`. */
  files: readonly { source: string; target: string; readonly: boolean }[];
  /** Paths of the host that no container may see. */
  masked: readonly string[];
  privileged: boolean;
}

/** Bound of each of /tmp, /var/tmp, /run and /root, as tmpfs reads it. Memory is only taken when used. */
const SCRATCH_SIZE = '256m';

const scratch = [
  { target: '/tmp', mode: '1777' },
  { target: '/var/tmp', mode: '1777' },
  { target: '/run', mode: '755' },
  { target: '/root', mode: '700' },
] as const;

/** Replaced as a whole, so nothing of the host below them is taken over. */
const replaced = ['/proc', '/sys', '/dev', ...scratch.map((one) => one.target)];

/** Kernel interfaces and things that appear when touched; never files of the host. */
const unwanted = new Set([
  'proc',
  'sysfs',
  'cgroup',
  'cgroup2',
  'bpf',
  'nsfs',
  'autofs',
  'debugfs',
  'tracefs',
  'securityfs',
  'configfs',
  'fusectl',
  'pstore',
  'mqueue',
  'devpts',
  'devtmpfs',
  'binfmt_misc',
  'hugetlbfs',
  'efivarfs',
  'rpc_pipefs',
]);

/** As runc and containerd do: internal/oci defaults of maskedPaths and readonlyPaths. */
const maskedProc = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/interrupts',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/sys/firmware',
];
const readonlyProc = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

/** Password hashes and host keys; readable by user 0 of any container otherwise. */
export const defaultMaskedPaths = [
  '/etc/shadow',
  '/etc/shadow-',
  '/etc/gshadow',
  '/etc/gshadow-',
  '/etc/sudoers',
  '/etc/sudoers.d',
  '/etc/ssh',
  '/etc/ssl/private',
  '/var/lib/portolan',
  '/boot',
];

const isBelow = (path: string, folder: string) =>
  path === folder || folder === '/' || path.startsWith(`${folder}/`);
const depth = (path: string) => path.split('/').length;

/** Throws PODS_MOUNT_TYPE and PODS_BAD_REQUEST. */
export function planMounts(input: MountsInput): MountOp[] {
  const { host } = input;
  const layers = planLayers(input);
  const fresh: MountOp[] = [
    { kind: 'proc', target: '/proc' },
    { kind: 'sysfs', target: '/sys', readonly: !input.privileged },
    { kind: 'dev', target: '/dev' },
    { kind: 'shared', source: '/shm', target: '/dev/shm', readonly: false },
    { kind: 'mqueue', target: '/dev/mqueue' },
    ...scratch.map((one): MountOp => ({ kind: 'tmpfs', size: SCRATCH_SIZE, ...one })),
  ];
  const covered = new Set<string>(replaced);
  for (const target of replaced) place(target, false);

  const volumes = input.volumes
    .map((volume) => ({ ...volume, target: resolveTarget(host, volume.target, false) }))
    .sort((a, b) => depth(a.target) - depth(b.target));
  const files = input.files
    .filter((file) => !volumes.some((volume) => volume.target === file.target))
    .map((file) => ({ ...file, target: resolveTarget(host, file.target, true) }));
  for (const volume of volumes) {
    if (volume.target === '/') throw podsError('PODS_BAD_REQUEST', { field: 'mountPath', why: 'it is "/"' });
    place(volume.target, volume.file);
    covered.add(volume.target);
  }
  for (const file of files) place(file.target, true);

  /** Makes sure that the mount point exists: below something fresh the shim makes it, else on the layer's overlay. */
  function place(target: string, file: boolean): void {
    for (const above of covered) if (target !== above && isBelow(target, above)) return;
    const found = host.isLink(target) ? undefined : host.kind(target);
    const want = file ? 'file' : 'folder';
    if (found === want) return;
    if (found) throw podsError('PODS_MOUNT_TYPE', { target, found, want });
    const layer = layers.findLast((one) => isBelow(target, one.source))!;
    if (!layer.places.some((one) => one.path === target)) layer.places.push({ path: target, file });
  }

  const binds = volumes.map((volume): MountOp => {
    const rest = { target: volume.target, readonly: volume.readonly };
    return 'shared' in volume.source
      ? { kind: 'shared', source: volume.source.shared, ...rest }
      : { kind: 'bind', source: volume.source.hostPath, ...rest };
  });
  const hidden = input.privileged ? [] : maskedProc;
  const guarded = input.privileged ? [] : readonlyProc;
  return [
    ...layers,
    ...fileLayers(input),
    ...fresh,
    // After /dev, whose null covers files; before volumes: what a pod mounts itself from such a place was asked for.
    ...input.masked
      .filter((path) => !replaced.some((one) => isBelow(path, one)) && host.kind(path) !== undefined)
      .map((target): MountOp => ({ kind: 'mask', target })),
    ...files.map((file): MountOp => ({ kind: 'bind', ...file })),
    ...binds,
    ...guarded.map((target): MountOp => ({ kind: 'readonly', target })),
    ...hidden.map((target): MountOp => ({ kind: 'mask', target })),
  ];
}

type Layer = Extract<MountOp, { kind: 'layer' }>;

/** Host mounts that containers see, parents first. */
function visibleMounts(input: MountsInput): string[] {
  const points = new Set(['/']);
  for (const { mountPoint, fsType } of input.hostMounts) {
    if (unwanted.has(fsType) || replaced.some((path) => isBelow(mountPoint, path))) continue;
    if (input.masked.some((path) => isBelow(mountPoint, path))) continue;
    points.add(mountPoint);
  }
  return [...points].sort((a, b) => depth(a) - depth(b) || (a < b ? -1 : 1));
}

function planLayers(input: MountsInput): Layer[] {
  return visibleMounts(input)
    .filter((source) => input.host.kind(source) === 'folder')
    .map((source) => ({ kind: 'layer', source, places: [] }));
}

/** A host that is a container itself has single files mounted, e.g. its own /etc/hosts. */
function fileLayers(input: MountsInput): MountOp[] {
  return visibleMounts(input)
    .filter((source) => input.host.kind(source) === 'file')
    .filter((source) => !input.files.some((file) => file.target === source))
    .map((source) => ({ kind: 'bind', source, target: source, readonly: true }));
}

/**
 * Where a target really lies: symbolic links of its existing part are followed, so that /var/run/x is /run/x. For a
 * file that is itself a link (/etc/resolv.conf of systemd-resolved) only its folder counts: the link is replaced.
 */
function resolveTarget(host: HostView, target: string, file: boolean): string {
  const path = posix.resolve('/', target);
  if (!file) {
    const whole = host.realPath(path);
    if (whole !== undefined) return whole;
  }
  if (path === '/') return path;
  const parent = resolveTarget(host, posix.dirname(path), false);
  return posix.join(parent, posix.basename(path));
}
