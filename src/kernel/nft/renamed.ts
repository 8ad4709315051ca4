/**
 * Chains that somebody gave another name. `nft rename chain` changes nothing but the name: rules and verdict maps lead to
 * the chain itself, and the kernel tells them with the new name, while whoever keeps the chain looks for the old one.
 * A notification names the new one only. Pure.
 */
import type { NftRuleFound } from './dump.ts';
import type { NftEvent } from './monitor.ts';

/** Whose chains are looked for. */
export interface NftOwner {
  readonly prefix: string;
  /** Prefixes of all who share the table; without any, what has no prefix of ours is a stranger's. */
  readonly neighbours: readonly string[];
}

/** Whether a change may be about what this owner keeps: by its name, or by one that nobody has a right to. */
export function concerns({ subject, deleted, name }: NftEvent, owner: NftOwner): boolean {
  if (name === undefined || name.startsWith(owner.prefix)) return true;
  return subject === 'chain' && !deleted && isStrange(name, owner);
}

/** Whether a name is nobody's. */
export function isStrange(name: string, { neighbours }: NftOwner): boolean {
  return neighbours.length > 0 && !neighbours.some((prefix) => name.startsWith(prefix));
}

/** Whether rules of a chain with a strange name are the owner's: they lead to what is his, or he knows them. */
export function isOurs(
  rules: readonly Pick<NftRuleFound, 'leadsTo' | 'sets' | 'seal' | 'comment'>[],
  { prefix }: NftOwner,
  knows: (rule: Pick<NftRuleFound, 'seal' | 'comment'>) => boolean,
): boolean {
  return rules.some(
    (rule) => [...rule.leadsTo, ...rule.sets].some((name) => name.startsWith(prefix)) || knows(rule),
  );
}
