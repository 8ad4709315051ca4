/** Rules as nft(8) lists them: it alone knows the words for what strangers have made. */
import { execFile } from 'node:child_process';
import { nftError } from '../../errors/index.ts';

/** One object of `nft -j list ...`, e.g. `{ rule: { family, table, chain, expr, ... } }`. */
export type NftObject = Record<string, Record<string, unknown>>;

const LONGEST_OUTPUT_BYTES = 256 << 20;

/** All rules of this namespace as nft's JSON. Throws NFT_REFUSED, NFT_UNREADABLE, NFT_MISSING. */
export async function listNftRules(): Promise<NftObject[]> {
  const what = 'list nftables ruleset';
  return parseNftJson(await runProgram('nft', ['-j', 'list', 'ruleset'], what), what);
}

/** The objects of an answer of nft. Throws NFT_UNREADABLE. */
export function parseNftJson(text: string, what: string): NftObject[] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw nftError('NFT_UNREADABLE', { what, why: 'it is no JSON' }, cause);
  }
  const objects = (parsed as { nftables?: unknown } | null)?.nftables;
  if (!Array.isArray(objects)) throw nftError('NFT_UNREADABLE', { what, why: 'it has no list "nftables"' });
  for (const object of objects)
    if (typeof object !== 'object' || object === null)
      throw nftError('NFT_UNREADABLE', { what, why: 'an entry is no object' });
  return objects as NftObject[];
}

/** What a program prints. Throws NFT_MISSING, NFT_REFUSED. */
export function runProgram(program: string, args: readonly string[], what: string): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(program, args, { maxBuffer: LONGEST_OUTPUT_BYTES }, (error, stdout, stderr) => {
      if (!error) resolve(stdout);
      else if (error.code === 'ENOENT') reject(nftError('NFT_MISSING', { program }, error));
      else reject(nftError('NFT_REFUSED', { what, said: stderr.trim() || error.message }, error));
    });
  });
}
