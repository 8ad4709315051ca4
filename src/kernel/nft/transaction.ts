import { spawn } from 'node:child_process';
import { nftError } from '../../errors/index.ts';

/** Which namespace's rules: a descriptor, or undefined for the process's own. */
export interface NftPlace {
  readonly netns?: number | { readonly fd: number } | undefined;
}

/** One object of `nft -j list ...`, e.g. `{ rule: { family, table, chain, expr, ... } }`. */
export type NftObject = Record<string, Record<string, unknown>>;

/**
 * Runs a script as one transaction: all of it is applied, or nothing. `what` completes "Cannot <what>".
 * Throws NFT_REFUSED with nft's own words, NFT_MISSING.
 */
export async function runNft(
  options: NftPlace & { readonly script: string; readonly what?: string },
): Promise<void> {
  await run(['-f', '-'], options.script, options, options.what ?? 'apply nftables rules');
}

/**
 * Lists rules as nft's JSON; `terse` leaves out the elements of named sets. `query` is what follows `nft -j list`, e.g. `['table', 'ip', 'portolan']`. Undefined
 * when there is no such object. Throws NFT_REFUSED, NFT_UNREADABLE, NFT_MISSING.
 */
export async function listNftJson(
  options: NftPlace & { readonly query: readonly string[]; readonly terse?: boolean },
): Promise<NftObject[] | undefined> {
  const what = `list nftables ${options.query.join(' ')}`;
  const terse = options.terse ? ['-t'] : [];
  const args = [...terse, '-j', 'list', ...options.query];
  const output = await run(args, '', options, what, /No such file or directory/);
  if (output === undefined) return undefined;
  return parseNftJson(output, what);
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

/** Runs nft, inside a namespace by way of nsenter, which takes the namespace from an inherited descriptor. */
function run(
  args: readonly string[],
  input: string,
  { netns }: NftPlace,
  what: string,
  absent?: RegExp,
): Promise<string | undefined> {
  const fd = typeof netns === 'object' ? netns.fd : netns;
  const [program, ...rest] =
    fd === undefined ? ['nft', ...args] : ['nsenter', '--net=/proc/self/fd/3', 'nft', ...args];
  return new Promise((resolve, reject) => {
    const child = spawn(program!, rest, {
      stdio: fd === undefined ? ['pipe', 'pipe', 'pipe'] : ['pipe', 'pipe', 'pipe', fd],
    });
    const output: Buffer[] = [];
    const errors: Buffer[] = [];
    child.stdout!.on('data', (chunk: Buffer) => output.push(chunk));
    child.stderr!.on('data', (chunk: Buffer) => errors.push(chunk));
    // A program that fails early closes its input; its exit code tells why.
    child.stdin!.on('error', () => {});
    child.stdin!.end(input);
    child.on('error', (cause: NodeJS.ErrnoException) => {
      reject(cause.code === 'ENOENT' ? nftError('NFT_MISSING', { program: program! }, cause) : cause);
    });
    child.on('close', (code) => {
      const said = Buffer.concat(errors).toString('utf8').trim();
      if (code === 0) resolve(Buffer.concat(output).toString('utf8'));
      else if (absent?.test(said)) resolve(undefined);
      else reject(nftError('NFT_REFUSED', { what, said: said || `exit code ${code}` }));
    });
  });
}
