import { entry, errorsOf } from './net-error.ts';

export const kernelCatalogue = {
  KERNEL_NOT_BUILT: entry(
    (c: { path: string }) => `Cannot load "${c.path}": it has not been built`,
    () => `Run "npm run build", or start Portolan by its launcher "./portolan", which builds what is missing`,
  ),
  KERNEL_NEEDS_ROOT: entry(
    (c: { action: string }) => `Cannot ${c.action}: not permitted`,
    () => `Run Portolan as root (sudo), or give the process CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_BPF`,
  ),
  KERNEL_SYSCALL: entry(
    (c: { call: string; object: string }) => `Cannot ${c.call} ${c.object}`,
    () => `The kernel's answer is in brackets; "man 2" of the call explains it`,
  ),
  KERNEL_FEATURE_MISSING: entry(
    (c: { feature: string; requires: string }) => `Cannot use ${c.feature}: this kernel has none`,
    (c) => `Requires ${c.requires}; docs/kernels.md lists what each kernel lacks and what that costs`,
  ),
  NETNS_MISSING: entry(
    (c: { path: string }) => `Cannot open network namespace "${c.path}": it does not exist`,
    () => `See "ip netns list" and "lsns -t net" for those that do`,
  ),
  NETNS_EXISTS: entry(
    (c: { name: string }) => `Cannot create network namespace "${c.name}": it exists`,
    (c) => `Delete it with "ip netns delete ${c.name}", or choose another name`,
  ),
};

export const kernelError = errorsOf(kernelCatalogue);
