/**
 * Open connections keep the translation that they began with, whatever the rules say now. Those whose translation is
 * not what their pod's egress address asks for are deleted from connection tracking: nothing leaves with an address
 * that is no longer the right one. Pure.
 */
import type { Cidr, IpAddress } from '../addr/index.ts';
import type { ConntrackEntry } from '../kernel/conntrack/index.ts';
import type { EgressDesired, EgressPodFate } from './desired.ts';

/**
 * How a pod's connections to the outside are translated on this node: to an egress address, not at all because their
 * holder does it, or as those of any pod. Undefined while they are dropped.
 */
export type Translation = { readonly to: IpAddress } | 'elsewhere' | 'any' | undefined;

/** By address of the pod; pods that no namespace's wish is about have none. */
export type Translations = ReadonlyMap<string, Translation>;

export function translationsOf({ local, remote }: Pick<EgressDesired, 'local' | 'remote'>): Translations {
  return new Map([...local, ...remote].map((each) => [String(each.address), translationOf(each)]));
}

function translationOf({ fate }: EgressPodFate): Translation {
  if (fate.kind === 'here') return { to: fate.address };
  return fate.kind === 'via' ? 'elsewhere' : undefined;
}

/** Addresses whose translation is another one now, `any` for those that have none any more. */
export function changedTranslations(before: Translations, now: Translations): Map<string, Translation> {
  const changed = new Map<string, Translation>();
  for (const [address, translation] of now)
    if (translation !== undefined && text(before.get(address)) !== text(translation))
      changed.set(address, translation);
  for (const address of before.keys()) if (!now.has(address)) changed.set(address, 'any');
  return changed;
}

function text(translation: Translation): string {
  return typeof translation === 'object' ? String(translation.to) : String(translation);
}

export interface StaleQuestion {
  readonly entries: readonly ConntrackEntry[];
  readonly wanted: Translations;
  /** What the addresses had before: an address that nobody asks for any more is let go of. */
  readonly before: Translations;
  readonly isInside: (destination: IpAddress) => boolean;
}

/** Entries of pods' own connections to the outside that are translated in another way than is wanted now. */
export function staleEntries({ entries, wanted, before, isInside }: StaleQuestion): ConntrackEntry[] {
  return entries.filter(({ original, reply }) => {
    const pod = String(original.source);
    const translation = wanted.get(pod);
    if (translation === undefined || isInside(reply.source)) return false;
    if (translation === 'elsewhere') return !reply.destination.equals(original.source);
    if (translation !== 'any') return !reply.destination.equals(translation.to);
    const old = before.get(pod);
    return (
      reply.destination.equals(original.source) ||
      (typeof old === 'object' && reply.destination.equals(old.to))
    );
  });
}

/** Tells networks of the cluster and addresses of nodes from what is outside. */
export function insideTest(
  cluster: readonly Cidr[],
  nodes: readonly IpAddress[],
): (address: IpAddress) => boolean {
  const known = new Set(nodes.map(String));
  return (address) => cluster.some((cidr) => cidr.contains(address)) || known.has(String(address));
}
