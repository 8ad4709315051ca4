/**
 * What the kernel of one node has of egress addresses, and how it gets from one state to the next: ways out first, then
 * rules, connections in between, ways that nobody takes any more last. Pods whose connections get another translation
 * are closed first, then what is open of theirs is cut, then they are opened: no packet leaves with an address that is
 * not theirs now.
 */

import type { Family } from '../addr/index.ts';
import { Conntrack } from '../kernel/conntrack/index.ts';
import { concerns, monitorNft, NftGuard, NftRuleset, partText } from '../kernel/nft/index.ts';
import { RTPROT_PORTOLAN, Rtnl, type RtnlEvent, RtnlMonitor } from '../kernel/rtnl/index.ts';
import { NFT_PREFIXES, NFT_TABLE } from '../model/nft-parts.ts';
import {
  changedTranslations,
  insideTest,
  staleEntries,
  type Translations,
  translationsOf,
} from './connections.ts';
import type { EgressDesired, EgressPodFate } from './desired.ts';
import { readInherited } from './inherited.ts';
import { EGRESS_PREFIX, egressPart, egressSteps } from './rules.ts';
import { isSlotTable, planSlots } from './slots.ts';
import type { EgressPod } from './types.ts';

/** A second look finds connections that were being made during the first. */
const CUT_AGAIN_MS = 1000;
/** Wait after a second look that failed, doubled each time until the longest. */
const RETRY_MS = 100;
const LONGEST_RETRY_MS = 5_000;
/** Nothing is asked for. */
export const NO_EGRESS: EgressDesired = {
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

export interface EgressKernelOptions {
  readonly netns?: number | { readonly fd: number } | undefined;
  readonly families: readonly Family[];
  /** A look at connections went wrong that nobody waits for. */
  readonly onError: (error: Error) => void;
}

export class EgressKernel {
  readonly #options: EgressKernelOptions;
  readonly #families: readonly Family[];
  readonly #rtnl: Rtnl;
  readonly #guard: NftGuard;
  readonly #ruleset: NftRuleset;
  readonly #conntrack: Conntrack;
  readonly #timers = new Set<NodeJS.Timeout>();
  #monitors: { close(): void }[] = [];
  #desired = NO_EGRESS;
  /** What the rules were last made from. */
  #inForce = NO_EGRESS;
  #translations: Translations | undefined;
  /** Addresses of this node's pods at the last run. */
  #seen: ReadonlySet<string> = new Set();
  /** Nothing of this is in the kernel. */
  #clean = false;
  #connectionsCut = 0;

  /** Throws KERNEL_SYSCALL, KERNEL_NEEDS_ROOT. */
  constructor(options: EgressKernelOptions) {
    this.#options = options;
    this.#families = options.families;
    const place = { netns: options.netns };
    this.#rtnl = Rtnl.open(place);
    this.#guard = new NftGuard({ ...place, neighbours: NFT_PREFIXES });
    this.#ruleset = NftRuleset.open(place);
    this.#conntrack = Conntrack.open(place);
  }

  /** What is in force. */
  get desired(): EgressDesired {
    return this.#desired;
  }

  get connectionsCut(): number {
    return this.#connectionsCut;
  }

  /** Pods of other nodes that a former process let leave by this one. Throws NFT_LIST_FAILED. */
  inherited(): EgressPod[] {
    return readInherited(this.#ruleset, this.#families);
  }

  /** Calls the listener when somebody has changed what matters here. */
  follow(onChange: () => void): void {
    const { netns } = this.#options;
    this.#monitors = [
      new RtnlMonitor({
        netns,
        topics: ['link', 'route', 'rule'],
        ignore: [this.#rtnl.port],
        onEvent: (event) => {
          if (this.#concerns(event)) onChange();
        },
        onResync: onChange,
      }),
      monitorNft({
        netns,
        onEvent: (event) => {
          const owner = { prefix: EGRESS_PREFIX, neighbours: NFT_PREFIXES };
          if (event.table === NFT_TABLE && concerns(event, owner) && !this.#clean) onChange();
        },
        onResync: onChange,
      }),
    ];
  }

  /** Rules and routes of Portolan in all tables. */
  observe() {
    return { rules: this.#rtnl.rules(), routes: this.#rtnl.routes({ protocol: RTPROT_PORTOLAN }) };
  }

  /** Brings the kernel up to date; `locals` are all pods of this node. Throws RTNL_*, NFT_*, CONNTRACK_FAILED. */
  apply(desired: EgressDesired, locals: readonly EgressPod[]): void {
    if (!desired.active && this.#clean) return;
    this.#clean = false;
    const plan = planSlots(desired.slots, this.observe());
    this.#rtnl.mustApply(...plan.before);
    this.#rewrite(desired, locals);
    this.#desired = desired;
    this.#rtnl.mustApply(...plan.after);
    this.#clean = !desired.active;
  }

  /** Commands that would bring the kernel up to date now. */
  plan(desired: EgressDesired): string[] {
    const names = this.#rtnl.nameOf();
    const { before, after } = planSlots(desired.slots, this.observe());
    const rules = this.#families.flatMap((family) => {
      const text = partText(egressPart(family, desired));
      return text === partText(egressPart(family, this.#desired)) ? [] : text.split('\n').filter(Boolean);
    });
    return [
      ...before.map((change) => change.text(names)),
      ...rules.map((line) => `nft ${line}`),
      ...after.map((change) => change.text(names)),
    ];
  }

  /** Packets dropped since there is the rule, by its comment. Throws NFT_LIST_FAILED. */
  drops(): Map<string, number> {
    const found = new Map<string, number>();
    for (const family of this.#families)
      for (const { chain, comment, packets } of this.#ruleset.rules({
        family: family === 4 ? 'ip' : 'ip6',
        table: NFT_TABLE,
      }))
        if (chain.startsWith(EGRESS_PREFIX) && packets !== undefined)
          found.set(comment, (found.get(comment) ?? 0) + packets);
    return found;
  }

  /** Lets go of everything and leaves it in the kernel. */
  close(): void {
    for (const monitor of this.#monitors.splice(0)) monitor.close();
    for (const timer of this.#timers) clearTimeout(timer);
    this.#guard.close();
    this.#ruleset.close();
    this.#rtnl.close();
    this.#conntrack.close();
  }

  /** Rules, and before they open anything: connections that began under others. */
  #rewrite(desired: EgressDesired, locals: readonly EgressPod[]): void {
    const now = translationsOf(desired);
    const before = this.#translations;
    // After a start nobody knows what was in force: everything of egress is looked at.
    const wanted = before
      ? changedTranslations(before, now)
      : new Map([...this.#strayLocals(now, locals), ...changedTranslations(new Map(), now)]);
    const fresh = (address: string) =>
      before !== undefined && !before.has(address) && !this.#seen.has(address);
    const moving = [...wanted.keys()].filter((address) => !fresh(address));
    if (moving.length > 0) {
      const cut = () => this.#cut(wanted, before ?? new Map(), desired);
      // A restart finds what it left: nobody has to wait for that.
      if (before || this.#stale(wanted, new Map(), desired).length > 0)
        this.#ensure(closing(desired, this.#desired, new Set(moving)));
      cut();
      this.#later(cut, CUT_AGAIN_MS);
    }
    this.#ensure(desired);
    this.#translations = now;
    this.#seen = new Set(locals.flatMap(({ addresses }) => addresses.map(String)));
  }

  #ensure(desired: EgressDesired): void {
    for (const family of this.#families)
      for (const part of egressSteps(family, this.#inForce, desired)) this.#guard.ensure(part);
    this.#inForce = desired;
  }

  /** Local pods that nothing is asked for, when a former process may have left rules for them. */
  #strayLocals(now: Translations, locals: readonly EgressPod[]): [string, 'any'][] {
    const left = this.#families.some((family) =>
      this.#ruleset
        .chains({ family: family === 4 ? 'ip' : 'ip6', table: NFT_TABLE })
        .some(({ name }) => name.startsWith(EGRESS_PREFIX)),
    );
    if (!left) return [];
    return locals.flatMap(({ addresses }) =>
      addresses.flatMap((address): [string, 'any'][] =>
        now.has(String(address)) ? [] : [[String(address), 'any']],
      ),
    );
  }

  #cut(wanted: Translations, before: Translations, desired: EgressDesired): void {
    const stale = this.#stale(wanted, before, desired);
    if (stale.length > 0) this.#connectionsCut += this.#conntrack.delete(stale);
  }

  #stale(wanted: Translations, before: Translations, { cluster, nodeAddresses }: EgressDesired) {
    const isInside = insideTest(cluster, nodeAddresses);
    return this.#families.flatMap((family) =>
      staleEntries({ entries: this.#conntrack.list({ family }), wanted, before, isInside }),
    );
  }

  /** What fails is tried again, and told once: connections under an old address stay meanwhile. */
  #later(work: () => void, waitMs: number, failures = 0): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      try {
        work();
      } catch (error) {
        if (failures === 0) this.#options.onError(error as Error);
        this.#later(work, Math.min(LONGEST_RETRY_MS, RETRY_MS * 2 ** Math.min(10, failures)), failures + 1);
      }
    }, waitMs).unref();
    this.#timers.add(timer);
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
