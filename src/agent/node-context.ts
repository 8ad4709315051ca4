/** What planning has to know of this node, from its addresses and the agent's options. Pure. */
import { type Cidr, type IpAddress, parseCidr } from '../addr/index.ts';
import type { NodeContext } from '../service/index.ts';

/** Which addresses of the node serve nodePorts: networks, or `primary` for those by which other nodes reach it. */
export type NodePortAddresses = readonly (Cidr | 'primary')[];

/** All primary addresses, and the loopback ones for the node's own processes. */
export const DEFAULT_NODE_PORT_ADDRESSES: NodePortAddresses = [
  'primary',
  parseCidr('127.0.0.1/32'),
  parseCidr('::1/128'),
];

export interface NodeContextInput {
  readonly nodeName: string;
  readonly zone: string | undefined;
  /** By which other nodes reach this one. */
  readonly addresses: readonly IpAddress[];
  /** All addresses that the node has on any link. */
  readonly local?: readonly IpAddress[];
  readonly nodePortAddresses?: NodePortAddresses;
  readonly externalIPs?: boolean;
  readonly masqueradeAll?: boolean;
  readonly proxyName?: string | undefined;
  readonly dsrDispatch?: NodeContext['dsrDispatch'];
}

export function nodeContext(input: NodeContextInput): NodeContext {
  return {
    nodeName: input.nodeName,
    zone: input.zone,
    nodePortAddresses: chosen(input),
    localAddresses: [...new Set([...localOf(input), loopback[4], loopback[6]].map(String))],
    externalIPs: input.externalIPs ?? false,
    masqueradeAll: input.masqueradeAll ?? false,
    proxyName: input.proxyName,
    dsrDispatch: input.dsrDispatch ?? 'ipip',
  };
}

const loopback = { 4: parseCidr('127.0.0.1/32').address, 6: parseCidr('::1/128').address } as const;
/** Only together with a link do these name anybody: each pod link has them. */
const linkLocal = [parseCidr('169.254.0.0/16'), parseCidr('fe80::/10')];

function localOf({ addresses, local = [] }: NodeContextInput): IpAddress[] {
  return [...addresses, ...local].filter((address) => !linkLocal.some((net) => net.contains(address)));
}

/** In the order of the options, each once, so that the same node always plans the same. */
function chosen({ nodePortAddresses = DEFAULT_NODE_PORT_ADDRESSES, ...input }: NodeContextInput): string[] {
  const local = localOf(input);
  const found: IpAddress[] = [];
  for (const one of nodePortAddresses)
    if (one === 'primary') found.push(...input.addresses);
    else {
      found.push(...local.filter((address) => one.contains(address)));
      // 127.0.0.0/8 is one host: its first address stands for it.
      if (one.contains(loopback[one.family])) found.push(loopback[one.family]);
    }
  return [...new Set(found.map(String))];
}
