/**
 * Writes docs/errors.md from the error catalogues, so that the page can't fall behind the code.
 * `--check` fails when the page differs.
 */
import { globSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Catalogue } from '../src/errors/index.ts';

const root = join(import.meta.dirname, '..');
const target = join(root, 'docs/errors.md');

/** Methods of strings, numbers and lists whose result reads as the value itself. */
const TEXT_METHODS: ReadonlySet<string> = new Set([
  ...['join', 'toFixed', 'toLocaleString', 'trim', 'trimEnd', 'replace', 'replaceAll', 'toUpperCase'],
  ...['toLowerCase', 'padEnd', 'padStart', 'substring'],
]);

/** Stands in for any context: each property is its own name in angle brackets. */
const names: object = new Proxy(
  {},
  {
    get: (_target, property) => placeholder(String(property)),
  },
);

function placeholder(name: string): unknown {
  const text = `<${name}>`;
  return new Proxy(
    Object.assign(() => text, {}),
    {
      get: (_target, property) => {
        if (property === Symbol.toPrimitive || property === 'toString' || property === 'valueOf')
          return () => text;
        if (property === Symbol.iterator) return [text][Symbol.iterator];
        if (property === 'length') return 1;
        if (typeof property === 'string' && TEXT_METHODS.has(property)) return () => text;
        if (property === 'filter' || property === 'slice' || property === 'sort') return () => [text];
        if (property === 'map' || property === 'flatMap')
          return (tell: (item: unknown) => unknown) => [tell(placeholder(name))].flat();
        // An element of a list is called as the list.
        if (/^\d+$/.test(String(property)) || property === 'at') return placeholder(name);
        return placeholder(`${name}.${String(property)}`);
      },
    },
  );
}

const sections: string[] = [];
for (const file of [...globSync('src/errors/*.ts', { cwd: root }), 'src/lab/plan.ts'].sort()) {
  if (file.endsWith('index.ts') || file.endsWith('.test.ts') || file.endsWith('net-error.ts')) continue;
  const module = (await import(join(root, file))) as Record<string, unknown>;
  for (const [name, value] of Object.entries(module)) {
    if (!name.endsWith('Catalogue') || typeof value !== 'object') continue;
    const rows = Object.entries(value as Catalogue).map(([code, told]) => {
      const say = (tell: (context: never) => string) => {
        try {
          return tell(names as never)
            .replaceAll('|', '\\|')
            .replaceAll('\n', ' ')
            .replaceAll('<', '&lt;');
        } catch {
          return '(depends on the context)';
        }
      };
      return `| \`${code}\` | ${say(told.happened)} | ${say(told.remedy)} |`;
    });
    sections.push(
      `## ${name.replace('Catalogue', '')}\n\n| code | what happened | what to do |\n|---|---|---|\n${rows.join('\n')}\n`,
    );
  }
}
const page = `# Errors\n\nGenerated from the catalogues in \`src/errors\` by \`node tools/errors-doc.ts\`. Codes are stable; texts may change.\n\n${sections.join('\n')}`;

if (process.argv.includes('--check')) {
  if (readFileSync(target, 'utf8') !== page) {
    console.error('docs/errors.md is out of date: run "node tools/errors-doc.ts"');
    process.exit(1);
  }
} else {
  writeFileSync(target, page);
  console.log(`docs/errors.md: ${sections.length} catalogues`);
}
