/** All commands with their options: one file a command, wired here. */
import { Argument, Command, InvalidArgumentError } from 'commander';
import { registerAgent } from './agent.ts';
import { registerApiserver } from './apiserver.ts';
import { registerAsk } from './ask.ts';
import { registerCleanup } from './cleanup.ts';
import { completionScript } from './completion.ts';
import { registerController } from './controller.ts';
import { registerDoctor } from './doctor.ts';
import { registerEgress } from './egress.ts';
import { registerFirewall } from './firewall.ts';
import { examples } from './help.ts';
import { registerLab } from './lab.ts';
import { registerPolicy } from './policy.ts';
import { registerService } from './service.ts';
import { version } from './version.ts';

/** The program, ready to parse; nothing a command needs is loaded yet. Throws CommanderError instead of exiting. */
export function program(): Command {
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
  registerService(root);
  registerPolicy(root);
  registerFirewall(root);
  registerEgress(root);
  registerDoctor(root);
  registerAgent(root);
  registerApiserver(root);
  registerController(root);
  registerCleanup(root);
  root
    .command('completion')
    .description('print a completion script for a shell')
    .addArgument(shellArgument())
    .addHelpText(
      'after',
      examples(
        'source <(portolan completion bash)',
        'portolan completion zsh >~/.zfunc/_portolan',
        'portolan completion fish | source',
      ),
    )
    .action((shell: 'bash' | 'zsh' | 'fish') => {
      console.log(completionScript(root, shell));
    });
  root.addHelpText(
    'after',
    examples(
      'sudo ./portolan lab up',
      'sudo ./portolan lab kubectl get pods -o wide',
      'sudo ./portolan lab exec node1 -- portolan status',
    ),
  );
  // Sub-commands made before exitOverride() was known to them inherit it only if told.
  const inherit = (command: Command) => {
    for (const sub of command.commands) {
      sub.copyInheritedSettings(command);
      // kubectl answers for itself; the settings of its parent would take --help away from it.
      if (command.name() === 'lab' && sub.name() === 'kubectl') sub.helpOption(false);
      inherit(sub);
    }
  };
  inherit(root);
  return root;
}

function shellArgument(): Argument {
  const shells = ['bash', 'zsh', 'fish'];
  return new Argument('<shell>', 'bash, zsh or fish').choices(shells).argParser((value: string) => {
    if (!shells.includes(value)) throw new InvalidArgumentError('want bash, zsh or fish');
    return value;
  });
}
