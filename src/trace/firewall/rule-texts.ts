/** Rules in words, by their handles: nft's own where that program is, else their comments. */
import { isNetError } from '../../errors/index.ts';
import { NftRuleset } from '../../kernel/nft/index.ts';
import { listNftRules, type NftObject } from '../../kernel/nft-program/index.ts';
import { chainsOfNft } from './nft-rules.ts';
import type { RuleTexts } from './traced-packets.ts';

/** Throws NFT_REFUSED, NFT_UNREADABLE, NFT_LIST_FAILED. */
export async function readRuleTexts(): Promise<RuleTexts> {
  try {
    return ruleTexts(await listNftRules());
  } catch (error) {
    if (!isNetError(error, 'NFT_MISSING')) throw error;
    return commentsOfRules();
  }
}

/** Pure. */
export function ruleTexts(objects: readonly NftObject[]): RuleTexts {
  const texts = new Map<string, string>();
  for (const { table, name, rules } of chainsOfNft(objects))
    for (const { handle, text, comment } of rules)
      if (handle !== undefined) texts.set(`${table} ${name} ${handle}`, withComment(text, comment));
  return texts;
}

function commentsOfRules(): RuleTexts {
  using ruleset = NftRuleset.open();
  const texts = new Map<string, string>();
  for (const family of ['ip', 'ip6', 'inet'] as const) {
    const tables = new Set(
      ruleset.allChains().flatMap((chain) => (chain.family === family ? [chain.table] : [])),
    );
    for (const table of tables)
      for (const { chain, handle, comment, expressions } of ruleset.rules({ family, table }))
        texts.set(`${family} ${table} ${chain} ${handle}`, withComment(expressions.join(' '), comment));
  }
  return texts;
}

function withComment(text: string, comment: string | undefined): string {
  return comment ? `${text} "${comment}"` : text;
}
