/** Commands that ask the agent of this node: status, overlay, pod, service. */
import type { Command } from 'commander';
import type { ServiceRow } from '../agent/routes.ts';
import type { AgentStatus } from '../agent/status.ts';
import { type AskFlags, ask, asking } from './asking.ts';
import { examples } from './help.ts';
import { bytes, print, styled, table } from './output.ts';

export function registerAsk(program: Command): void {
  asking(program.command('status'))
    .description('what this node has: peers, devices, programs, maps, tables, each with its state')
    .addHelpText(
      'after',
      examples(
        'portolan status',
        'sudo ./portolan lab exec node1 -- portolan status',
        'portolan status --json | jq .overlay.peers',
      ),
    )
    .action(async (flags: AskFlags) => {
      const status = await ask<AgentStatus>(flags, '/status');
      print({ json: flags.json, value: status, text: () => statusText(status) });
      if (status.problems.length > 0) process.exitCode = 1;
    });

  const overlay = program
    .command('overlay')
    .description('the network between nodes')
    .addHelpText('after', examples('portolan overlay list', 'portolan overlay plan'));
  asking(overlay.command('plan'))
    .description('what the agent would change in the kernel now; nothing when all is well')
    .addHelpText(
      'after',
      examples('portolan overlay plan', 'sudo ./portolan lab exec node1 -- portolan overlay plan'),
    )
    .action(async (flags: AskFlags) => {
      const plan = await ask<{ changes: string[]; note?: string }>(flags, '/overlay/plan');
      print({
        json: flags.json,
        value: plan,
        text: () => plan.note ?? (plan.changes.length > 0 ? plan.changes.join('\n') : 'nothing to change'),
      });
    });
  asking(overlay.command('list'))
    .description('peers, and how each is reached')
    .addHelpText('after', examples('portolan overlay list', 'portolan overlay list --json'))
    .action(async (flags: AskFlags) => {
      const { overlay } = await ask<AgentStatus>(flags, '/status');
      print({ json: flags.json, value: overlay.peers, text: () => peerTable(overlay.peers) });
    });

  const pod = program
    .command('pod')
    .description('the pods of this node')
    .addHelpText('after', examples('portolan pod list', 'portolan pod links --json'));
  asking(pod.command('list'))
    .description('pods with their addresses and containers')
    .addHelpText('after', examples('portolan pod list', 'portolan pod list --json'))
    .action(async (flags: AskFlags) => {
      const pods = await ask<
        {
          namespace: string;
          name: string;
          phase: string;
          ips: string[];
          containers: { name: string; state: string }[];
        }[]
      >(flags, '/pods');
      print({
        json: flags.json,
        value: pods,
        text: () =>
          table(
            ['NAMESPACE', 'NAME', 'PHASE', 'IPS', 'CONTAINERS'],
            pods.map((one) => [
              one.namespace,
              one.name,
              one.phase,
              one.ips.join(','),
              one.containers.map(({ name, state }) => `${name}=${state}`).join(' '),
            ]),
          ),
      });
    });
  asking(pod.command('links'))
    .description('host ends of pod links with their addresses')
    .addHelpText('after', examples('portolan pod links', 'portolan pod links --json'))
    .action(async (flags: AskFlags) => {
      const links = await ask<
        { hostLink: string; pod: string; addresses: string[]; netns: string; state: string }[]
      >(flags, '/links');
      print({
        json: flags.json,
        value: links,
        text: () =>
          table(
            ['LINK', 'POD', 'ADDRESSES', 'NETNS', 'STATE'],
            links.map((link) => [link.hostLink, link.pod, link.addresses.join(','), link.netns, link.state]),
          ),
      });
    });

  const service = program
    .command('service')
    .description('Kubernetes Services on this node')
    .addHelpText('after', examples('portolan service list', 'portolan service diff'));
  asking(service.command('list'))
    .description('Services with frontends and backends as planned, and whether they are programmed')
    .addHelpText('after', examples('portolan service list', 'portolan service list --json'))
    .action(async (flags: AskFlags) => {
      const rows = await ask<ServiceRow[]>(flags, '/services');
      print({ json: flags.json, value: rows, text: () => serviceText(rows) });
    });
  asking(service.command('explain'))
    .description(
      'why each endpoint of a Service is chosen or not; or what happens to a packet, by the loaded program',
    )
    .argument('<what>', 'NAMESPACE/NAME of a Service, or ADDRESS:PORT/tcp of a packet')
    .option('--source <address>', 'who sends the packet (default: the first pod of this node)')
    .option('--outside', 'the packet comes from outside the cluster', false)
    .addHelpText(
      'after',
      '\nExamples:\n  portolan service explain default/hello\n  portolan service explain 10.96.0.80:80/tcp\n  portolan service explain 172.31.0.11:30080/tcp --outside --source 172.31.0.1',
    )
    .action(async (what: string, flags: AskFlags & { source?: string; outside: boolean }) => {
      const packet = /^\[?([0-9a-fA-F.:]+)\]?:(\d+)(?:\/(tcp|udp))?$/.exec(what);
      if (!packet) {
        const lines = await ask<string[]>(flags, `/services/explain?service=${encodeURIComponent(what)}`);
        return print({ json: flags.json, value: lines, text: () => lines.join('\n') });
      }
      const [, to, port, protocol = 'tcp'] = packet;
      const links = flags.source ? [] : await ask<{ addresses: string[] }[]>(flags, '/links');
      const source =
        flags.source ??
        links.flatMap(({ addresses }) => addresses).find((one) => one.includes(':') === to!.includes(':'));
      const query = new URLSearchParams({
        to: to!,
        port: port!,
        protocol,
        source: source ?? '',
        from: flags.outside ? 'outside' : 'pod',
      });
      const answer = await ask<{
        verdict: string;
        reason?: string;
        backend?: string;
        masquerade: boolean;
        entries: string[];
      }>(flags, `/services/packet?${query}`);
      return print({
        json: flags.json,
        value: answer,
        text: () =>
          [
            `${source} -> ${what}: ${answer.verdict}${answer.backend ? ` to ${answer.backend}` : ''}${answer.masquerade ? ', masqueraded' : ''}${answer.reason ? ` (${answer.reason})` : ''}`,
            ...answer.entries.map((line) => `  ${line}`),
          ].join('\n'),
      });
    });
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
      const diff = await ask<{ missing: string[]; unwanted: string[] }>(flags, '/services/diff');
      const lines = [...diff.missing.map((line) => `- ${line}`), ...diff.unwanted.map((line) => `+ ${line}`)];
      print({
        json: flags.json,
        value: diff,
        text: () => (lines.length > 0 ? lines.join('\n') : 'no difference'),
      });
      if (lines.length > 0) process.exitCode = 1;
    });
}

