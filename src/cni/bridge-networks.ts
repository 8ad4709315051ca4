/** What the bridge of a node's pods must be the gateway of. Pure. */
import type { Cidr } from '../addr/index.ts';
import { podlinkError } from '../errors/podlink.ts';
import type { Attachment } from '../ipam/index.ts';
import type { PodLinkKind } from '../podlink/index.ts';

/** Networks of bridged pods, and those that pods to come are of; undefined when there are none: no bridge then. */
export function bridgeNetworks(
  pools: readonly Cidr[],
  attachments: readonly Pick<Attachment, 'kind' | 'networks'>[],
): readonly Cidr[] | undefined {
  const bridged = attachments.filter(({ kind }) => kind === ('bridge' satisfies PodLinkKind));
  const all = [...pools.filter(hasGateway), ...bridged.flatMap(({ networks }) => networks)];
  const networks = new Map(all.map((network) => [String(network), network]));
  return networks.size === 0 ? undefined : [...networks.values()];
}

/** Throws PODLINK_BRIDGE_NO_ROOM. */
export function refuseNoRoom(pools: readonly Cidr[]): void {
  const network = pools.find((pool) => !hasGateway(pool));
  if (network) throw podlinkError('PODLINK_BRIDGE_NO_ROOM', { network: String(network) });
}

/** Smaller networks keep no address for a gateway: `reservedRole` in src/ipam. */
function hasGateway({ size }: Cidr): boolean {
  return size > 2n;
}
