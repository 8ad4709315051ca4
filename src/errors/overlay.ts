import { entry, errorsOf } from './net-error.ts';

/** The network between nodes. */
export const overlayCatalogue = {
  OVERLAY_BAD_ANNOTATION: entry(
    (c: { node: string; key: string; value: string; why: string }) =>
      `Cannot use node "${c.node}" as a peer: annotation "${c.key}" is "${c.value}": ${c.why}`,
    (c) =>
      `Remove it with "kubectl annotate node ${c.node} ${c.key}-": the agent of that node writes it anew`,
  ),
  OVERLAY_BAD_POD_CIDR: entry(
    (c: { node: string; cidr: string; why: string }) =>
      `Cannot use node "${c.node}" as a peer: its pod CIDR "${c.cidr}" ${c.why}`,
    (c) =>
      `See "kubectl get node ${c.node} -o jsonpath={.spec.podCIDRs}"; a node with another CIDR has to be made anew`,
  ),
  OVERLAY_LEASE_CONFLICT: entry(
    (c: { node: string; other: string; what: string }) =>
      `Cannot use node "${c.node}" as a peer: ${c.what} belongs to node "${c.other}" too`,
    () => 'Delete the Node object that is stale, or give one of the nodes another address or pod CIDR',
  ),
  OVERLAY_PEER_INCOMPATIBLE: entry(
    (c: { node: string; what: string; theirs: string; ours: string }) =>
      `Cannot reach the pods of node "${c.node}": its ${c.what} is ${c.theirs}, ours is ${c.ours}`,
    () => 'Give all nodes the same overlay settings',
  ),
  OVERLAY_PEER_NOT_ON_LINK: entry(
    (c: { node: string; address: string; backend: string }) =>
      `Cannot reach the pods of node "${c.node}": with backend "${c.backend}" its address ${c.address} must be on a link of this node`,
    () => 'Use the backend "vxlan", which works through routers, or connect the nodes to one link',
  ),
  OVERLAY_NO_UNDERLAY: entry(
    (c: { family: number; wanted: string }) =>
      `Cannot build the IPv${c.family} overlay: this node has no ${c.wanted}`,
    (c) =>
      `Give the node an IPv${c.family} address and a route, or name interface or address in the configuration`,
  ),
  OVERLAY_FOREIGN_LINK: entry(
    (c: { name: string; kind: string }) =>
      `Cannot use link "${c.name}": it exists with kind "${c.kind}", want "vxlan"`,
    (c) => `It is not Portolan's: delete it with "ip link del ${c.name}", or choose another VNI`,
  ),
  OVERLAY_MTU_TOO_SMALL: entry(
    (c: { link: string; mtu: number; want: number }) =>
      `Cannot build the overlay over link "${c.link}": its MTU is ${c.mtu}, want ${c.want} at least`,
    (c) => `Raise it with "ip link set ${c.link} mtu 1500"`,
  ),
  OVERLAY_APPLY_FAILED: entry(
    (c: { change: string }) => `Cannot carry out "${c.change}"`,
    () => 'It is tried again; the cause is in the error below it',
  ),
} as const;

export const overlayError = errorsOf(overlayCatalogue);