function stateStyle(state: string): string {
  if (state === 'done') return styled('green', state);
  return styled(state.startsWith('error') ? 'red' : 'yellow', state);
}

function peerTable(peers: AgentStatus['overlay']['peers']): string {
  return table(
    ['PEER', 'ADDRESS', 'PODS', 'VIA', 'STATE'],
    peers.map((peer) => [
      peer.node,
      peer.address,
      peer.podCidrs.join(','),
      peer.via,
      stateStyle(peer.error ? `error: ${peer.error}` : 'done'),
    ]),
  );
}

function serviceText(rows: readonly ServiceRow[]): string {
  return rows
    .map(({ service, ports, state }) =>
      [`${styled('bold', service)}  ${stateStyle(state)}`, ...ports.map((line) => `  ${line}`)].join('\n'),
    )
    .join('\n');
}

function statusText(status: AgentStatus): string {
  const { overlay, services, podLinks } = status;
  const head = [
    ['node', status.node],
    ['state', status.ready ? styled('green', 'ready') : styled('yellow', 'not ready')],
    [
      'agent',
      `${status.version}, process ${status.pid}, up ${status.uptimeSeconds} s, ${bytes(status.rssBytes)}`,
    ],
    [
      'API server',
      status.api.connected
        ? styled('green', 'connected')
        : styled('red', `away: ${status.api.error ?? 'not asked yet'}`),
    ],
    ['addresses', status.addresses.join(', ')],
    [
      'pod CIDRs',
      podLinks.pools.map(({ pool, used, usable }) => `${pool} (${used} of ${usable} used)`).join(', '),
    ],
    ['pods', `${status.pods}, ${podLinks.count} links, MTU ${status.podMtuBytes ?? 'unknown'}`],
    [
      'overlay',
      `${overlay.backend}, tables ${stateStyle(overlay.tables)}, rules ${stateStyle(overlay.rules)}, ${overlay.changes} changes`,
    ],
    [
      'Services',
      `${services.engine}, ${services.planned} planned, ${Object.keys(services.failed).length} failed, last change ${services.timing.lastMs.toFixed(1)} ms`,
    ],
  ].map(([name, value]) => `${name!.padEnd(11)} ${value}`);
  const parts = [head.join('\n')];
  if (overlay.devices.length > 0)
    parts.push(
      table(
        ['DEVICE', 'MAC', 'MTU', 'LOCAL'],
        overlay.devices.map((device) => [device.name, device.mac, String(device.mtu), device.local]),
      ),
    );
  if (overlay.peers.length > 0) parts.push(peerTable(overlay.peers));
  parts.push(
    table(
      ['PROGRAM', 'ID', 'TAG', 'ATTACHED TO'],
      services.programs.map((program) => [program.name, String(program.id), program.tag, program.attachedTo]),
    ),
  );
  parts.push(
    table(
      ['MAP', 'ENTRIES', 'LIMIT', 'MEMORY'],
      services.stores.map((store) => [
        store.name,
        String(store.entries),
        String(store.limit),
        bytes(store.bytes),
      ]),
    ),
  );
  const counters = Object.entries(services.counters).filter(([, count]) => count > 0);
  if (counters.length > 0)
    parts.push(
      table(
        ['COUNTER', 'COUNT'],
        counters.map(([name, count]) => [name, String(count)]),
      ),
    );
  for (const problem of status.problems)
    parts.push(`${styled('red', 'problem')} ${problem.object}: ${problem.message}\n  ${problem.remedy}`);
  return parts.join('\n\n');
}
