/** What `portolan service explain --from --to` asks the agent: a packet, and what happens to it. */
import { type IpAddress, tryParseIp } from '../addr/index.ts';
import { agentError } from '../errors/index.ts';
import { frontendKey, type PacketAnswer, type PacketQuery } from '../service/index.ts';
import type { AgentParts } from './parts.ts';
import { noSuchService, serviceName } from './service-names.ts';

export interface PacketReport extends PacketAnswer {
  readonly source: string;
  /** `10.96.0.10:80/TCP`. */
  readonly target: string;
  /** Whose program decided. */
  readonly client: PacketQuery['client'];
  /** Who has the frontend. */
  readonly service?: string;
}

/**
 * `to=ADDRESS:PORT/tcp` (or `to=ADDRESS` with `port` and `protocol`), or `service=NAMESPACE/NAME` for its first
 * frontend, of the family of `source` if that is given; `source`, by default the first pod of this node,
 * or for a loopback address the node itself; `from=outside|pod`, by default what the source is.
 * Throws AGENT_BAD_OPTION, AGENT_NO_SUCH_SERVICE, ADDR_BAD_IP, BPF_RUN_FAILED.
 */
export function packetAnswer(parts: AgentParts, query: URLSearchParams): PacketReport {
  const { target, targetPort, protocol } = targetOf(parts, query);
  const pods = parts.networking.list().flatMap(({ addresses }) => addresses.map(String));
  // What goes to a loopback address has one as its source: a process of the node, or of a pod about itself.
  const source =
    query.get('source') ||
    (isLoopback(tryParseIp(target))
      ? LOOPBACK[target.includes(':') ? 6 : 4]
      : pods.find((one) => one.includes(':') === target.includes(':'))) ||
    '';
  const from = query.get('from');
  const sameFamily = source.includes(':') === target.includes(':');
  if (!tryParseIp(source) || !sameFamily)
    throw agentError('AGENT_BAD_OPTION', {
      option: 'from',
      value: source,
      command: 'service explain',
      want: `an IPv${target.includes(':') ? 6 : 4} address, as --to is one${query.get('source') ? '' : '; this node has no pod to take one of'}`,
    });
  const isPod = pods.includes(String(tryParseIp(source)));
  const own = isLoopback(tryParseIp(source)) ? 'node' : isPod ? 'pod' : 'outside';
  const client = from === 'outside' || from === 'pod' ? from : own;
  const answer = parts.engine.explainPacket({ client, source, target, targetPort, protocol });
  const service = parts.controller.ownerOf(frontendKey({ address: target, port: targetPort }, protocol));
  return {
    source,
    target: `${target.includes(':') ? `[${target}]` : target}:${targetPort}/${protocol}`,
    client,
    ...(service === undefined ? {} : { service }),
    ...answer,
  };
}

const LOOPBACK = { 4: '127.0.0.1', 6: '::1' } as const;

function isLoopback(address: IpAddress | undefined): boolean {
  const text = String(address);
  return text.startsWith('127.') || text === LOOPBACK[6];
}

type Target = Pick<PacketQuery, 'target' | 'targetPort' | 'protocol'>;

function targetOf({ controller }: AgentParts, query: URLSearchParams): Target {
  const named = query.get('service');
  const text = query.get('to') ?? '';
  if (named !== null) {
    const service = serviceName(named);
    const plan = controller.plans.get(service);
    if (!plan) throw noSuchService(service, controller.plans.keys());
    const source = tryParseIp(query.get('source') ?? '');
    const found = plan.ports.find(
      ({ frontends, protocol, family }) =>
        frontends.length > 0 && protocol !== 'SCTP' && (source?.family ?? family) === family,
    );
    if (text === '' && !found)
      throw agentError('AGENT_BAD_OPTION', {
        option: 'to',
        value: '""',
        command: 'service explain',
        want: `a target: ${service} has no${source ? ` IPv${source.family}` : ''} frontend${plan.ignored === undefined ? '' : `, ${plan.ignored}`}`,
      });
    if (text === '' && found)
      return {
        target: found.frontends[0]!.address,
        targetPort: found.frontends[0]!.port,
        protocol: found.protocol as Target['protocol'],
      };
  }
  const match = /^(?:\[([^\]]+)\]|([0-9.]+)):(\d{1,5})(?:\/(tcp|udp))?$/i.exec(text);
  const address = tryParseIp(match?.[1] ?? match?.[2] ?? text);
  const port = Number(match?.[3] ?? query.get('port'));
  const protocol = (match?.[4] ?? query.get('protocol') ?? 'tcp').toUpperCase();
  if (!address || (protocol !== 'TCP' && protocol !== 'UDP') || !(port >= 1 && port <= 65_535))
    throw agentError('AGENT_BAD_OPTION', {
      option: 'to',
      value: text,
      command: 'service explain',
      want: 'ADDRESS:PORT/tcp or /udp, such as 10.96.0.10:80/tcp or [fd00::1]:53/udp',
    });
  return { target: String(address), targetPort: port, protocol };
}
