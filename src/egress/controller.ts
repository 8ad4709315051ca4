/**
 * Joins what namespaces ask for with the kernel of this node:
 *
 *     Namespaces, Nodes, pods, elections, routes ─► desiredEgress ─► rules and tables ─► nft ─► connections
 *          CNI ADD ─────────────────────────────────────┘ waits for it before the pod has a link
 *
 * Each trigger compares everything with everything. Pods whose connections get another translation are closed first,
 * then what is open of theirs is cut, then they are opened: no packet leaves with an address that is not theirs now.
 * While no namespace asks for anything, nothing of this is in the kernel, and nothing is looked at.
 */
import type { Cidr, Family, IpAddress } from '../addr/index.ts';
import { egressError } from '../errors/index.ts';
import { Conntrack } from '../kernel/conntrack/index.ts';
import { monitorNft, NftGuard, NftRuleset, partText } from '../kernel/nft/index.ts';
import { RTPROT_PORTOLAN, Rtnl, type RtnlEvent, RtnlMonitor } from '../kernel/rtnl/index.ts';
import { type ObjectStatus, Reconciler } from '../reconcile/index.ts';
import { readWish } from './annotation.ts';
import {
  changedTranslations,
  insideTest,
  staleEntries,
  type Translations,
  translationsOf,
} from './connections.ts';
import { desiredEgress, type EgressDesired, type EgressPodFate } from './desired.ts';
import { ownClaims, wantedAddresses } from './holders.ts';
import { EGRESS_PREFIX, EGRESS_TABLE, egressPart } from './rules.ts';
import { isSlotTable, planSlots } from './slots.ts';
import type { Claims, EgressNode, EgressPod, EgressState, Role, Slot, Wish } from './types.ts';

export interface EgressLog {
  info(context: object, message: string): void;
  warn(context: object, message: string): void;
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
  /** Whether this node holds an address or may be elected to. */
  readonly mayHold: (address: string) => boolean;
  /** Pods of other nodes in these namespaces; listed from now on, if they are not yet. */
  readonly remotePods: (namespaces: ReadonlySet<string>) => readonly EgressPod[];
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

/** A second look finds connections that were being made during the first. */
const CUT_AGAIN_MS = 1000;
const NONE: EgressDesired = {
  slots: [],
  states: [],
  local: [],
  remote: [],
  elected: [],
  cluster: [],
  own: [],
  nodeAddresses: [],
  active: false,
};

export class EgressController {
  readonly #options: EgressOptions;
  readonly #families: readonly Family[];
  readonly #reconciler: Reconciler;
  readonly #rtnl: Rtnl;
  readonly #guard: NftGuard;
  readonly #ruleset: NftRuleset;
  readonly #conntrack: Conntrack;
  readonly #locals = new Map<string, EgressPod>();
  readonly #timers = new Set<NodeJS.Timeout>();
  #monitors: { close(): void }[] = [];
  #desired = NONE;
  #wishes: ReadonlyMap<string, Wish> = new Map();
  #claims: Claims | undefined;
  #translations: Translations | undefined;
  /** Nothing of this is in the kernel. */
  #clean = false;
  #connectionsCut = 0;
  #told = '';

  /** Throws KERNEL_SYSCALL, KERNEL_NEEDS_ROOT. */
  constructor(options: EgressOptions) {
    this.#options = options;
    this.#families = [...new Set(options.clusterCidrs.map(({ family }) => family))].sort();
    const place = { netns: options.netns };
    this.#rtnl = Rtnl.open(place);
    this.#guard = new NftGuard(place);
    this.#ruleset = NftRuleset.open(place);
    this.#conntrack = Conntrack.open(place);
    this.#reconciler = new Reconciler({ name: 'egress addresses', run: () => this.#run(), coalesceMs: 2 });
  }

