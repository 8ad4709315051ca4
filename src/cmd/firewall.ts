/** `portolan firewall`: what nodes themselves accept and send, and how not to lock oneself out. */
import type { Command } from 'commander';
import type { PolicyStatus } from '../policy/index.ts';
import { type AskFlags, ask, asking } from './asking.ts';
import type { ApplyFlags, FirewallFlags } from './firewall-actions.ts';
import { statesText } from './firewall-text.ts';
import { examples } from './help.ts';
import { print } from './output.ts';

export function registerFirewall(program: Command): void {
  const firewall = program
    .command('firewall')
    .description('policies of nodes themselves (NodeNetworkPolicy): what they accept and send')
    .addHelpText(
      'after',
      examples(
        'portolan firewall apply ssh-only.yaml --dry-run',
        'portolan firewall apply ssh-only.yaml --confirm-within 60s',
        'portolan firewall confirm ssh-only',
      ),
    );
  asking(firewall.command('status'))
    .description('policies that select this node, and whether they are in force')
    .addHelpText('after', examples('portolan firewall status', 'portolan firewall status --json'))
    .action(async (flags: AskFlags) => {
      const states = await ask<PolicyStatus['nodePolicies']>(flags, '/firewall/status');
      print({ json: flags.json, value: states, text: () => statesText(states) });
    });
  reaching(asking(firewall.command('apply')))
    .description('write a policy; on trial with --confirm-within: nodes let go of it unless it is confirmed')
    .argument('<file>', 'YAML or JSON of one NodeNetworkPolicy; - for standard input')
    .option('--dry-run', 'write nothing; say what it would cut on this node, exit 1 if anything', false)
    .option('--confirm-within <time>', 'e.g. 60s or 5m')
    .addHelpText(
      'after',
      examples(
        'portolan firewall apply ssh-only.yaml --dry-run',
        'portolan firewall apply ssh-only.yaml --confirm-within 60s && portolan firewall confirm ssh-only',
      ),
    )
    .action(async (file: string, flags: ApplyFlags) =>
      (await import('./firewall-actions.ts')).apply(file, flags),
    );
  reaching(asking(firewall.command('confirm')))
    .description('end the trial of a policy: it stays')
    .argument('<name>', 'of the NodeNetworkPolicy')
    .addHelpText('after', examples('portolan firewall confirm ssh-only'))
    .action(async (name: string, flags: FirewallFlags) =>
      (await import('./firewall-actions.ts')).confirm(name, flags),
    );
}

function reaching(command: Command): Command {
  return command.option('--kubeconfig <path>', 'how to reach the API server', process.env['KUBECONFIG']);
}
