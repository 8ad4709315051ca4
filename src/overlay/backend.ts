import type { Family } from '../addr/index.ts';
import { type NetError, overlayError } from '../errors/index.ts';
import { VXLAN_OVERHEAD_BYTES } from './names.ts';
import type {
  BackendType,
  DesiredDevice,
  DesiredFdb,
  DesiredNeigh,
  DesiredRoute,
  Lease,
  LeaseEndpoint,
} from './types.ts';

/** A peer in one family, and how this node could reach it. */
export interface PeerContext {
  readonly lease: Lease;
  readonly endpoint: LeaseEndpoint;
  readonly family: Family;
  /** Name of the link that the peer's address is on; undefined behind a router. */
  readonly onLink: string | undefined;
  /** This node's device; undefined when it cannot be used, and with host-gw. */
  readonly device: DesiredDevice | undefined;
  readonly directRouting: boolean;
}

/** What one peer adds to the kernel's tables. */
export interface PeerEntries {
  readonly via: 'direct' | 'vxlan' | 'none';
  readonly routes: readonly DesiredRoute[];
  readonly neighs: readonly DesiredNeigh[];
  readonly fdb: readonly DesiredFdb[];
  readonly error?: NetError;
}

/** A way to carry packets between nodes: from a lease to entries of the kernel's tables. Pure. */
export interface Backend {
  readonly type: BackendType;
  /** Whether it needs a device of its own. */
  readonly hasDevice: boolean;
  overheadBytes(family: Family): number;
  peer(context: PeerContext): PeerEntries;
}

const NOTHING: PeerEntries = { via: 'none', routes: [], neighs: [], fdb: [] };

/** Routes over a shared link: the peer's node address is the gateway to its pods. */
function direct({ endpoint }: PeerContext, dev: string): PeerEntries {
  const routes = endpoint.podCidrs.map(
    (destination): DesiredRoute => ({
      destination,
      type: 'unicast',
      gateway: endpoint.publicIp,
      dev,
      onlink: false,
      metric: 0,
    }),
  );
  return { ...NOTHING, via: 'direct', routes };
}

/**
 * A static mesh of tunnel ends, as flannel builds it: nothing is learned and nothing asked for.
 *
 *     route      10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink   which peer
 *     neighbour  10.244.2.0 lladdr 02:..:02                          its MAC
 *     FDB        02:..:02 dst 192.0.2.2                              its node's address
 *
 * The gateway is the peer's own tunnel address, so one neighbour a peer is enough.
 */
const vxlan: Backend = {
  type: 'vxlan',
  hasDevice: true,
  overheadBytes: (family) => VXLAN_OVERHEAD_BYTES[family],
  peer(context) {
    const { lease, endpoint, device, onLink } = context;
    if (context.directRouting && onLink !== undefined) return direct(context, onLink);
    const { vtep } = endpoint;
    if (!vtep) {
      const names = { theirs: `"${lease.backend}"`, ours: '"vxlan"' };
      return failed(
        overlayError('OVERLAY_PEER_INCOMPATIBLE', { node: lease.node, what: 'backend', ...names }),
      );
    }
    if (!device) return NOTHING;
    for (const what of ['vni', 'port'] as const)
      if (vtep[what] !== device[what]) {
        const numbers = { theirs: String(vtep[what]), ours: String(device[what]) };
        return failed(overlayError('OVERLAY_PEER_INCOMPATIBLE', { node: lease.node, what, ...numbers }));
      }
    const dev = device.name;
    return {
      via: 'vxlan',
      neighs: endpoint.podCidrs.map(({ address }) => ({ dev, destination: address, mac: vtep.mac })),
      fdb: [{ dev, mac: vtep.mac, destination: endpoint.publicIp }],
      routes: endpoint.podCidrs.map((destination) => ({
        destination,
        type: 'unicast',
        gateway: destination.address,
        dev,
        onlink: true,
        metric: 0,
      })),
    };
  },
};

/** Plain routes: works where all nodes share a link, and costs nothing. */
const hostGw: Backend = {
  type: 'host-gw',
  hasDevice: false,
  overheadBytes: () => 0,
  peer(context) {
    if (context.onLink !== undefined) return direct(context, context.onLink);
    const { lease, endpoint } = context;
    const place = { node: lease.node, address: String(endpoint.publicIp), backend: 'host-gw' };
    return failed(overlayError('OVERLAY_PEER_NOT_ON_LINK', place));
  },
};

function failed(error: NetError): PeerEntries {
  return { ...NOTHING, error };
}

/** All backends by name. */
export const backends: Readonly<Record<BackendType, Backend>> = { vxlan, 'host-gw': hostGw };
