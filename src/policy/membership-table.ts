/** The sets of pods and nodes that rules in force need, filled and kept up to date member by member. */
import { FAMILIES, type Family, type IpAddress } from '../addr/index.ts';
import type { Entry, Membership } from './memberships.ts';
import { comment } from './names.ts';
import { dropSet, type Tables, wantSet } from './tables.ts';
import type { NodeFacts, PodFacts } from './types.ts';

/** A pod with the addresses that are its own now. */
export type Member = readonly [key: string, pod: PodFacts, addresses: readonly IpAddress[]];

export class MembershipTable {
  readonly #tables: Readonly<Record<Family, Tables>>;
  readonly #all = new Map<string, Membership>();
  /** The same by the namespace of their members; undefined for those that may be anywhere. */
  readonly #byNamespace = new Map<string | undefined, Set<Membership>>();

  constructor(tables: Readonly<Record<Family, Tables>>) {
    this.#tables = tables;
  }

  /** Makes sets that are new, filled with those who are there; drops what is not wanted any more. */
  want(
    wanted: ReadonlyMap<string, () => Membership>,
    podsOf: (namespace: string | undefined) => Iterable<Member>,
    nodes: ReadonlyMap<string, NodeFacts>,
  ): void {
    for (const [name, { namespace }] of this.#all) if (!wanted.has(name)) this.#drop(name, namespace);
    for (const [name, make] of wanted) {
      if (this.#all.has(name)) continue;
      const membership = make();
      const { namespace, setKind, about, ofPod, ofNode } = membership;
      this.#all.set(name, membership);
      const siblings = this.#byNamespace.get(namespace);
      if (siblings) siblings.add(membership);
      else this.#byNamespace.set(namespace, new Set([membership]));
      for (const family of FAMILIES)
        wantSet(this.#tables[family], name, { map: false, key: setKind(family) }, comment(about));
      for (const [key, pod, addresses] of podsOf(namespace))
        if (addresses.length > 0) this.#place(membership, key, ofPod(pod, addresses));
      if (ofNode) for (const [node, facts] of nodes) this.#place(membership, node, ofNode(node, facts));
    }
  }

  /** A pod of this key has come, changed or gone. */
  updatePod(key: string, pod: PodFacts | undefined, addresses: readonly IpAddress[]): void {
    const [namespace = ''] = key.split('/', 1);
    for (const list of [this.#byNamespace.get(namespace), this.#byNamespace.get(undefined)])
      for (const membership of list ?? [])
        this.#place(
          membership,
          key,
          pod && addresses.length > 0 ? membership.ofPod(pod, addresses) : undefined,
        );
  }

  updateNode(name: string, node: NodeFacts | undefined): void {
    for (const membership of this.#all.values())
      if (membership.ofNode) this.#place(membership, name, node && membership.ofNode(name, node));
  }

  #drop(name: string, namespace: string | undefined): void {
    const membership = this.#all.get(name)!;
    this.#all.delete(name);
    this.#byNamespace.get(namespace)?.delete(membership);
    for (const family of FAMILIES) dropSet(this.#tables[family], name);
  }

  /** Puts a member's entries into its set, or takes them out. */
  #place({ name, members, counts }: Membership, key: string, now: Entry[] | undefined): void {
    const before = members.get(key);
    if (!before && !now) return;
    for (const entry of now ?? []) {
      const count = counts.get(entry.id) ?? 0;
      counts.set(entry.id, count + 1);
      if (count === 0) this.#tables[entry.family].sets.get(name)?.put(entry.id, entry.element);
    }
    for (const entry of before ?? []) {
      const count = counts.get(entry.id)! - 1;
      if (count > 0) counts.set(entry.id, count);
      else {
        counts.delete(entry.id);
        this.#tables[entry.family].sets.get(name)?.remove(entry.id);
      }
    }
    if (now) members.set(key, now);
    else members.delete(key);
  }
}
