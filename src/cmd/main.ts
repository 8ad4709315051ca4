/** The command line: one file a command, wired here. Exit 0 done, 1 failed, 2 wrong usage. */
import { Command, CommanderError } from 'commander';
import { formatError, isNetError } from '../errors/index.ts';
import { registerAgent } from './agent.ts';
import { registerApiserver } from './apiserver.ts';
import { registerAsk } from './ask.ts';
import { registerCleanup } from './cleanup.ts';
import { completionScript } from './completion.ts';
import { registerController } from './controller.ts';
import { registerLab } from './lab.ts';
import { version } from './version.ts';

function program(): Command {
  const root = new Command('portolan')
    .description(
      'a container network for Linux: pods across hosts, Kubernetes Services in eBPF, an embedded API',
    )
    .version(version, '-V, --version')
    .enablePositionalOptions()
    .showHelpAfterError('(add --help for the options)')
    .exitOverride()
    .configureOutput({ writeErr: (text) => process.stderr.write(text) });
  registerLab(root);
  registerAsk(root);
  registerAgent(root);
  registerApiserver(root);
  registerController(root);
  registerCleanup(root);
  root
    .command('completion')
    .description('print a completion script: source <(portolan completion bash)')
    .argument('<shell>', 'bash, zsh or fish')
    .action((shell: string) => {
      if (shell !== 'bash' && shell !== 'zsh' && shell !== 'fish')
        throw new CommanderError(
          2,
          'portolan.shell',
          `error: no completions for "${shell}": want bash, zsh or fish`,
        );
      console.log(completionScript(root, shell));
    });
  root.addHelpText(
    'after',
    '\nExamples:\n  sudo ./portolan lab up\n  sudo ./portolan lab kubectl get pods -o wide\n  sudo ./portolan lab exec node1 -- portolan status',
  );
  // Sub-commands made before exitOverride() was known to them inherit it only if told.
  const inherit = (command: Command) => {
    for (const sub of command.commands) {
      sub.copyInheritedSettings(command);
      inherit(sub);
    }
  };
  inherit(root);
  return root;
}

try {
  await program().parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    // Commander has printed its own message; its 1 for wrong usage is 2 here.
    if (error.code === 'portolan.shell') console.error(error.message);
    process.exitCode = error.exitCode === 0 ? 0 : 2;
  } else {
    console.error(formatError(error));
    process.exitCode = isNetError(error) && error.code.endsWith('_BAD_OPTION') ? 2 : 1;
  }
}
