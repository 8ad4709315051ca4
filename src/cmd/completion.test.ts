import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test from 'node:test';
import { Argument, Command } from 'commander';
import { completionScript, completionsOf } from './completion.ts';

function program(): Command {
  const root = new Command('portolan');
  const lab = root.command('lab');
  lab.command('up').option('--nodes <n>', 'how many');
  root.command('shell').addArgument(new Argument('<shell>').choices(['bash', 'zsh']));
  root.command('secret', { hidden: true });
  return root;
}

test('completionsOf() lists sub-commands and options of each command, and hides hidden ones', () => {
  const found = new Map(completionsOf(program()).map(({ path, words }) => [path, words]));
  assert.ok(found.get('')!.includes('lab'));
  assert.ok(!found.get('')!.includes('secret'));
  assert.ok(found.get('lab up')!.includes('--nodes'));
});

test('completionScript() names each command path once in each shell', () => {
  for (const shell of ['bash', 'zsh', 'fish'] as const)
    assert.match(completionScript(program(), shell), /' ?lab up'/);
});

/** What bash would offer for a command line whose last word is being written. */
function offered(...words: string[]): string[] {
  const line = words.map((word) => `'${word}'`).join(' ');
  const script = `${completionScript(program(), 'bash')}
COMP_WORDS=(portolan ${line}); COMP_CWORD=${words.length}; _portolan; echo "\${COMPREPLY[*]}"`;
  return execFileSync('bash', ['-c', script], { encoding: 'utf8' }).trim().split(' ').filter(Boolean);
}

test('bash offers sub-commands, options and choices, also behind arguments and options with values', () => {
  assert.deepEqual(offered('la'), ['lab']);
  assert.deepEqual(offered('lab', 'up', '--n'), ['--nodes']);
  assert.deepEqual(offered('lab', 'up', '--nodes', '3', '--n'), ['--nodes']);
  assert.deepEqual(offered('shell', 'z'), ['zsh']);
  assert.deepEqual(offered('shell', 'bash', '--h'), ['--help']);
});
