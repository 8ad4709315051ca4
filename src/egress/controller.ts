/**
 * Joins what namespaces ask for with the kernel of this node:
 *
 *     Namespaces, Nodes, pods, elections, routes ─► desiredEgress ─► rules and tables ─► nft ─► connections
 *          CNI ADD ─────────────────────────────────────┘ waits for it before the pod has a link
 *
 * Each trigger compares everything with everything. While no namespace asks for anything, nothing of this is in the kernel, and nothing is looked at.
 */
import type { Cidr, Family, IpAddress } from '../addr/index.ts';
import { egressError } from '../errors/index.ts';
import { type ObjectStatus, Reconciler } from '../reconcile/index.ts';
import { readWish } from './annotation.ts';
import { desiredEgress, type EgressDesired } from './desired.ts';
import { ownClaims, wantedAddresses } from './holders.ts';
import { EgressKernel } from './kernel.ts';
import type { Claims, EgressNode, EgressPod, EgressState, Role, Slot, Wish } from './types.ts';

export interface EgressLog {
  info(context: object, message: string): void;
  warn(context: object, message: string): void;
}

export interface RemotePods {
  readonly pods: readonly EgressPod[];
  /** Namespaces whose pods are all known. */
  readonly listed: ReadonlySet<string>;
}

export interface EgressSources {
  /** Annotations by namespace, null for one without; undefined while they are not known. */
  readonly namespaces: () => ReadonlyMap<string, string | null> | undefined;
  /** False for a namespace that nothing is known of although all are listed: nobody knows what it asks for. */
  readonly isKnown: (namespace: string) => boolean;
  /** All nodes with what they told last, this one among them. */
  readonly nodes: () => readonly EgressNode[];
  /** Addresses of this node's links. */
  readonly localAddresses: () => readonly IpAddress[];
  readonly role: (address: string) => Role;
  /** What this node knows about why nobody holds an address. */
  readonly whyNot?: (address: string) => string | undefined;
  /** Whether this node holds an address or may be elected to. */
  readonly mayHold: (address: string) => boolean;
  /** Pods of other nodes in these namespaces; listed from now on, if they are not yet. */
  readonly remotePods: (namespaces: ReadonlySet<string>) => RemotePods;
  /** Networks of Services. */
  readonly serviceCidrs: () => readonly Cidr[];
  readonly ownCidrs: () => readonly Cidr[];
}

export interface EgressOptions {
  readonly node: string;
  readonly clusterCidrs: readonly Cidr[];
  readonly sources: EgressSources;
  /** What this node holds has changed: to be told to the others. */
  readonly onClaims?: (claims: Claims) => void;
  /** What namespaces ask for, and what became of it; after each change. */
  readonly onStates?: (states: readonly EgressState[]) => void;
  /** What namespaces ask for was read. */
  readonly onWishes?: () => void;
  readonly netns?: number | { readonly fd: number } | undefined;
  readonly log?: EgressLog;
}

export interface EgressStatus {
  readonly state: ObjectStatus;
  readonly states: readonly EgressState[];
  readonly claims: Claims;
  readonly slots: readonly Slot[];
  readonly connectionsCut: number;
}

export class EgressController {
  readonly #options: EgressOptions;
  readonly #families: readonly Family[];
  readonly #reconciler: Reconciler;
  readonly #kernel: EgressKernel;
  readonly #locals = new Map<string, EgressPod>();
  #wishes: ReadonlyMap<string, Wish> = new Map();
  #claims: Claims | undefined;
  /** Until their namespaces are listed. */
  #inherited: readonly EgressPod[] = [];
  #told = '';

