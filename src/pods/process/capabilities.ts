import { podsError } from '../../errors/index.ts';

/** Numbers of capabilities: include/uapi/linux/capability.h. */
const names = [
  'CHOWN',
  'DAC_OVERRIDE',
  'DAC_READ_SEARCH',
  'FOWNER',
  'FSETID',
  'KILL',
  'SETGID',
  'SETUID',
  'SETPCAP',
  'LINUX_IMMUTABLE',
  'NET_BIND_SERVICE',
  'NET_BROADCAST',
  'NET_ADMIN',
  'NET_RAW',
  'IPC_LOCK',
  'IPC_OWNER',
  'SYS_MODULE',
  'SYS_RAWIO',
  'SYS_CHROOT',
  'SYS_PTRACE',
  'SYS_PACCT',
  'SYS_ADMIN',
  'SYS_BOOT',
  'SYS_NICE',
  'SYS_RESOURCE',
  'SYS_TIME',
  'SYS_TTY_CONFIG',
  'MKNOD',
  'LEASE',
  'AUDIT_WRITE',
  'AUDIT_CONTROL',
  'SETFCAP',
  'MAC_OVERRIDE',
  'MAC_ADMIN',
  'SYSLOG',
  'WAKE_ALARM',
  'BLOCK_SUSPEND',
  'AUDIT_READ',
  'PERFMON',
  'BPF',
  'CHECKPOINT_RESTORE',
] as const;

/**
 * What containers get by default elsewhere (containerd, Docker), without MKNOD: here no device cgroup keeps a new
 * device node from being the host's disk.
 */
const defaults = [
  'CHOWN',
  'DAC_OVERRIDE',
  'FSETID',
  'FOWNER',
  'NET_RAW',
  'SETGID',
  'SETUID',
  'SETFCAP',
  'SETPCAP',
  'NET_BIND_SERVICE',
  'SYS_CHROOT',
  'KILL',
  'AUDIT_WRITE',
];

const all = (1n << BigInt(names.length)) - 1n;

function bit(name: string): bigint {
  const upper = name.toUpperCase().replace(/^CAP_/, '');
  if (upper === 'ALL') return all;
  const number = (names as readonly string[]).indexOf(upper);
  if (number < 0)
    throw podsError('PODS_SPEC_UNSUPPORTED', {
      field: 'securityContext.capabilities',
      why: `names "${name}", which no kernel knows`,
    });
  return 1n << BigInt(number);
}

const mask = (list: readonly string[]) => list.reduce((bits, name) => bits | bit(name), 0n);

/** The capability set of a container as a bit mask. Dropping wins over adding one by one, as in runc's ALL rules. */
export function capabilityMask(security: {
  privileged: boolean;
  addCapabilities: readonly string[];
  dropCapabilities: readonly string[];
}): bigint {
  if (security.privileged) return all;
  const { addCapabilities: add, dropCapabilities: drop } = security;
  const isAll = (name: string) => name.toUpperCase() === 'ALL';
  let bits = add.some(isAll) ? all : mask(defaults);
  if (drop.some(isAll)) bits = 0n;
  bits |= mask(add.filter((name) => !isAll(name)));
  return bits & ~mask(drop.filter((name) => !isAll(name)));
}
