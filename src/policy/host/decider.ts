/** Decides again when something changed and when a trial ends, and tells how each policy stands. */
import type { PolicyWorld } from '../evaluate.ts';
import type { NodeFacts, TableSource } from '../types.ts';
import { acceptedName, enforcement } from './evaluate.ts';
import type { Contact, NodePolicyFacts, NodePolicyState } from './types.ts';

/** Names of `acceptedName()` that outlive the process. */
export interface AcceptedPolicies {
  read(): readonly string[];
  write(names: readonly string[]): void;
}

export interface HostSources {
  readonly nodes: TableSource<NodeFacts>;
  readonly nodePolicies: TableSource<NodePolicyFacts>;
  /** What a policy of this node must not cut unless it says so; asked anew for each decision. */
  readonly contacts: () => readonly Contact[];
  /** Which of them this node enforced last, kept for an agent that starts again. */
  readonly accepted: AcceptedPolicies;
  /** A policy of this node stands otherwise than before. */
  readonly onNodePolicy: (state: NodePolicyState) => void;
}

export class HostDecider {
  readonly #sources: HostSources;
  readonly #nodeName: string;
  readonly #onDue: () => void;
  #accepted: ReadonlySet<string> | undefined;
  #states: readonly NodePolicyState[] | undefined;
  #dueMs: number | undefined;
  #timer: NodeJS.Timeout | undefined;

  /** `onDue`: a trial is over, decide again. */
  constructor(sources: HostSources, nodeName: string, onDue: () => void) {
    this.#sources = sources;
    this.#nodeName = nodeName;
    this.#onDue = onDue;
  }

  /** How policies of this node stand; undefined before that was decided first. */
  get states(): readonly NodePolicyState[] | undefined {
    return this.#states;
  }

  /** Policies to enforce from now on, in order; undefined when nothing can have changed. */
  decide(changed: boolean, world: PolicyWorld): readonly NodePolicyFacts[] | undefined {
    const due = this.#dueMs !== undefined && Date.now() >= this.#dueMs;
    const { nodes, nodePolicies, contacts, accepted, onNodePolicy } = this.#sources;
    const own = nodes.items.get(this.#nodeName);
    // Nodes are followed where there are policies only.
    if (nodePolicies.items.size === 0) this.#states ??= [];
    // Without its labels it is not known which policies are this node's: what is in force stays.
    if (!own || !(changed || due || this.#states === undefined)) return undefined;
    const { items } = nodePolicies;
    const at = items.size > 0 ? contacts() : [];
    this.#accepted ??= new Set(accepted.read());
    const { enforced, states, nextMs } = enforcement(
      items.values(),
      own.labels,
      at,
      world,
      Date.now(),
      this.#accepted,
    );
    this.#accepted = new Set(enforced.map(acceptedName));
    accepted.write([...this.#accepted]);
    const before = new Map(this.#states?.map((state) => [state.name, JSON.stringify(state)]));
    this.#states = states;
    for (const state of states) if (before.get(state.name) !== JSON.stringify(state)) onNodePolicy(state);
    clearTimeout(this.#timer);
    this.#dueMs = nextMs;
    if (nextMs !== undefined) {
      this.#timer = setTimeout(this.#onDue, Math.max(0, nextMs - Date.now()) + 1);
      this.#timer.unref();
    }
    return enforced;
  }

  /** How policies would stand with this one among them; nothing is changed. */
  check(policy: NodePolicyFacts, world: PolicyWorld): readonly NodePolicyState[] {
    const { nodes, nodePolicies, contacts } = this.#sources;
    const labels = nodes.items.get(this.#nodeName)?.labels ?? {};
    const all = new Map(nodePolicies.items).set(policy.name, policy);
    return enforcement(all.values(), labels, contacts(), world, Date.now(), this.#accepted).states;
  }

  close(): void {
    clearTimeout(this.#timer);
  }
}