  /** Throws KERNEL_SYSCALL, KERNEL_NEEDS_ROOT. */
  constructor(options: EgressOptions) {
    this.#options = options;
    this.#families = [...new Set(options.clusterCidrs.map(({ family }) => family))].sort();
    this.#kernel = new EgressKernel({
      netns: options.netns,
      families: this.#families,
      onError: (error) =>
        options.log?.warn({ error: error.message }, 'connections under an old egress address'),
    });
    this.#reconciler = new Reconciler({ name: 'egress addresses', run: () => this.#run(), coalesceMs: 2 });
  }

  /** Takes over the pods that are attached, and follows the kernel. */
  start(attached: Iterable<EgressPod & { readonly key: string }>): void {
    for (const { key, ...pod } of attached) this.#locals.set(key, pod);
    this.#inherited = this.#kernel.inherited();
    this.#kernel.follow(() => this.trigger());
    this.#reconciler.start();
  }

  /** Something that it depends on has changed. */
  trigger(): void {
    this.#reconciler.trigger();
  }

  /** A pod is about to get its link: what it will send is dealt with before it can. Throws EGRESS_NOT_PROGRAMMED. */
  admit(key: string, pod: EgressPod): void {
    this.#locals.set(key, pod);
    const known = this.#options.sources.namespaces();
    if (known?.has(pod.namespace) && known.get(pod.namespace) === null) return;
    try {
      this.#run();
    } catch (error) {
      throw egressError('EGRESS_NOT_PROGRAMMED', { pod: pod.name, why: (error as Error).message }, error);
    }
  }

  forget(key: string): void {
    const pod = this.#locals.get(key);
    if (!pod) return;
    this.#locals.delete(key);
    if (this.desired.local.some((each) => each.pod.namespace === pod.namespace)) this.trigger();
  }

  /** What this node holds of what namespaces ask for; undefined while that is not known. */
  get claims(): Claims | undefined {
    return this.#claims;
  }

  /** What namespaces ask for. */
  get wishes(): ReadonlyMap<string, Wish> {
    return this.#wishes;
  }

  /** Whether a namespace is there, as far as is known. */
  isKnown(namespace: string): boolean {
    return this.#options.sources.isKnown(namespace);
  }

  /** Pods of this node, as namespace/name. */
  get localPods(): ReadonlySet<string> {
    return new Set([...this.#locals.values()].map(({ name }) => name));
  }

  get desired(): EgressDesired {
    return this.#kernel.desired;
  }

  status(): EgressStatus {
    const { states, slots } = this.desired;
    return {
      state: this.#reconciler.status,
      states,
      claims: this.#claims ?? new Map(),
      slots,
      connectionsCut: this.#kernel.connectionsCut,
    };
  }

  /** Commands that would bring the kernel up to date now. */
  plan(): string[] {
    const next = this.#want();
    return next ? this.#kernel.plan(next.desired) : [];
  }

  /** Packets dropped since the rules were last written, by the comment of the rule. Throws NFT_LIST_FAILED. */
  drops(): Map<string, number> {
    return this.#kernel.drops();
  }

  /** Lets go of everything and leaves it in the kernel. */
  async close(): Promise<void> {
    await this.#reconciler.stop();
    this.#kernel.close();
  }

  /** What is wanted now; undefined while namespaces are not known: what is in the kernel stays. */
  #want(): { desired: EgressDesired; wishes: ReadonlyMap<string, Wish>; claims: Claims } | undefined {
    const { node, clusterCidrs, sources } = this.#options;
    const namespaces = sources.namespaces();
    if (!namespaces) return undefined;
    const cluster = [...clusterCidrs, ...sources.serviceCidrs()];
    const wishes = new Map<string, Wish>();
    for (const [namespace, text] of namespaces)
      if (text !== null) wishes.set(namespace, readWish(namespace, text, cluster));
    const known = sources.nodes();
    const own = known.find(({ name }) => name === node);
    const local = sources.localAddresses();
    const claims = ownClaims({
      wishes: wishes.values(),
      local: new Set(local.map(String)),
      role: sources.role,
      before: this.#claims ?? own?.claims ?? new Map(),
      others: known.filter(({ name }) => name !== node),
    });
    const self: EgressNode = {
      name: node,
      podCidrs: own?.podCidrs ?? sources.ownCidrs(),
      // Its other links' addresses are no outside either, but where the address is that pods shall have.
      addresses: [...(own?.addresses ?? []), ...local],
      claims,
    };
    const held = new Set(
      [...wantedAddresses(wishes.values())].filter(
        (address) => claims.has(address) || sources.mayHold(address),
      ),
    );
    const mine = [...wishes.values()].filter(({ addresses }) =>
      this.#families.some((family) => held.has(String(addresses[family]))),
    );
    const desired = desiredEgress({
      node,
      families: this.#families,
      wishes,
      isKnown: sources.isKnown,
      nodes: [self, ...known.filter(({ name }) => name !== node)],
      local: [...this.#locals.values()],
      remote: this.#remotePods(new Set(mine.map(({ namespace }) => namespace))),
      whyNot: sources.whyNot,
      routes: wishes.size === 0 ? [] : this.#kernel.observe().routes,
      cluster,
      own: sources.ownCidrs(),
    });
    return { desired, wishes, claims };
  }

  #remotePods(namespaces: ReadonlySet<string>): readonly EgressPod[] {
    const { pods, listed } = this.#options.sources.remotePods(namespaces);
    this.#inherited = this.#inherited.filter(({ namespace }) => !listed.has(namespace));
    if (this.#inherited.length === 0) return pods;
    const own = new Set([...this.#locals.values()].map(({ name }) => name));
    const still = this.#inherited.filter(
      ({ name, namespace }) => namespaces.has(namespace) && !own.has(name),
    );
    return [...pods, ...still];
  }

  #run(): void {
    const next = this.#want();
    if (!next) return;
    const { desired, wishes, claims } = next;
    this.#wishes = wishes;
    this.#tellClaims(claims);
    this.#options.onWishes?.();
    this.#kernel.apply(desired, [...this.#locals.values()]);
    this.#tellStates();
  }

  #tellClaims(claims: Claims): void {
    const told = this.#claims;
    if (told?.size === claims.size && [...claims].every(([key, value]) => told.get(key) === value)) return;
    this.#claims = claims;
    this.#options.onClaims?.(claims);
  }

  #tellStates(): void {
    const { states } = this.desired;
    const text = JSON.stringify(states.map(({ namespace, family, fate }) => [namespace, family, fate]));
    if (text === this.#told) return;
    this.#told = text;
    this.#options.onStates?.(states);
  }
}
