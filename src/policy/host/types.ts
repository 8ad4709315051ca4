/** What NodeNetworkPolicies say: a firewall for the addresses of nodes themselves. */
import type { LabelSelector } from '../../model/kubernetes.ts';
import type { Flow } from '../evaluate.ts';
import type { Direction, TierRuleFacts } from '../types.ts';

export interface NodePolicyFacts {
  readonly name: string;
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
}

/** How one policy stands on this node. */
export interface NodePolicyState {
  readonly name: string;
  readonly generation: number;
  readonly state: 'in force' | 'on trial' | 'expired' | 'refused';
  /** RFC 3339, of a trial. */
  readonly until?: string | undefined;
  /** What it would cut, when it is refused; what it cuts, when that is allowed. */
  readonly lockouts: readonly string[];
  readonly problems: readonly string[];
}
