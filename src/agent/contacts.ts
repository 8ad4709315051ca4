/** What a node needs to be reached by and to reach: a policy of the node may cut none of it without saying so. */
import { type IpAddress, parseIp, tryParseIp } from '../addr/index.ts';
import { SocketDiag } from '../kernel/sockdiag/index.ts';
import type { Protocol } from '../model/kubernetes.ts';
import {
  type Contact,
  type Direction,
  type Endpoint,
  type NodeFacts,
  nodesByAddress,
} from '../policy/index.ts';

const SSH_PORT = 22;
/** Somebody outside: addresses for documentation (RFC 5737, RFC 3849). */
const SOMEBODY = parseIp('192.0.2.1');
const SOMEBODY_ELSE = parseIp('2001:db8::1');

export interface ContactSources {
  readonly nodeName: string;
  /** URL of the API server. */
  readonly server: string;
  /** UDP port of the tunnel; undefined without one. */
  readonly tunnelPort: number | undefined;
  readonly nodes: ReadonlyMap<string, NodeFacts>;
  /** The node's namespace, default the process's own. */
  readonly netns?: number | { readonly fd: number } | undefined;
}

export function nodeContacts(sources: ContactSources): Contact[] {
  return [...apiServer(sources), ...ssh(sources), ...peers(sources)];
}

function contact(
  what: string,
  direction: Direction,
  other: Endpoint,
  { nodeName }: ContactSources,
  protocol: Protocol,
  port: number,
): Contact {
  // Which of its own addresses the node uses makes no difference to policies.
  const own = { address: other.address, node: nodeName };
  const flow = direction === 'ingress' ? { from: other, to: own } : { from: own, to: other };
  return { what, direction, flow: { ...flow, protocol, port } };
}

function apiServer(sources: ContactSources): Contact[] {
  const { hostname, port, protocol } = new URL(sources.server);
  const number = Number(port) || (protocol === 'http:' ? 80 : 443);
  const named = tryParseIp(hostname.replace(/^\[|\]$/g, ''));
  const addresses = named ? [named] : connectedTo(number, sources);
  const endpoint = endpoints(sources);
  return addresses
    .filter((address) => !isLoopback(address))
    .map((address) =>
      contact(`the API server at ${address}`, 'egress', endpoint(address), sources, 'TCP', number),
    );
}

/** Where a server is that has a name: connections to its port are there already. */
function connectedTo(remotePort: number, { netns }: ContactSources): IpAddress[] {
  using diag = SocketDiag.open({ netns });
  const found = diag.list({ protocol: 'tcp', states: ['established'], remotePort });
  return [...new Map(found.map(({ remote }) => [String(remote), remote])).values()];
}

function ssh(sources: ContactSources): Contact[] {
  using diag = SocketDiag.open({ netns: sources.netns });
  const sockets = diag.list({ protocol: 'tcp', states: ['established', 'listen'] });
  const own = sockets.filter(({ localPort }) => localPort === SSH_PORT);
  const connected = own.filter(({ state }) => state === 'established').map(({ remote }) => remote);
  if (own.length > 0 && connected.length === 0) {
    const somebody = contact('ssh', 'ingress', { address: SOMEBODY }, sources, 'TCP', SSH_PORT);
    return [{ ...somebody, orFrom: [SOMEBODY_ELSE] }];
  }
  const unique = [...new Map(connected.map((address) => [String(address), address])).values()];
  const endpoint = endpoints(sources);
  return unique
    .filter((address) => !isLoopback(address))
    .map((address) => contact(`ssh from ${address}`, 'ingress', endpoint(address), sources, 'TCP', SSH_PORT));
}

function peers(sources: ContactSources): Contact[] {
  const { tunnelPort, nodes, nodeName } = sources;
  if (tunnelPort === undefined) return [];
  return [...nodes].flatMap(([name, { addresses }]) =>
    name === nodeName
      ? []
      : addresses.flatMap((address) =>
          (['ingress', 'egress'] as const).map((direction) =>
            contact(
              `the tunnel ${direction === 'ingress' ? 'from' : 'to'} node ${name} (${address})`,
              direction,
              { address, node: name },
              sources,
              'UDP',
              tunnelPort,
            ),
          ),
        ),
  );
}

/** An end of a connection by its address: a node when one has it. */
function endpoints({ nodes }: ContactSources): (address: IpAddress) => Endpoint {
  const byAddress = nodesByAddress(nodes);
  return (address) => {
    const node = byAddress.get(String(address));
    return node === undefined ? { address } : { address, node };
  };
}

function isLoopback(address: IpAddress): boolean {
  return address.family === 4 ? String(address).startsWith('127.') : String(address) === '::1';
}
