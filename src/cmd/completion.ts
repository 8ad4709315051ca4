import type { Command } from 'commander';

/** What can follow a command line so far: sub-commands and options. */
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
    found.push({ path: path.join(' '), words: [...visible.map((sub) => sub.name()), ...options, '--help'] });
    for (const sub of visible) if (sub.name() !== 'help') visit(sub, [...path, sub.name()]);
  };
  visit(program, []);
  return found;
}

/** A completion script for a shell; it holds only words of this program, so it is safe to evaluate. */
export function completionScript(program: Command, shell: 'bash' | 'zsh' | 'fish'): string {
  const name = program.name();
  const all = completionsOf(program);
  if (shell === 'fish') {
    const cases = all
      .map(({ path, words }) => `    case '${path}'\n      string split ' ' '${words.join(' ')}'`)
      .join('\n');
    return `function __${name}_words
  set -l path
  for word in (commandline -opc)[2..-1]
    string match -q -- '-*' $word; and break
    set -a path $word
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
    case "$word" in -*) break ;; esac
    path="\${path:+$path }$word"
  done
  case "$path" in
${cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _${name} ${name} ./${name}`;
  return shell === 'bash' ? bash : `autoload -U +X bashcompinit && bashcompinit\n${bash}`;
}
