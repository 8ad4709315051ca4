/** What can go wrong with the links between the host and its pods. */
import { entry, errorsOf } from './net-error.ts';

export const podlinkCatalogue = {
  PODLINK_IFNAME_TAKEN: entry(
    (c: { ifname: string; hostLink: string }) =>
      `Cannot create pod link "${c.hostLink}": the pod has an interface "${c.ifname}" already`,
    () => 'Use another interface name, or remove the one in the pod',
  ),
  PODLINK_HOST_LINK_FOREIGN: entry(
    (c: { hostLink: string; kind: string }) =>
      `Cannot create pod link "${c.hostLink}": a link of that name and kind "${c.kind}" exists that is not ours`,
    (c) => `Remove it with "ip link del ${c.hostLink}"`,
  ),
  PODLINK_NETNS_UNKNOWN: entry(
    (c: { hostLink: string; netns: string }) =>
      `Cannot restore pod link "${c.hostLink}": its network namespace "${c.netns}" is gone`,
    () => 'Nothing to do: the container has ended, its runtime calls DEL',
  ),
  PODLINK_BRIDGE_FOREIGN: entry(
    (c: { name: string }) =>
      `Cannot make the pods' bridge "${c.name}": a link of that name exists that is not ours`,
    (c) => `Rename it, or remove it with "ip link del ${c.name}"`,
  ),
  PODLINK_BRIDGE_FAILED: entry(
    (c: { name: string; change: string }) => `Cannot make the pods' bridge "${c.name}": "${c.change}" failed`,
    () =>
      "The kernel's answer is in brackets; without bridges in the kernel (CONFIG_BRIDGE) use --pod-link routed",
  ),
  PODLINK_BRIDGE_NO_ROOM: entry(
    (c: { network: string }) =>
      `Cannot put pods of ${c.network} on a bridge: it has no address left for the gateway`,
    () => 'Give the node a larger pod CIDR (at least four addresses), or use --pod-link routed',
  ),
  PODLINK_FAILED: entry(
    (c: { hostLink: string; change: string }) => `Cannot make pod link "${c.hostLink}": "${c.change}" failed`,
    () => "The kernel's answer is in brackets; everything made for this link was removed again",
  ),
  PODLINK_SYSCTL: entry(
    (c: { name: string; value: string }) => `Cannot set sysctl ${c.name} to ${c.value}`,
    (c) => `Run as root and check that /proc/sys is writable; "sysctl ${c.name}" shows the present value`,
  ),
};

/** Makes an error of the pod link catalogue. */
export const podlinkError = errorsOf(podlinkCatalogue);
