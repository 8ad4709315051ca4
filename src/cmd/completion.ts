import type { Command } from 'commander';

/** What can follow a command line so far: sub-commands, options and the words that an argument may be. */
export interface Completions {
  /** Path of sub-commands, e.g. "lab up"; empty for the program itself. */
  path: string;
  words: string[];
}

/** All completions of a program, one entry a command; hidden commands are left out. */
export function completionsOf(program: Command): Completions[] {
  const found: Completions[] = [];
  const visit = (command: Command, path: string[]) => {
    const visible = command.createHelp().visibleCommands(command);
    const options = command.options
      .flatMap((option) => [option.long, option.short])
      .filter((flag) => flag !== undefined);
    const values = command.registeredArguments.flatMap(({ argChoices }) => argChoices ?? []);
    const subs = visible.map((sub) => sub.name());
    found.push({ path: path.join(' '), words: [...subs, ...values, ...options, '--help'] });
    for (const sub of visible) if (sub.name() !== 'help') visit(sub, [...path, sub.name()]);
  };
  visit(program, []);
  return found;
}

/** A completion script for a shell; it holds only words of this program, so it is safe to evaluate. */
export function completionScript(program: Command, shell: 'bash' | 'zsh' | 'fish'): string {
  const name = program.name();
  const all = completionsOf(program);
  const known = all.map(({ path }) => path).filter((path) => path !== '');
  if (shell === 'fish') {
    const cases = all
      .map(
        ({ path, words }) => `    case '${path && ` ${path}`}'\n      string split ' ' '${words.join(' ')}'`,
      )
      .join('\n');
    return `function __${name}_words
  set -l path
  for word in (commandline -opc)[2..-1]
    contains -- "$path $word" ${known.map((path) => `' ${path}'`).join(' ')}; or break
    set path "$path $word"
  end
  switch "$path"
${cases}
  end
end
complete -c ${name} -f -a '(__${name}_words)'`;
  }
  const cases = all.map(({ path, words }) => `    '${path}') words='${words.join(' ')}' ;;`).join('\n');
  const bash = `_${name}() {
  local current="\${COMP_WORDS[COMP_CWORD]}" path='' word words=''
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "\${path:+$path }$word" in
      ${known.map((one) => `'${one}'`).join('|')}) path="\${path:+$path }$word" ;;
      *) break ;;
    esac
  done
  case "$path" in
${cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _${name} ${name} ./${name}`;
  return shell === 'bash' ? bash : `autoload -U +X bashcompinit && bashcompinit\n${bash}`;
}
