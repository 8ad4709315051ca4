/** What the options and the help of many commands have in common. */
import { type Command, Option } from 'commander';

/** The end of a command's --help: how people call it. */
export function examples(...lines: string[]): string {
  return `\nExamples:\n${lines.map((line) => `  ${line}`).join('\n')}`;
}

/** The options of a command that runs on and logs. */
export function logging(command: Command): Command {
  return command
    .addOption(
      new Option('--log-level <level>', 'how much to log')
        .choices(['debug', 'info', 'warn', 'error'])
        .default('info'),
    )
    .option('--json', 'log as JSON lines', false);
}
