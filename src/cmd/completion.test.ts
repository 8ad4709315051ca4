import assert from 'node:assert/strict';
import test from 'node:test';
import { Command } from 'commander';
import { completionScript, completionsOf } from './completion.ts';

function program(): Command {
  const root = new Command('portolan');
  const lab = root.command('lab');
  lab.command('up').option('--nodes <n>', 'how many');
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
    assert.match(completionScript(program(), shell), /'lab up'/);
});
