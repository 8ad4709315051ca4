/** `portolan doctor`: what on this machine keeps packets from arriving, with or without an agent. */
import { type Command, InvalidArgumentError } from 'commander';
import type { AgentStatus } from '../agent/status.ts';
import type { FirewallReport } from '../trace/firewall/index.ts';
import { type AskFlags, ask, asking } from './asking.ts';
import { examples } from './help.ts';
import { print, styled, table } from './output.ts';

interface FirewallFlags extends AskFlags {
  clusterCidr?: string[];
  trace: boolean;
  from?: string;
  to?: string;
  seconds: number;
  packets: number;
}

export function registerDoctor(program: Command): void {
  const doctor = program
    .command('doctor')
    .description('what on this machine keeps packets from arriving')
    .addHelpText('after', examples('portolan doctor firewall'));
  asking(doctor.command('firewall'))
    .description(
      "other people's rules that drop packets of pods, and what to do; exit 1 when one surely does",
    )
    .option(
      '--cluster-cidr <networks>',
      "pod networks of the cluster, comma-separated (default: around this node's)",
      (text: string) => text.split(',').filter(Boolean),
    )
    .option('--trace', 'follow real packets of a flow through the rules of everybody', false)
    .option(
      '--from <pod|address>',
      'with --trace: who sends; a pod of this node, or an address (default: anybody)',
    )
    .option(
      '--to <address[:port[/protocol]]>',
      'with --trace: whom to, e.g. 10.244.2.7:80 or [fd00::7]:53/udp',
    )
    .option('--seconds <n>', 'with --trace: how long at most', whole, 10)
    .option('--packets <n>', 'with --trace: how many at most', whole, 10)
    .addHelpText(
      'after',
      examples(
        'portolan doctor firewall',
        'portolan doctor firewall --trace --from default/web --to 10.244.2.7:80',
        'portolan doctor firewall --cluster-cidr 10.42.0.0/16',
        'portolan doctor firewall --json | jq -r ".findings[].remedy"',
        'sudo ./portolan lab exec node1 -- portolan doctor firewall',
      ),
    )
    .action(async (flags: FirewallFlags, command: Command) => {
      if (flags.trace || flags.to !== undefined || flags.from !== undefined) {
        if (flags.to === undefined) command.error('error: --trace and --from need --to', { exitCode: 2 });
        await (await import('./doctor-trace.ts')).trace({ ...flags, to: flags.to });
        return;
      }
      const { parseCidr } = await import('../addr/index.ts');
      const { firewallReport, nodeNetwork, readFirewalls } = await import('../trace/firewall/index.ts');
      const clusterCidrs = (flags.clusterCidr ?? []).map(parseCidr);
      const node = nodeNetwork({ podCidrs: (await podCidrs(flags)).map(parseCidr), clusterCidrs });
      const report = firewallReport(await readFirewalls(), node);
      print({ json: flags.json, value: report, text: () => reportText(report) });
      if (!report.healthy) process.exitCode = 1;
    });
}

function whole(text: string): number {
  if (!/^[1-9]\d{0,3}$/.test(text)) throw new InvalidArgumentError('want a whole number, 1 to 9999');
  return Number(text);
}

/** Those of this node as its agent says; none when there is no agent to ask. */
async function podCidrs(flags: AskFlags): Promise<string[]> {
  try {
    return (await ask<AgentStatus>(flags, '/status')).podCidrs;
  } catch {
    return [];
  }
}

function reportText({ findings, chains, notes, probes }: FirewallReport): string {
  const lines: string[] = [];
  for (const says of ['drops', 'may drop'] as const) {
    const rows = findings.filter((finding) => finding.says === says);
    if (rows.length === 0) continue;
    const title = says === 'drops' ? styled('red', 'DROPPED') : styled('yellow', 'MAY BE DROPPED');
    lines.push(
      table(
        [title, 'FAMILY', 'BY CHAIN', 'RULE'],
        rows.map(({ probe, family, tool, chain, rule, handle }) => [
          probe,
          family,
          tool === 'nft' ? chain : `${tool} ${chain}`,
          `${rule}${handle === undefined ? '' : ` # handle ${handle}`}`,
        ]),
      ),
    );
    const remedies = new Map<string, string>();
    for (const { chain, remedy } of rows) remedies.set(remedy, chain);
    lines.push('', ...[...remedies].map(([remedy, chain]) => `${chain}: ${remedy}`), '');
  }
  if (findings.length === 0)
    lines.push(
      `${styled('green', 'ok')}: none of ${chains.length} foreign chains drops any of ${probes} kinds of packets`,
    );
  return [...lines, ...notes.map((note) => styled('dim', note))].join('\n').trimEnd();
}
