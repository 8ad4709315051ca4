/** `portolan service`: what Services do on this node, and why. */
import type { Command } from 'commander';
import type { ServiceRow } from '../agent/show-service.ts';
import type { EngineDiff, PacketAnswer, ShownBackend, ShownPort, ShownService } from '../service/index.ts';
import { type AskFlags, ask, asking } from './asking.ts';
import { examples } from './help.ts';
import { bytes, print, stateStyle, styled, table } from './output.ts';

export function registerService(program: Command): void {
  const service = program
    .command('service')
    .description('Kubernetes Services on this node')
    .addHelpText('after', examples('portolan service list', 'portolan service show default/web'));
  asking(service.command('list'))
    .description('Services with frontends, backends and connections, and whether they are programmed')
    .addHelpText('after', examples('portolan service list', 'portolan service list --json'))
    .action(async (flags: AskFlags) => {
      const rows = await ask<ServiceRow[]>(flags, '/services');
      print({ json: flags.json, value: rows, text: () => listText(rows) });
    });
  asking(service.command('show'))
    .description('one Service: frontends with their rules, backends with state and connections, map entries')
    .argument('<service>', 'NAMESPACE/NAME')
    .option('--seconds <number>', 'how long to look for figures per second; 0: not at all', '1')
    .addHelpText(
      'after',
      examples(
        'portolan service show default/web',
        'portolan service show default/web --seconds 0 --json | jq .ports[].backends',
        'sudo ./portolan lab exec node1 -- portolan service show kube-system/kube-dns',
      ),
    )
    .action(async (name: string, flags: AskFlags & { seconds: string }) => {
      const query = new URLSearchParams({ service: name, seconds: flags.seconds });
      const shown = await ask<ShownService>(flags, `/services/show?${query}`);
      print({ json: flags.json, value: shown, text: () => showText(shown) });
    });
  registerExplain(service);
  asking(service.command('maps'))
    .description("the kernel's truth as text, one line a frontend")
    .addHelpText('after', examples('portolan service maps', 'portolan service maps | grep 10.96.0.80'))
    .action(async (flags: AskFlags) => {
      const lines = await ask<string[]>(flags, '/services/maps');
      print({ json: flags.json, value: lines, text: () => lines.join('\n') });
    });
  asking(service.command('diff'))
    .description('how the kernel differs from what Services want; exit 1 when it does')
    .addHelpText('after', examples('portolan service diff', 'portolan service diff || portolan service maps'))
    .action(async (flags: AskFlags) => {
      const diff = await ask<Required<EngineDiff>>(flags, '/services/diff');
      const lines = [
        ...diff.missing.map((line) => `- ${line}`),
        ...diff.unwanted.map((line) => `+ ${line}`),
        ...diff.altered.map((line) => `! ${line}`),
      ];
      print({
        json: flags.json,
        value: diff,
        text: () => (lines.length > 0 ? lines.join('\n') : 'no difference'),
      });
      if (lines.length > 0) process.exitCode = 1;
    });
}

interface ExplainFlags extends AskFlags {
  from?: string;
  to?: string;
  source?: string;
  outside: boolean;
}

/** Where a packet is decided about. */
const PLACES = {
  pod: 'at the link of a pod',
  node: 'of a process of the node',
  outside: 'at a node interface',
} as const;

