/** What network policies are made of, read from the API's objects. */
import type { Family, IpAddress } from '../addr/index.ts';
import type { LabelSelector, Protocol } from '../model/kubernetes.ts';
import type { Labels } from '../model/label-selector.ts';

export type Direction = 'ingress' | 'egress';
export const DIRECTIONS: readonly Direction[] = ['ingress', 'egress'];

export interface NamedPort {
  readonly name: string;
  readonly protocol: Protocol;
  readonly port: number;
}

/** A port of its node that leads to one of a pod. */
export interface PodHostPort {
  readonly protocol: Protocol;
  readonly hostPort: number;
  /** At this address of the node only; all of its family if it is 0.0.0.0 or ::, all without it. */
  readonly hostIP: IpAddress | undefined;
  readonly port: number;
}

/** What policies need to know of a pod. */
export interface PodFacts {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly labels: Labels;
  /** Name of its node, empty until it has one. */
  readonly node: string;
  /** Its addresses are those of its node: policies neither select it nor know it as a peer. */
  readonly hostNetwork: boolean;
  /** Its containers have ended for good: its addresses may be another pod's. */
  readonly ended: boolean;
  readonly addresses: readonly IpAddress[];
  readonly ports: readonly NamedPort[];
  /** Undefined for none. */
  readonly hostPorts?: readonly PodHostPort[];
}

/** Pods of one namespace, or of those that a selector selects. */
export interface Selection {
  /** One text for selections that mean the same; names the set of their addresses. */
  readonly id: string;
  /** A name, or a selector of namespaces. */
  readonly namespaces: string | LabelSelector;
  readonly pods: LabelSelector;
}

/** Addresses from `first` to `last`, both included. */
export interface AddressRange {
  readonly first: IpAddress;
  readonly last: IpAddress;
}

export type PeerFacts =
  | { readonly kind: 'pods'; readonly selection: Selection }
  /** A network less its exceptions. */
  | {
      readonly kind: 'block';
      readonly text: string;
      readonly family: Family;
      readonly ranges: readonly AddressRange[];
    }
  /** Addresses of the nodes that a selector selects; `id` as that of a selection. */
  | { readonly kind: 'nodes'; readonly id: string; readonly selector: LabelSelector };

export interface PortFacts {
  readonly protocol: Protocol;
  /** A number, a name that each destination pod resolves, or undefined: all ports of the protocol. */
  readonly port: number | string | undefined;
  /** Last port of a range that begins at `port`. */
  readonly endPort: number | undefined;
}

/** One rule: peers and ports must both match. Undefined means all, an empty list none. */
export interface RuleFacts {
  readonly peers: readonly PeerFacts[] | undefined;
  readonly ports: readonly PortFacts[] | undefined;
}

export interface PolicyFacts {
  /** `namespace/name`. */
  readonly key: string;
  readonly namespace: string;
  readonly name: string;
  readonly generation: number;
  readonly podSelector: LabelSelector;
  /** Rules of the directions that the policy isolates; undefined for one that it leaves alone. */
  readonly ingress: readonly RuleFacts[] | undefined;
  readonly egress: readonly RuleFacts[] | undefined;
  /** Parts that could not be read; they match nothing. */
  readonly problems: readonly string[];
}

/** Asked before NetworkPolicies, or for what they leave open. */
export type Tier = 'Admin' | 'Baseline';

/** A rule that decides, or with Pass leaves it to the next tier. */
export interface TierRuleFacts extends RuleFacts {
  readonly action: 'Accept' | 'Deny' | 'Pass';
  /** For people; may be empty. */
  readonly name: string;
}

/** A ClusterNetworkPolicy. Unlike a NetworkPolicy it isolates nobody: what no rule matches goes on. */
export interface ClusterPolicyFacts {
  readonly name: string;
  readonly generation: number;
  readonly tier: Tier;
  /** Lower ones first; ties are broken by name. */
  readonly priority: number;
  readonly subject: Selection;
  readonly ingress: readonly TierRuleFacts[];
  readonly egress: readonly TierRuleFacts[];
  /** Parts that could not be read, and what they count as. */
  readonly problems: readonly string[];
}

/** What policies need to know of a node. */
export interface NodeFacts {
  readonly labels: Labels;
  readonly addresses: readonly IpAddress[];
  /** Of its end of the tunnel: what the node sends through it to pods of others has this one. */
  readonly tunnel?: readonly IpAddress[];
}

/** A table that somebody else keeps up to date; a Reflector of src/client fits. */
export interface TableSource<P> {
  readonly items: ReadonlyMap<string, P>;
  /** Resolves when the table has been filled once. */
  readonly synced: Promise<void>;
  onChange(listener: (keys: ReadonlySet<string>) => void): void;
}

export interface PolicyLog {
  info(context: object, message: string): void;
  warn(context: object, message: string): void;
}
