/**
 * Checks the direction of imports: each folder of src imports only from folders listed before it, so that a
 * reader can take the folders in this order and never meets a name that is still unexplained.
 */
import { globSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';

/** Folders from the ground up. Those on one line know nothing of each other. */
export const LAYERS: readonly (readonly string[])[] = [
  ['errors', 'codec'],
  ['addr'],
  ['kernel'],
  ['model'],
  ['reconcile'],
  ['ipam'],
  ['podlink'],
  ['overlay'],
  ['service'],
  ['policy'],
  ['egress'],
  ['store'],
  ['apiserver', 'client'],
  ['controllers'],
  ['cni'],
  ['cri', 'pods'],
  ['trace'],
  ['topology'],
  ['agent'],
  ['lab'],
  ['cmd'],
];

/** Modules that reach the kernel or start programs, and the folders that may import them. */
const DOORS: readonly { module: RegExp; folders: readonly string[] }[] = [
  { module: /^node:child_process$/, folders: ['kernel', 'lab', 'cmd'] },
  // Whoever runs all the time programs rules by netlink, and starts no program.
  { module: /\/nft-program\//, folders: ['trace'] },
  { module: /^node:sqlite$/, folders: ['store', 'ipam'] },
];

export interface Import {
  file: string;
  line: number;
  /** As written. */
  specifier: string;
}

const rank = new Map(LAYERS.flatMap((layer, at) => layer.map((folder) => [folder, at] as const)));

/** What is wrong with one import, or undefined. `file` is relative to src. */
export function fault({ file, specifier }: Import): string | undefined {
  const from = file.split('/')[0]!;
  if (!rank.has(from)) return `folder "${from}" has no place in LAYERS of tools/check-imports.ts`;
  for (const door of DOORS)
    if (door.module.test(specifier) && !door.folders.includes(from))
      return `"${from}" imports ${specifier}, which only ${door.folders.join(', ')} may`;
  if (!specifier.startsWith('.')) return undefined;
  const target = join(dirname(file), specifier);
  // The version is written down once, where npm wants it.
  if (target === '../package.json') return undefined;
  if (target.startsWith('..')) return `"${from}" imports ${specifier}, which lies outside of src`;
  const to = target.split('/')[0]!;
  if (to === from) return undefined;
  if (!rank.has(to)) return `imports "${to}", which has no place in LAYERS of tools/check-imports.ts`;
  if (rank.get(to)! >= rank.get(from)!) return `"${from}" imports "${to}", which comes after it or beside it`;
  return undefined;
}

/** Import specifiers of a source text, static and dynamic, with their lines. */
export function importsOf(file: string, text: string): Import[] {
  const found: Import[] = [];
  const pattern =
    /(?:^|\n)\s*(?:import|export)\b[^'"`;]*?from\s*['"]([^'"]+)['"]|\bimport\s*\(?\s*['"]([^'"]+)['"]/g;
  for (const match of text.matchAll(pattern)) {
    const end = match.index + match[0].length;
    found.push({ file, line: text.slice(0, end).split('\n').length, specifier: (match[1] ?? match[2])! });
  }
  return found;
}

if (import.meta.main) {
  const src = join(import.meta.dirname, '../src');
  let faults = 0;
  let files = 0;
  for (const path of globSync('**/*.ts', { cwd: src })) {
    if (path.endsWith('.test.ts')) continue;
    files++;
    for (const found of importsOf(path, readFileSync(join(src, path), 'utf8'))) {
      const wrong = fault(found);
      if (!wrong) continue;
      faults++;
      console.error(`${relative(process.cwd(), join(src, path))}:${found.line}: ${wrong}`);
    }
  }
  console.log(`imports: ${files} files, ${faults} in the wrong direction`);
  process.exitCode = faults ? 1 : 0;
}