function registerExplain(service: Command): void {
  asking(service.command('explain'))
    .description(
      'why each endpoint of a Service is chosen or not; or what happens to a packet, by the loaded program',
    )
    .argument('<what>', 'NAMESPACE/NAME of a Service, or ADDRESS:PORT/tcp of a packet')
    .option(
      '--from <address>',
      'who sends a packet (default: the first pod of this node; the node to 127.0.0.1 and ::1)',
    )
    .option('--to <address:port/protocol>', 'where it goes (default: the first frontend of the Service)')
    .option('--source <address>', 'the same as --from')
    .option(
      '--outside',
      'the packet comes in by a node interface; so do those of senders that are no pod here',
      false,
    )
    .addHelpText(
      'after',
      examples(
        'portolan service explain default/hello',
        'portolan service explain default/hello --from 10.244.1.5 --to 10.96.0.80:80/tcp',
        'portolan service explain default/hello --from 172.31.0.1 --to 172.31.0.11:30080/tcp',
        'portolan service explain 10.96.0.80:80/tcp',
      ),
    )
    .action(async (what: string, flags: ExplainFlags) => {
      // No Service's name has a colon or is an address, so what has is meant to be a packet, well formed or not.
      const packet = /:|^[\d.]+$/.test(what);
      const from = flags.from ?? flags.source;
      if (!packet && from === undefined && flags.to === undefined) {
        const lines = await ask<string[]>(flags, `/services/explain?service=${encodeURIComponent(what)}`);
        return print({ json: flags.json, value: lines, text: () => lines.join('\n') });
      }
      const query = new URLSearchParams({
        ...(packet ? {} : { service: what }),
        ...(packet ? { to: what } : flags.to === undefined ? {} : { to: flags.to }),
        ...(from === undefined ? {} : { source: from }),
        ...(flags.outside ? { from: 'outside' } : {}),
      });
      const answer = await ask<
        PacketAnswer & { source: string; target: string; client: keyof typeof PLACES; service?: string }
      >(flags, `/services/packet?${query}`);
      const parts = [
        `${answer.source} -> ${answer.target}: ${answer.verdict}`,
        answer.backend ? ` to ${answer.backend}` : '',
        answer.masquerade ? ', masqueraded' : '',
        answer.reason ? ` (${answer.reason})` : '',
      ];
      return print({
        json: flags.json,
        value: answer,
        text: () =>
          [
            parts.join(''),
            `  ${PLACES[answer.client]}, ${answer.service ? `Service ${answer.service}` : 'no Service of ours'}`,
            ...answer.entries.map((line) => `  ${line}`),
          ].join('\n'),
      });
    });
}

/** Services with their figures in columns, and below each its ports. */
function listText(rows: readonly ServiceRow[]): string {
  const lines = table(
    ['SERVICE', 'CONNECTIONS', 'REFUSED', 'STATE'],
    rows.map(({ service, connections, refused, state }) => [
      styled('bold', service),
      String(connections),
      String(refused),
      stateStyle(state),
    ]),
  ).split('\n');
  return [
    lines[0]!,
    ...rows.flatMap(({ ports }, at) => [lines[at + 1]!, ...ports.map((line) => `  ${line}`)]),
  ].join('\n');
}

function showText(shown: ShownService): string {
  const rate =
    shown.connectionsPerSecond === undefined ? '' : `, ${shown.connectionsPerSecond} per second now`;
  const head = [
    ['Service', styled('bold', shown.service)],
    ['state', stateStyle(shown.state)],
    ['connections', `${shown.connections}${rate}; ${shown.refused} refused or dropped`],
    ...(shown.ignored === undefined ? [] : [['not served', shown.ignored]]),
    ...(shown.healthCheck === undefined ? [] : [['health', shown.healthCheck]]),
    ...shown.problems.map((problem) => [styled('red', 'problem'), problem]),
  ].map(([name, value]) => `${name!.padEnd(12)} ${value}`);
  return [head.join('\n'), ...shown.ports.map(portText)].join('\n\n');
}

function portText(port: ShownPort): string {
  const parts = [
    `${styled('bold', port.port)}  ${port.connections} connections, ${port.refused} refused, affinity ${port.affinity}`,
  ];
  parts.push(
    table(
      ['FRONTEND', 'KIND', 'POD', 'NODE', 'OUTSIDE'],
      port.frontends.map(({ address, kind, rules, shadowedBy }) =>
        shadowedBy === undefined
          ? [address, kind, rules.pod, rules.node, rules.outside]
          : [address, kind, `belongs to ${shadowedBy}`],
      ),
    ),
  );
  parts.push(
    port.backends.length === 0
      ? 'no endpoints'
      : table(
          [
            'BACKEND',
            'NODE',
            'STATE',
            'SETS',
            'WEIGHT',
            'CONNECTIONS',
            'PER SECOND',
            'OPEN',
            'TRAFFIC',
            'WHY',
          ],
          port.backends.map(backendRow),
        ),
  );
  if (port.entries.length > 0) parts.push(port.entries.map((line) => styled('dim', line)).join('\n'));
  return parts.join('\n');
}

function backendRow(backend: ShownBackend): string[] {
  const { packets = 0 } = backend;
  return [
    backend.address,
    backend.node || '-',
    backend.state,
    backend.sets.join(',') || '-',
    String(backend.weight),
    String(backend.connections ?? '-'),
    String(backend.connectionsPerSecond ?? '-'),
    String(backend.open ?? '-'),
    packets > 0 ? `${packets} packets, ${bytes(backend.bytes ?? 0)}` : '-',
    backend.because,
  ];
}
