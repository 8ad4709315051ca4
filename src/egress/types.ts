/** Nouns of egress addresses: which address a namespace's pods have outside the cluster, and who brings them there. */
import type { Cidr, Family, IpAddress } from '../addr/index.ts';

/** On a Namespace: `192.0.2.50`, `192.0.2.50,fd00::50`. */
export const EGRESS_ANNOTATION = 'portolan.dev/egress-address';
/** On a Node: the egress addresses that it holds, see annotation.ts. */
export const HELD_ANNOTATION = 'portolan.dev/egress-held';

/** What a namespace asks for. */
export interface Wish {
  readonly namespace: string;
  /** One a family; a family without one is not concerned. */
  readonly addresses: { readonly [F in Family]?: IpAddress | undefined };
  /** Why it cannot be read: nothing of its pods leaves the cluster then. */
  readonly problem?: string | undefined;
}

/** A link of the node has the address, or the node was elected; of two elections the later one counts. */
export type Claim = 'own' | number;

/**
 * What an election says of this node: it leads; it led and cannot ask who does now; it is not known yet. Undefined: some
 * other node leads, or this one does not stand.
 */
export type Role = 'leader' | 'keeper' | 'undecided' | undefined;

/** What a node says that it holds, by address. */
export type Claims = ReadonlyMap<string, Claim>;

/** A node as far as egress is concerned. */
export interface EgressNode {
  readonly name: string;
  readonly podCidrs: readonly Cidr[];
  /** Destinations that are no outside. */
  readonly addresses: readonly IpAddress[];
  readonly claims: Claims;
}

/** A pod by its addresses. */
export interface EgressPod {
  /** `namespace/name`, for comments. */
  readonly name: string;
  readonly namespace: string;
  readonly addresses: readonly IpAddress[];
}

/** The way to another node as the overlay has it. */
export interface Way {
  readonly gateway: IpAddress;
  readonly oif: number;
  readonly onlink: boolean;
}

/** What becomes of a namespace's connections to the outside, in one family. */
export type Fate =
  /** This node holds the address. */
  | { readonly kind: 'here'; readonly address: IpAddress }
  /** Another node does, and is reached by this slot. */
  | { readonly kind: 'via'; readonly address: IpAddress; readonly node: string; readonly slot: number }
  /** Dropped. */
  | { readonly kind: 'closed'; readonly address: IpAddress | undefined; readonly why: string };

/** A way out over another node: a bit pattern of the packet mark, a rule, a table with one route. */
export interface Slot extends Way {
  /** 1 to 126. */
  readonly number: number;
  readonly family: Family;
  readonly node: string;
}

/** One namespace in one family, for people. */
export interface EgressState {
  readonly namespace: string;
  readonly family: Family;
  readonly fate: Fate;
  /** Pods of this node. */
  readonly pods: number;
}
