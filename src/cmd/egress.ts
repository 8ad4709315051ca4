/** `portolan egress`: which address the pods of a namespace have outside the cluster. */
import type { Command } from 'commander';
import type { EgressRow } from '../agent/egress-answers.ts';
import type { EgressExplanation } from '../agent/egress-explain.ts';
import { type AskFlags, ask, asking } from './asking.ts';
import { examples } from './help.ts';
import { print, styled, table } from './output.ts';

export function registerEgress(program: Command): void {
  const egress = program
    .command('egress')
    .description('egress addresses of namespaces: with which address their pods are seen outside the cluster')
    .addHelpText(
      'after',
      examples(
        'kubectl annotate namespace shop portolan.dev/egress-address=192.0.2.50',
        'portolan egress list',
        'portolan egress explain --from shop/web --to 198.51.100.7',
      ),
    );
  asking(egress.command('list'))
    .description('namespaces with an egress address, who holds it, and what is dropped')
    .addHelpText('after', examples('portolan egress list', 'portolan egress list --json'))
    .action(async (flags: AskFlags) => {
      const rows = await ask<EgressRow[]>(flags, '/egress/list');
      print({ json: flags.json, value: rows, text: () => listText(rows) });
    });
  asking(egress.command('explain'))
    .description('with which address a connection leaves; exit 1 when it does not')
    .requiredOption('--from <end>', 'pod as namespace/name, or a namespace')
    .requiredOption('--to <address>', 'address outside the cluster')
    .addHelpText(
      'after',
      examples(
        'portolan egress explain --from shop/web --to 198.51.100.7',
        'portolan egress explain --from shop --to 2001:db8::7 --json',
      ),
    )
    .action(async (flags: AskFlags & { from: string; to: string }) => {
      const query = new URLSearchParams({ from: flags.from, to: flags.to });
      const found = await ask<EgressExplanation>(flags, `/egress/explain?${query}`);
      print({ json: flags.json, value: found, text: () => explanationText(found) });
      if (found.source === 'none') process.exitCode = 1;
    });
  asking(egress.command('plan'))
    .description('what the agent would change in the kernel now; nothing when all is well')
    .addHelpText('after', examples('portolan egress plan'))
    .action(async (flags: AskFlags) => {
      const lines = await ask<string[]>(flags, '/egress/plan');
      print({
        json: flags.json,
        value: lines,
        text: () => (lines.length > 0 ? lines.join('\n') : 'nothing to change'),
      });
    });
}

function listText(rows: readonly EgressRow[]): string {
  if (rows.length === 0) return 'no namespace asks for an egress address';
  const colour = { here: 'green', via: 'green', closed: 'red' } as const;
  return table(
    ['NAMESPACE', 'FAMILY', 'ADDRESS', 'STATE', 'HOLDER', 'PODS HERE', 'DROPPED', 'WHY'],
    rows.map((row) => [
      row.namespace,
      row.family,
      row.address ?? '',
      styled(colour[row.state], row.state),
      row.holder ?? '',
      String(row.pods),
      String(row.dropped),
      row.why ?? '',
    ]),
  );
}

function explanationText({ from, to, source, address, lines }: EgressExplanation): string {
  const verdict = source === 'none' ? styled('red', 'does not leave') : `leaves as ${address ?? source}`;
  return [`${from} -> ${to}: ${verdict}`, ...lines.map((line) => `  ${line}`)].join('\n');
}
