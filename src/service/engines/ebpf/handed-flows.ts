/** The flows that the programs translate, read to be handed to netfilter. */
import { parseIp } from '../../../addr/index.ts';
import type { FlowEnd, TranslatedFlow } from '../../translated-flow.ts';
import type { FlowTable } from './flow-table.ts';
import { FLOW, PROTOCOL_NUMBER, portBackendSees, readAddress } from './layout.ts';
import type { NatTable } from './nat-table.ts';

/** enum lb_nat_flag. */
const NAT = { REPLIED: 1 << 0, FIN_CLIENT: 1 << 2, FIN_BACKEND: 1 << 3, RESET: 1 << 4 } as const;

/** What a pod that is its own backend sees as its client: lb_hairpin4 and lb_hairpin6 in bpf/lb_pod.bpf.c. */
export const HAIRPIN = { 4: '169.254.112.111', 6: '100::706f' } as const;

function end(address: Uint8Array, port: number): FlowEnd {
  return { address: parseIp(readAddress(address)), port };
}

/**
 * All flows that are not over. Those that another node answers for this one (direct return) are left out: netfilter
 * can't send a packet on with its addresses as they are.
 */
export function translatedFlows(flows: FlowTable, nat: NatTable): TranslatedFlow[] {
  return [...linkFlows(flows), ...natFlows(nat)];
}

function* linkFlows(flows: FlowTable): Generator<TranslatedFlow> {
  const over = FLOW.FIN_CLIENT | FLOW.FIN_BACKEND;
  for (const { flow } of flows.all()) {
    const { flags } = flow;
    if (flags & (FLOW.RESET | FLOW.DIRECT) || (flags & over) === over) continue;
    const client = end(flow.client, flow.client_port);
    const hairpin = flags & FLOW.HAIRPIN;
    const port = portBackendSees(flow);
    yield {
      protocol: PROTOCOL_NUMBER[flags & FLOW.UDP ? 'UDP' : 'TCP']!,
      client,
      vip: end(flow.vip, flow.vip_port),
      backend: end(flow.backend, flow.backend_port),
      source: hairpin
        ? { address: parseIp(HAIRPIN[client.address.family]), port }
        : port === client.port
          ? undefined
          : { address: client.address, port },
      replied: (flags & FLOW.REPLIED) !== 0 || hairpin !== 0,
    };
  }
}

function* natFlows(nat: NatTable): Generator<TranslatedFlow> {
  const over = NAT.FIN_CLIENT | NAT.FIN_BACKEND;
  for (const flow of nat.all()) {
    if (flow.flags & NAT.RESET || (flow.flags & over) === over) continue;
    yield {
      protocol: flow.protocol,
      client: end(flow.client, flow.client_port),
      vip: end(flow.vip, flow.vip_port),
      backend: end(flow.backend, flow.backend_port),
      source: end(flow.source, flow.nat_port),
      replied: (flow.flags & NAT.REPLIED) !== 0,
    };
  }
}
