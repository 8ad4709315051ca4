/** What NodeNetworkPolicies say: a firewall for the addresses of nodes themselves. */
import type { IpAddress } from '../../addr/index.ts';
import type { LabelSelector } from '../../model/kubernetes.ts';
import type { Flow } from '../evaluate.ts';
import type { Direction, TierRuleFacts } from '../types.ts';

export interface NodePolicyFacts {
  readonly name: string;
  /** Empty when the API server gives none. */
  readonly uid: string;
  readonly generation: number;
  /** Lower ones first; ties are broken by name. */
  readonly priority: number;
  readonly nodeSelector: LabelSelector;
  /** Whether what no rule of any policy matches is denied. */
  readonly defaultDeny: Readonly<Record<Direction, boolean>>;
  readonly ingress: readonly TierRuleFacts[];
  readonly egress: readonly TierRuleFacts[];
  /** On trial until then, in milliseconds since 1970: afterwards it is not enforced. */
  readonly confirmByMs: number | undefined;
  /** Enforced although it cuts what the node is reached by. */
  readonly allowLockout: boolean;
  readonly problems: readonly string[];
}

/** Traffic without which nobody reaches the node any more, or the node nothing. */
export interface Contact {
  /** For people: "ssh from 192.0.2.7". */
  readonly what: string;
  readonly direction: Direction;
  readonly flow: Flow;
  /**
   * Anybody outside will do, `flow` and these are examples: it is cut when none of them passes, nor anybody in a network
   * that a rule names. Undefined: only `flow` will.
   */
  readonly orFrom?: readonly IpAddress[] | undefined;
}

/** How one policy stands on this node. */
export interface NodePolicyState {
  readonly name: string;
  readonly uid: string;
  readonly generation: number;
  readonly state: 'in force' | 'on trial' | 'expired' | 'refused';
  /** RFC 3339, of a trial. */
  readonly until?: string | undefined;
  /** What it would cut, when it is refused; what it cuts, when that is allowed or it was in force before. */
  readonly lockouts: readonly string[];
  readonly problems: readonly string[];
}
