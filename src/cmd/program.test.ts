import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import type { Command } from 'commander';
import { program } from './program.ts';

/** All commands with their paths, e.g. "lab up"; without those that hand --help on to somebody else. */
function commands(): Map<string, Command> {
  const found = new Map<string, Command>();
  const visit = (command: Command, path: string[]) => {
    found.set(path.join(' '), command);
    for (const sub of command.commands) visit(sub, [...path, sub.name()]);
  };
  visit(program(), []);
  return found;
}

function helpOf(command: Command): string {
  let text = '';
  command.configureOutput({ writeOut: (part) => (text += part) });
  command.outputHelp();
  return text;
}

test('the help of every command has examples, and they name commands and options that exist', () => {
  const all = commands();
  for (const [path, command] of all) {
    if (path === 'lab kubectl') continue; // kubectl answers
    const help = helpOf(command);
    assert.match(help, /\nExamples:\n {2}\S/, `portolan ${path} --help`);
    const shown = help.slice(help.indexOf('\nExamples:'));
    for (const [, words] of shown.matchAll(/\bportolan ((?:[a-z][a-z-]*|--[a-z0-9-]+)(?: [^\s|'>)]+)*)/g))
      assertUsable(all, words!, `portolan ${path} --help`);
  }
});

test('remedies of errors name commands that exist', () => {
  const all = commands();
  const root = join(import.meta.dirname, '..');
  for (const file of [...globSync('errors/*.ts', { cwd: root }), 'lab/plan.ts'])
    for (const [, words] of readFileSync(join(root, file), 'utf8').matchAll(/"portolan ([a-z][^"$]*)/g))
      assertUsable(all, words!.trim(), file);
});

/** The words after "portolan" begin with the path of a command, and its options are known. */
function assertUsable(all: ReadonlyMap<string, Command>, words: string, where: string): void {
  const said = words.split(' -- ')[0]!.split(/\s+/);
  let path = '';
  for (const word of said) {
    const longer = path === '' ? word : `${path} ${word}`;
    if (!all.has(longer)) break;
    path = longer;
  }
  const command = all.get(path)!;
  if (!said[0]!.startsWith('-'))
    assert.ok(
      path !== '' && (command.commands.length === 0 || path.includes(' ') || path === 'apiserver'),
      `${where}: portolan ${words}`,
    );
  if (path === 'lab kubectl') return;
  for (const word of said.filter((one) => one.startsWith('--') && one !== '--help'))
    assert.ok(
      command.options.some(({ long }) => long === word.split('=')[0]),
      `${where}: portolan ${words}: no option ${word}`,
    );
}

test('lab kubectl hands every word on after its own --name, --help among them', async () => {
  for (const [words, want] of [
    [['--help'], ['--help']],
    [
      ['-n', 'kube-system', 'get', 'pods'],
      ['-n', 'kube-system', 'get', 'pods'],
    ],
    [
      ['--name', 'x', 'get', 'pods', '--name', 'y'],
      ['get', 'pods', '--name', 'y'],
    ],
    [
      ['exec', 'web', '--', 'sh', '-c', 'ls'],
      ['exec', 'web', '--', 'sh', '-c', 'ls'],
    ],
    [
      ['apply', '-f', '-'],
      ['apply', '-f', '-'],
    ],
    [[], []],
  ] as const) {
    const root = program();
    const kubectl = root.commands
      .find((command) => command.name() === 'lab')!
      .commands.find((command) => command.name() === 'kubectl')!;
    let got: string[] | undefined;
    kubectl.action((args: string[]) => {
      got = args;
    });
    await root.parseAsync(['lab', 'kubectl', ...words], { from: 'user' });
    assert.deepEqual(got, want);
  }
});
