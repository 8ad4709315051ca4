/** Commands that ask the agent of this node: status, overlay, pod. */
import type { Command } from 'commander';
import type { AgentStatus } from '../agent/status.ts';
import { type AskFlags, ask, asking } from './asking.ts';
import { examples } from './help.ts';
import { bytes, print, stateStyle, styled, table } from './output.ts';

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
        { hostLink: string; kind: string; pod: string; addresses: string[]; netns: string; state: string }[]
      >(flags, '/links');
      print({
        json: flags.json,
        value: links,
        text: () =>
          table(
            ['LINK', 'KIND', 'POD', 'ADDRESSES', 'NETNS', 'STATE'],
            links.map((link) => [
              link.hostLink,
              link.kind,
              link.pod,
              link.addresses.join(','),
              link.netns,
              link.state,
            ]),
          ),
      });
    });
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

/** The kind of links to come, and how many are of the other one. */
function linkKinds({ kind, count, bridged }: AgentStatus['podLinks']): string {
  const others = kind === 'bridge' ? count - bridged : bridged;
  return others === 0 ? kind : `${kind}, ${others} still ${kind === 'bridge' ? 'routed' : 'bridge'}`;
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
      podLinks.pools
        .map(
          // Of a /64 nobody wants to count.
          ({ pool, used, usable }) => `${pool} (${used}${usable < 1e9 ? ` of ${usable}` : ''} used)`,
        )
        .join(', '),
    ],
    [
      'pods',
      `${status.pods}, ${podLinks.count} links (${linkKinds(podLinks)}), MTU ${status.podMtuBytes ?? 'unknown'}`,
    ],
    [
      'overlay',
      `${overlay.backend}, tables ${stateStyle(overlay.tables)}, rules ${stateStyle(overlay.rules)}, ${overlay.changes} changes`,
    ],
    [
      'Services',
      `${services.engine}${services.because === undefined ? '' : ` (${services.because})`}, ${services.planned} planned, ${Object.keys(services.failed).length} failed, last change ${services.timing.lastMs.toFixed(1)} ms`,
    ],
    [
      'policies',
      status.policies.synced
        ? `${stateStyle(status.policies.state)}, ${status.policies.policies}, of them ${status.policies.active} for ${status.policies.isolatedPods} isolated pods here`
        : 'not listed yet',
    ],
    ...(status.egress.namespaces > 0
      ? [
          [
            'egress',
            `${status.egress.namespaces} namespaces with an address, ${status.egress.closed} closed, held here: ${status.egress.held.join(', ') || 'none'}`,
          ],
        ]
      : []),
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
  if (services.programs.length > 0)
    parts.push(
      table(
        ['PROGRAM', 'ID', 'TAG', 'ATTACHED TO'],
        services.programs.map((program) => [
          program.name,
          String(program.id),
          program.tag,
          program.attachedTo,
        ]),
      ),
    );
  parts.push(
    table(
      ['MAP', 'ENTRIES', 'LIMIT', 'MEMORY'],
      [...services.stores, ...services.caches].map((map) => [
        map.name,
        'entries' in map ? String(map.entries) : '-',
        String(map.limit),
        bytes(map.bytes),
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
  const { repairs } = services;
  if (repairs?.last)
    parts.push(
      `${styled('yellow', 'put right')} ${repairs.count} changes by others, last at ${repairs.last.at}: ${repairs.last.what.slice(0, 5).join('; ')}`,
    );
  for (const problem of status.problems)
    parts.push(`${styled('red', 'problem')} ${problem.object}: ${problem.message}\n  ${problem.remedy}`);
  return parts.join('\n\n');
}