  /** Takes over the pods that are attached, and follows the kernel. */
  start(attached: Iterable<EgressPod & { readonly key: string }>): void {
    for (const { key, ...pod } of attached) this.#locals.set(key, pod);
    const { netns } = this.#options;
    const trigger = () => this.trigger();
    this.#monitors = [
      new RtnlMonitor({
        netns,
        topics: ['link', 'route', 'rule'],
        ignore: [this.#rtnl.port],
        onEvent: (event) => {
          if (this.#concerns(event)) trigger();
        },
        onResync: trigger,
      }),
      monitorNft({
        netns,
        onEvent: ({ table, name }) => {
          if (
            table === EGRESS_TABLE &&
            (name === undefined || name.startsWith(EGRESS_PREFIX)) &&
            !this.#clean
          )
            trigger();
        },
        onResync: trigger,
      }),
    ];
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
    if (this.#desired.local.some((each) => each.pod.namespace === pod.namespace)) this.trigger();
  }

  /** What this node holds of what namespaces ask for; undefined while that is not known. */
  get claims(): Claims | undefined {
    return this.#claims;
  }

  /** What namespaces ask for. */
  get wishes(): ReadonlyMap<string, Wish> {
    return this.#wishes;
  }

  get desired(): EgressDesired {
    return this.#desired;
  }

  status(): EgressStatus {
    const { states, slots } = this.#desired;
    return {
      state: this.#reconciler.status,
      states,
      claims: this.#claims ?? new Map(),
      slots,
      connectionsCut: this.#connectionsCut,
    };
  }

  /** Commands that would bring the kernel up to date now. */
  plan(): string[] {
    const next = this.#want();
    if (!next) return [];
    const names = this.#rtnl.nameOf();
    const { before, after } = planSlots(next.desired.slots, this.#observe());
    const rules = this.#families.flatMap((family) => {
      const text = partText(egressPart(family, next.desired));
      return text === partText(egressPart(family, this.#desired)) ? [] : text.split('\n').filter(Boolean);
    });
    return [
      ...before.map((change) => change.text(names)),
      ...rules.map((line) => `nft ${line}`),
      ...after.map((change) => change.text(names)),
    ];
  }

  /** Packets dropped since the rules were last written, by the comment of the rule. Throws NFT_LIST_FAILED. */
  drops(): Map<string, number> {
    const found = new Map<string, number>();
    for (const family of this.#families)
      for (const { chain, comment, packets } of this.#ruleset.rules({
        family: family === 4 ? 'ip' : 'ip6',
        table: EGRESS_TABLE,
      }))
        if (chain.startsWith(EGRESS_PREFIX) && packets !== undefined)
          found.set(comment, (found.get(comment) ?? 0) + packets);
    return found;
  }

  /** Lets go of everything and leaves it in the kernel. */
  async close(): Promise<void> {
    for (const monitor of this.#monitors.splice(0)) monitor.close();
    for (const timer of this.#timers) clearTimeout(timer);
    await this.#reconciler.stop();
    this.#guard.close();
    this.#ruleset.close();
    this.#rtnl.close();
    this.#conntrack.close();
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
    const held = new Set([...wantedAddresses(wishes.values())].filter((address) => sources.mayHold(address)));
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
      remote: sources.remotePods(new Set(mine.map(({ namespace }) => namespace))),
      routes: wishes.size === 0 ? [] : this.#observe().routes,
      cluster,
      own: sources.ownCidrs(),
    });
    return { desired, wishes, claims };
  }

  #observe() {
    return { rules: this.#rtnl.rules(), routes: this.#rtnl.routes({ protocol: RTPROT_PORTOLAN }) };
  }

  #run(): void {
    const next = this.#want();
    if (!next) return;
    const { desired, wishes, claims } = next;
    this.#wishes = wishes;
    this.#tellClaims(claims);
    this.#options.onWishes?.();
    if (!desired.active && this.#clean) return;
    this.#clean = false;
    const plan = planSlots(desired.slots, this.#observe());
    this.#rtnl.mustApply(...plan.before);
    this.#rewrite(desired);
    this.#desired = desired;
    this.#rtnl.mustApply(...plan.after);
    this.#clean = !desired.active;
    this.#tellStates();
  }

  /** Rules, and before they open anything: connections that began under others. */
  #rewrite(desired: EgressDesired): void {
    const now = translationsOf(desired);
    const before = this.#translations;
    // After a start nobody knows what was in force: everything of egress is looked at.
    const wanted = before
      ? changedTranslations(before, now)
      : new Map([...this.#strayLocals(now), ...changedTranslations(new Map(), now)]);
    const fresh = (address: string) => before !== undefined && !before.has(address) && !this.#hadPod(address);
    const moving = [...wanted.keys()].filter((address) => !fresh(address));
    if (moving.length > 0) {
      this.#ensure(closing(desired, this.#desired, new Set(moving)));
      const cut = () => this.#cut(wanted, before ?? new Map(), desired);
      cut();
      this.#later(cut);
    }
    this.#ensure(desired);
    this.#translations = now;
  }

  /** Whether a pod of this node had an address at the last run: if not, it has no connections. */
  #hadPod(address: string): boolean {
    return this.#seen.has(address);
  }

  #seen: ReadonlySet<string> = new Set();

  #ensure(desired: EgressDesired): void {
    for (const family of this.#families) this.#guard.ensure(egressPart(family, desired));
    this.#seen = new Set([...this.#locals.values()].flatMap(({ addresses }) => addresses.map(String)));
  }

  /** Local pods that nothing is asked for, when a former process may have left rules for them. */
  #strayLocals(now: Translations): [string, 'any'][] {
    const left = this.#families.some((family) =>
      this.#ruleset
        .chains({ family: family === 4 ? 'ip' : 'ip6', table: EGRESS_TABLE })
        .some(({ name }) => name.startsWith(EGRESS_PREFIX)),
    );
    if (!left) return [];
    return [...this.#locals.values()].flatMap(({ addresses }) =>
      addresses.flatMap((address): [string, 'any'][] =>
        now.has(String(address)) ? [] : [[String(address), 'any']],
      ),
    );
  }

  #cut(wanted: Translations, before: Translations, { cluster, nodeAddresses }: EgressDesired): void {
    const isInside = insideTest(cluster, nodeAddresses);
    for (const family of this.#families) {
      const stale = staleEntries({ entries: this.#conntrack.list({ family }), wanted, before, isInside });
      if (stale.length > 0) this.#connectionsCut += this.#conntrack.delete(stale);
    }
  }

  #later(work: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      try {
        work();
      } catch (error) {
        this.#options.log?.warn(
          { error: (error as Error).message },
          'connections under an old egress address',
        );
      }
    }, CUT_AGAIN_MS).unref();
    this.#timers.add(timer);
  }

  #tellClaims(claims: Claims): void {
    const told = this.#claims;
    if (told?.size === claims.size && [...claims].every(([key, value]) => told.get(key) === value)) return;
    this.#claims = claims;
    this.#options.onClaims?.(claims);
  }

  #tellStates(): void {
    const { states } = this.#desired;
    const text = JSON.stringify(states.map(({ namespace, family, fate }) => [namespace, family, fate]));
    if (text === this.#told) return;
    this.#told = text;
    this.#options.onStates?.(states);
  }

  /** Pods' links and routes come and go all the time. */
  #concerns(event: RtnlEvent): boolean {
    if (this.#clean) return false;
    switch (event.topic) {
      case 'rule':
        return isSlotTable(event.rule.table);
      case 'route': {
        const { protocol, table, gateway } = event.route;
        return isSlotTable(table) || (protocol === RTPROT_PORTOLAN && gateway !== undefined);
      }
      case 'link':
        return this.#desired.slots.some(({ oif }) => oif === event.link.ifindex);
      default:
        return false;
    }
  }
}

const CHANGING = 'its connections are being moved';

/** The same with some addresses closed: those that leave the old one, too. */
function closing(desired: EgressDesired, before: EgressDesired, moving: ReadonlySet<string>): EgressDesired {
  const closed = (each: EgressPodFate): EgressPodFate => ({
    ...each,
    fate: { kind: 'closed', address: undefined, why: CHANGING },
  });
  const still = new Set(desired.local.map(({ address }) => String(address)));
  const leaving = before.local.filter(
    ({ address }) => moving.has(String(address)) && !still.has(String(address)),
  );
  const base = desired.active ? desired : { ...before, local: [], remote: [] };
  return {
    ...base,
    active: true,
    local: [
      ...desired.local.map((each) => (moving.has(String(each.address)) ? closed(each) : each)),
      ...leaving.map(closed),
    ],
    remote: desired.remote.filter(({ address }) => !moving.has(String(address))),
  };
}
