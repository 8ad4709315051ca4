/** `portolan doctor firewall --trace`: which rules packets of a flow meet, and which one drops them. */
import { type IpAddress, tryParseIp } from '../addr/index.ts';
import { nftError } from '../errors/index.ts';
import { Rtnl } from '../kernel/rtnl/index.ts';
import { readRuleTexts, type TracedFlow, type TracedPacket, traceFlow } from '../trace/firewall/index.ts';
import { type AskFlags, ask } from './asking.ts';
import { print, styled, table } from './output.ts';

/** What is read of the agent's answer to /pods. */
interface PodView {
  readonly namespace: string;
  readonly name: string;
  readonly ips: readonly string[];
}

export interface TraceFlags extends AskFlags {
  from?: string;
  to: string;
  seconds: number;
  packets: number;
}

/** Exit code 1 when a packet was dropped. Throws NFT_TRACE_NO_SUCH_END, NFT_*. */
export async function trace(flags: TraceFlags): Promise<void> {
  const target = targetOf(flags.to);
  const flow: TracedFlow = { ...target, from: await sourceOf(flags, target.to.family) };
  const rules = await readRuleTexts();
  const end = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => end.abort());
  const names = linkNames();
  const packets: ReturnType<typeof shown>[] = [];
  const summary = await traceFlow({
    flow,
    rules,
    milliseconds: flags.seconds * 1000,
    packets: flags.packets,
    signal: end.signal,
    onReady: () =>
      process.stderr.write(
        `watching for ${flags.seconds} s, ${flags.packets} packets at most: send some now (Ctrl-C ends it)\n`,
      ),
    onPacket: (packet) => {
      const one = shown(packet, names);
      packets.push(one);
      if (!flags.json) process.stdout.write(`${packetText(one)}\n\n`);
    },
  });
  if (flags.json) print({ json: true, value: { ...summary, traced: packets }, text: () => '' });
  else process.stdout.write(`${summaryText(summary)}\n`);
  if (summary.dropped > 0) process.exitCode = 1;
}

function shown(packet: TracedPacket, names: ReadonlyMap<number, string>) {
  const { flow, steps, droppedBy } = packet;
  const end = (address: IpAddress, port: number | undefined) =>
    port === undefined ? String(address) : `${address.family === 6 ? `[${address}]` : address}:${port}`;
  const link = (index: number) => (index === 0 ? undefined : (names.get(index) ?? String(index)));
  return {
    from: end(flow.source, flow.sourcePort),
    to: end(flow.destination, flow.destinationPort),
    protocol: flow.protocolName,
    iif: link(packet.iif),
    oif: link(packet.oif),
    steps,
    droppedBy,
  };
}

function packetText({ from, to, protocol, iif, oif, steps, droppedBy }: ReturnType<typeof shown>): string {
  const ways = [iif === undefined ? 'from this node' : `in by ${iif}`, ...(oif ? [`out by ${oif}`] : [])];
  const rows = steps.map(({ chain, rule, handle, verdict }) => [
    `  ${chain}`,
    `${rule}${handle === undefined ? '' : ` # handle ${handle}`}`,
    verdict === 'drop' ? styled('red', verdict) : verdict,
  ]);
  const last = droppedBy
    ? `${styled('red', 'DROPPED')} by ${droppedBy.chain}: ${droppedBy.rule}${droppedBy.handle === undefined ? '' : ` # handle ${droppedBy.handle}`}`
    : steps.length === 0
      ? 'met no chain of nftables'
      : `${styled('green', 'passed')} all chains that it met`;
  return [
    `${from} -> ${to} ${protocol}, ${ways.join(', ')}`,
    ...(rows.length > 0 ? [table(['  CHAIN', 'RULE', 'VERDICT'], rows)] : []),
    `  ${last}`,
  ].join('\n');
}

function summaryText(summary: { packets: number; dropped: number; incomplete: boolean }): string {
  const { packets, dropped, incomplete } = summary;
  const lines =
    packets === 0
      ? [
          'no packet of this flow came to netfilter on this node: nothing was sent, it took another way, or a socket',
          'was translated before (for a Service, give the address of a backend)',
        ]
      : [`${packets} packets, ${dropped} dropped by nftables`];
  if (packets > 0 && dropped === 0)
    lines.push('rules of iptables-legacy, routing and eBPF are not in this picture');
  if (incomplete) lines.push('the kernel left out events: try again with fewer packets');
  return lines.map((line) => styled('dim', line)).join('\n');
}

/** `10.244.1.5:80`, `[fd00::5]:53/udp`, `10.244.1.5`; TCP unless it says otherwise. Throws NFT_TRACE_NO_SUCH_END. */
export function targetOf(text: string): Pick<TracedFlow, 'to' | 'protocol' | 'port'> {
  const [where = '', name] = text.split('/');
  const match = /^\[(?<six>[^\]]+)\](?::(?<port6>\d{1,5}))?$|^(?<four>[\d.]+)(?::(?<port4>\d{1,5}))?$/.exec(
    where,
  );
  const { six, four, port4, port6 } = match?.groups ?? {};
  const to = tryParseIp(six ?? four ?? where);
  const digits = port4 ?? port6;
  const port = digits === undefined ? undefined : Number(digits);
  const protocol = name ?? (port === undefined ? undefined : 'tcp');
  if (!to || (port ?? 1) > 65_535 || (port ?? 1) < 1 || !isProtocol(protocol))
    throw nftError('NFT_TRACE_NO_SUCH_END', {
      text,
      want: 'an address, with port and protocol behind it: 10.244.2.7:80 or [fd00::7]:53/udp',
    });
  return { to, protocol, port };
}

function isProtocol(text: string | undefined): text is TracedFlow['protocol'] {
  return text === undefined || text === 'tcp' || text === 'udp' || text === 'sctp';
}

/** An address, or that of a pod of this node. Throws NFT_TRACE_NO_SUCH_END, AGENT_NOT_RUNNING. */
async function sourceOf(flags: TraceFlags, family: 4 | 6): Promise<IpAddress | undefined> {
  const { from } = flags;
  if (from === undefined) return undefined;
  const address = tryParseIp(from);
  if (address?.family === family) return address;
  const [namespace, name] = from.includes('/') ? from.split('/') : ['default', from];
  const pods = address ? [] : await ask<PodView[]>(flags, '/pods');
  const pod = pods.find((each) => each.namespace === namespace && each.name === name);
  const own = pod?.ips.map(tryParseIp).find((ip) => ip?.family === family);
  if (!own)
    throw nftError('NFT_TRACE_NO_SUCH_END', {
      text: from,
      want: `a pod of this node as namespace/name, or an IPv${family} address`,
    });
  return own;
}

function linkNames(): Map<number, string> {
  using rtnl = Rtnl.open();
  return new Map(rtnl.links().map(({ ifindex, name }) => [ifindex, name]));
}
