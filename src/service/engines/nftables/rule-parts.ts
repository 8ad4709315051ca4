/** What rules of Services are made of: registers, and the few expressions that all chains share. */
import type { Family } from '../../../addr/index.ts';
import {
  bitwise,
  meta,
  type NftExpression,
  type NftHook,
  type NftRule,
  type NftRuleFound,
  payload,
  ruleOf,
  setMark,
  targetsOf,
} from '../../../kernel/nft/index.ts';
import { MASQUERADE_MARK } from './layout.ts';

export interface Chain {
  readonly hook?: NftHook;
  readonly rules: readonly NftRule[];
}

/** How frontends are found: by address, protocol and port, or by protocol and port at any address of the node. */
export type Space = 'vip' | 'nodeport';

/** Registers: the key lies from 0 on, what a map gave from 8 on. */
export const FOUND = 8;

/** Registers that an address takes. */
export function words(family: Family): number {
  return family === 4 ? 1 : 4;
}

export function address(family: Family, which: 'source' | 'destination', to: number): NftExpression {
  const offset = { 4: { source: 12, destination: 16 }, 6: { source: 8, destination: 24 } }[family][which];
  return payload('network', offset, words(family) * 4, to);
}

/** Loads protocol and port of the destination, for `vip` behind its address. Returns the first free register. */
export function frontend(family: Family, space: Space): { load: NftExpression[]; next: number } {
  const at = space === 'vip' ? words(family) : 0;
  const load = [meta('l4proto', at), payload('transport', 2, 2, at + 1)];
  return { load: space === 'vip' ? [address(family, 'destination', 0), ...load] : load, next: at + 2 };
}

export function mark(on: boolean): readonly NftExpression[] {
  return [meta('mark', 0), bitwise(0, ~MASQUERADE_MARK, on ? MASQUERADE_MARK : 0), setMark(0)];
}

export function rule(
  comment: string,
  ...expressions: readonly (NftExpression | readonly NftExpression[])[]
): NftRule {
  return ruleOf([{ kind: 'steps', steps: expressions.flat() }], comment);
}

/** What a chain is known by, a line for each rule: a changed rule has another comment, or leads elsewhere. */
export function chainLooks({ rules }: Chain): string {
  return rules.map((rule) => lineOf(rule.comment ?? '', targetsOf(rule))).join('\n');
}

/** The same of rules as the kernel tells them. */
export function foundLooks(rules: readonly Pick<NftRuleFound, 'comment' | 'leadsTo'>[]): string {
  return rules.map(({ comment, leadsTo }) => lineOf(comment, leadsTo)).join('\n');
}

function lineOf(comment: string, targets: readonly string[]): string {
  return targets.length === 0 ? comment : `${comment} -> ${targets.join(' ')}`;
}
