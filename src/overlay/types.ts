import type { Cidr, Family, IpAddress, Mac } from '../addr/index.ts';
import type { NetError } from '../errors/index.ts';
import type { Addr, Fdb, Link, Neigh, Route } from '../kernel/rtnl/index.ts';

/** How packets get to other nodes: in VXLAN, or routed over a shared link. */
export type BackendType = 'vxlan' | 'host-gw';

/** The end of a VXLAN tunnel. */
export interface Vtep {
  readonly vni: number;
  readonly mac: Mac;
  /** UDP port it receives at. */
  readonly port: number;
}

/** What a node offers in one family. */
export interface LeaseEndpoint {
  /** Where the other nodes reach it. */
  readonly publicIp: IpAddress;
  readonly podCidrs: readonly Cidr[];
  /** Absent with backend host-gw. */
  readonly vtep?: Vtep | undefined;
}

/** A node's part of the pod network, as it tells the other nodes. */
export interface Lease {
  readonly node: string;
  /** Usually a BackendType; flannel knows more. */
  readonly backend: string;
  readonly endpoints: { readonly [F in Family]?: LeaseEndpoint | undefined };
}

export interface OverlayConfig {
  /** Name of this node; its VTEP MAC is derived from it. */
  readonly node: string;
  readonly backend: BackendType;
  /** Pod networks of this node, one or two families. */
  readonly podCidrs: readonly Cidr[];
  /** Pod networks of the whole cluster. */
  readonly clusterCidrs: readonly Cidr[];
  /** Default 1. */
  readonly vni?: number | undefined;
  /** Default 8472. */
  readonly port?: number | undefined;
  /** Route without encapsulation to peers on a shared link; default true. */
  readonly directRouting?: boolean | undefined;
  /** The link to the other nodes; default that of the default route. */
  readonly interface?: string | undefined;
  /** This node's addresses on that link; default the first suitable ones. */
  readonly addresses?: readonly IpAddress[] | undefined;
  /** Where others reach this node when that is no address of its own (NAT). */
  readonly publicIps?: readonly IpAddress[] | undefined;
  /** Upper bound of the pods' MTU in bytes; default none but the underlay's. */
  readonly mtuBytes?: number | undefined;
  /** Masquerade pods that talk to the outside; default true. */
  readonly masquerade?: boolean | undefined;
  /** File for flannel's CNI plugin and others that read it; default none. */
  readonly subnetEnvPath?: string | undefined;
}

/** What the kernel has, as far as the overlay cares. */
export interface Observed {
  readonly links: readonly Link[];
  readonly addrs: readonly Addr[];
  /** Table main. */
  readonly routes: readonly Route[];
  /** Of our devices only. */
  readonly neighs: readonly Neigh[];
  readonly fdb: readonly Fdb[];
  /** A setting by its path below /proc/sys; undefined when there is none. */
  readonly sysctl: (path: string) => string | undefined;
}

/** The link and address by which this node talks to others. */
export interface Underlay {
  readonly family: Family;
  readonly address: IpAddress;
  readonly link: Link;
  /** Of the link, or of a route to a peer if that is smaller; bytes. */
  readonly mtuBytes: number;
}

export interface DesiredDevice {
  readonly family: Family;
  readonly name: string;
  readonly mac: Mac;
  readonly mtu: number;
  readonly vni: number;
  readonly port: number;
  readonly local: IpAddress;
  readonly lower: Link;
}

export interface DesiredAddress {
  readonly dev: string;
  readonly address: IpAddress;
  readonly prefixLength: number;
}

export interface DesiredNeigh {
  readonly dev: string;
  readonly destination: IpAddress;
  readonly mac: Mac;
}

export interface DesiredFdb {
  readonly dev: string;
  readonly mac: Mac;
  readonly destination: IpAddress;
}

export interface DesiredRoute {
  readonly destination: Cidr;
  readonly type: 'unicast' | 'unreachable';
  readonly gateway?: IpAddress | undefined;
  readonly dev?: string | undefined;
  readonly onlink: boolean;
  readonly metric: number;
}

export interface DesiredSysctl {
  readonly path: string;
  readonly value: string;
  /** Set only when the present value is this one. */
  readonly onlyIf?: string | undefined;
}

/** How a peer is reached in one family. */
export interface PeerState {
  readonly node: string;
  readonly family: Family;
  readonly publicIp: IpAddress;
  readonly podCidrs: readonly Cidr[];
  readonly via: 'direct' | 'vxlan' | 'none';
  readonly error?: NetError | undefined;
}

/** All that the overlay wants of the kernel. */
export interface Desired {
  readonly devices: readonly DesiredDevice[];
  readonly addresses: readonly DesiredAddress[];
  readonly neighs: readonly DesiredNeigh[];
  readonly fdb: readonly DesiredFdb[];
  readonly routes: readonly DesiredRoute[];
  readonly sysctls: readonly DesiredSysctl[];
  readonly underlays: readonly Underlay[];
  readonly peers: readonly PeerState[];
  /** Of this node, to be published; undefined while it has no underlay. */
  readonly lease: Lease | undefined;
  /** MTU for pods in bytes; undefined while it has no underlay. */
  readonly podMtuBytes: number | undefined;
  /** What stands in the way, peers' errors not among them. */
  readonly problems: readonly NetError[];
  readonly config: OverlayConfig;
}

/** One step from what is to what should be. */
export type OverlayChange =
  | { readonly do: 'create-device'; readonly device: DesiredDevice }
  | { readonly do: 'delete-device'; readonly dev: string; readonly ifindex: number }
  | {
      readonly do: 'set-device';
      readonly dev: string;
      readonly set: {
        readonly mac?: Mac | undefined;
        readonly mtu?: number | undefined;
        readonly up?: true | undefined;
        readonly alias?: string | undefined;
      };
    }
  | ({ readonly do: 'set-address' | 'delete-address' } & DesiredAddress)
  | ({ readonly do: 'set-neigh' } & DesiredNeigh)
  | { readonly do: 'delete-neigh'; readonly dev: string; readonly destination: IpAddress }
  | ({ readonly do: 'set-fdb' | 'delete-fdb' } & Omit<DesiredFdb, 'destination'> & {
        readonly destination: IpAddress | undefined;
      })
  | { readonly do: 'set-route'; readonly route: DesiredRoute }
  | { readonly do: 'delete-route'; readonly route: Route; readonly dev: string | undefined }
  | { readonly do: 'set-sysctl'; readonly path: string; readonly value: string };
