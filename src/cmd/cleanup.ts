/** `portolan cleanup`: takes away what the agent of this node made, and only that. */
import type { Command } from 'commander';
import { print } from './output.ts';

interface CleanupFlags {
  stateDir: string;
  bpffs: string;
  cgroup: string;
  cniBinDir: string;
  cniConfDir: string;
  dryRun: boolean;
  json: boolean;
}

export function registerCleanup(program: Command): void {
  program
    .command('cleanup')
    .description("remove all that this node's agent made: links, routes, rules, programs, pods, addresses")
    .option('--state-dir <path>', 'folder of the agent', process.env['PORTOLAN_STATE_DIR'] ?? '/run/portolan')
    .option(
      '--bpffs <path>',
      "folder of the agent's pins",
      process.env['PORTOLAN_BPFFS'] ?? '/sys/fs/bpf/portolan',
    )
    .option(
      '--cgroup <path>',
      'cgroup2 folder of the agent',
      process.env['PORTOLAN_CGROUP'] ?? '/sys/fs/cgroup',
    )
    .option('--cni-bin-dir <path>', 'where the plugin was installed', '/opt/cni/bin')
    .option('--cni-conf-dir <path>', 'where its configuration was installed', '/etc/cni/net.d')
    .option('--dry-run', 'only print what would be removed', false)
    .option('--json', 'print JSON', false)
    .addHelpText('after', '\nExamples:\n  portolan cleanup --dry-run\n  portolan cleanup')
    .action(async (flags: CleanupFlags) => {
      const { cleanupNode } = await import('../agent/cleanup.ts');
      const removed = await cleanupNode(flags);
      print({
        json: flags.json,
        value: { removed, dryRun: flags.dryRun },
        text: () => (removed.length > 0 ? removed.join('\n') : 'nothing to remove'),
      });
    });
}
