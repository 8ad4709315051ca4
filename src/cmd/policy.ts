/** `portolan policy`: network policies as this node enforces them. */
import type { Command } from 'commander';
import type { PolicyRow, PolicyRuleRow } from '../agent/policy.ts';
import type { Report } from '../agent/policy-log.ts';
import { followAgent } from '../agent/socket.ts';
import { type Explanation, flowRecordText, type PolicyStatus } from '../policy/index.ts';
import { type AskFlags, ask, asking } from './asking.ts';
import { examples } from './help.ts';
import { print, styled, table } from './output.ts';

export function registerPolicy(program: Command): void {
  const policy = program
    .command('policy')
    .description('network policies as this node enforces them')
    .addHelpText(
      'after',
      examples(
        'portolan policy list',
        'portolan policy explain --from default/client --to default/web --port 80/tcp',
      ),
    );
  asking(policy.command('list'))
    .description('policies, the pods of this node that they select, and whether they are in force')
    .addHelpText('after', examples('portolan policy list', 'portolan policy list --json'))
    .action(async (flags: AskFlags) => {
      const rows = await ask<PolicyRow[]>(flags, '/policy/list');
      const status = await ask<PolicyStatus>(flags, '/policy/status');
      print({ json: flags.json, value: rows, text: () => listText(rows, status) });
    });
  asking(policy.command('show'))
    .description('one policy: what it selects here, and how many connections each rule has allowed')
    .argument('<policy>', 'namespace/name, or the name of a ClusterNetworkPolicy')
    .addHelpText('after', examples('portolan policy show default/allow-web', 'portolan policy show tenants'))
    .action(async (name: string, flags: AskFlags) => {
      const shown = await ask<PolicyRow & { rules: PolicyRuleRow[] }>(
        flags,
        `/policy/show?name=${encodeURIComponent(name)}`,
      );
      print({ json: flags.json, value: shown, text: () => showText(shown) });
    });
  asking(policy.command('explain'))
    .description('whether a connection is allowed, and the policy and rule that decide; exit 1 when denied')
    .requiredOption('--from <end>', 'pod as namespace/name, or an address')
    .requiredOption(
      '--to <end>',
      'pod, address, or service/namespace/name; addresses and node ports of Services are theirs',
    )
    .option('--port <port>', 'port and protocol of the destination, or icmp', '80/tcp')
    .addHelpText(
      'after',
      `
Examples:
  portolan policy explain --from default/client --to default/web --port 80/tcp
  portolan policy explain --from 192.0.2.7 --to service/default/dns --port 53/udp`,
    )
    .action(async (flags: AskFlags & { from: string; to: string; port: string }) => {
      const query = new URLSearchParams({ from: flags.from, to: flags.to, port: flags.port });
      const found = await ask<Explanation[]>(flags, `/policy/explain?${query}`);
      print({ json: flags.json, value: found, text: () => explanationText(found) });
      if (found.length === 0 || found.some(({ allowed }) => !allowed)) process.exitCode = 1;
    });
  asking(policy.command('log'))
    .description('connections that policies deny here, with names and what decided')
    .option(
      '-f, --follow',
      'from now on until Ctrl-C, instead of the last ones of an agent with --policy-log',
      false,
    )
    .option('--all', 'with -f: connections that a policy allows as well', false)
    .addHelpText(
      'after',
      examples(
        'portolan policy log -f',
        'portolan policy log -f --all --json | jq .by',
        'portolan policy log',
      ),
    )
    .action(showLog);
  asking(policy.command('plan'))
    .description('what the agent would change in the kernel now, as nft commands; nothing when all is well')
    .addHelpText('after', examples('portolan policy plan'))
    .action(async (flags: AskFlags) => {
      const lines = await ask<string[]>(flags, '/policy/plan');
      print({
        json: flags.json,
        value: lines,
        text: () => (lines.length > 0 ? lines.join('\n') : 'nothing to change'),
      });
    });
}

async function showLog(flags: AskFlags & { all: boolean; follow: boolean }): Promise<void> {
  const end = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => end.abort());
  const colour = (record: Report) =>
    'lost' in record ? 'yellow' : record.verdict === 'denied' ? 'red' : 'green';
  const show = (record: Report) =>
    console.log(flags.json ? JSON.stringify(record) : styled(colour(record), flowRecordText(record)));
  if (!flags.follow) {
    for (const record of await ask<Report[]>(flags, '/policy/log')) show(record);
    return;
  }
  if (process.stderr.isTTY) console.error('what policies decide from now on; Ctrl-C ends');
  const path = `/policy/log/follow${flags.all ? '?all' : ''}`;
  await followAgent(`${flags.stateDir}/agent.sock`, path, (value) => show(value as Report), end.signal);
}

function listText(rows: readonly PolicyRow[], status: PolicyStatus): string {
  const inForce = ({ enforced, generation }: PolicyRow) => {
    if (enforced === undefined) return 'no pod here';
    return enforced === generation ? styled('green', 'in force') : styled('yellow', 'pending');
  };
  const text = table(
    ['POLICY', 'TIER', 'DIRECTIONS', 'PODS HERE', 'GENERATION', 'STATE'],
    rows.map((row) => [
      row.policy,
      row.tier ? `${row.tier} ${row.priority}` : '',
      row.directions.join(','),
      String(row.pods.length),
      String(row.generation),
      inForce(row),
    ]),
  );
  const problems = rows.flatMap(({ policy, problems: list }) => list.map((line) => `${policy}: ${line}`));
  if (status.state.state === 'error') problems.push(`not programmed, see "portolan status"`);
  return [text, ...problems.map((line) => `${styled('red', 'problem')} ${line}`)].join('\n');
}

function showText(shown: PolicyRow & { rules: PolicyRuleRow[] }): string {
  return [
    `${styled('bold', shown.policy)} generation ${shown.generation}, ${
      shown.tier
        ? `${shown.tier} tier, priority ${shown.priority}, rules for ${shown.directions.join(' and ')}`
        : `isolates ${shown.directions.join(' and ')}`
    }`,
    `pods here: ${shown.pods.join(', ') || 'none'}`,
    table(
      ['RULE', 'FAMILY', 'CONNECTIONS', 'BYTES'],
      shown.rules.map((rule) => [rule.rule, rule.family, String(rule.connections), String(rule.bytes)]),
    ),
    ...shown.problems.map((line) => `${styled('red', 'problem')} ${line}`),
  ].join('\n');
}

function explanationText(found: readonly Explanation[]): string {
  if (found.length === 0) return 'no backend, or no address family in common';
  return found
    .map(({ from, to, port, allowed, reasons }) =>
      [
        `${from} -> ${to} ${port}: ${allowed ? styled('green', 'allowed') : styled('red', 'denied')}`,
        ...reasons.map((line) => `  ${line}`),
      ].join('\n'),
    )
    .join('\n');
}
