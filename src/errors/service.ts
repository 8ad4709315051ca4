import { entry, errorsOf } from './net-error.ts';

/** Failures of Service load balancing: planning, the eBPF engine, the controller. */
export const serviceCatalogue = {
  SERVICE_BAD_FIELD: entry(
    (c: { service: string; field: string; value: string; why: string }) =>
      `Cannot use ${c.field} of Service "${c.service}": "${c.value}" ${c.why}`,
    (c) => `Correct ${c.field} of Service "${c.service}"; its other frontends work meanwhile`,
  ),
  SERVICE_EXTERNAL_IPS_OFF: entry(
    (c: { service: string; addresses: string }) =>
      `Cannot serve externalIPs ${c.addresses} of Service "${c.service}": they are switched off on this node`,
    () =>
      'Start the agents with --external-ips if all who may write Services may claim any address (CVE-2020-8554); else take a LoadBalancer',
  ),
  SERVICE_FRONTEND_TAKEN: entry(
    (c: { service: string; frontend: string; owner: string }) =>
      `Cannot serve ${c.frontend} for Service "${c.service}": it belongs to Service "${c.owner}"`,
    (c) => `Give one of the two another address or port; "portolan service explain ${c.service}" shows both`,
  ),
  SERVICE_HOST_PORT_TAKEN: entry(
    (c: { owned: string; frontend: string; owner: string }) =>
      `Cannot serve hostPort ${c.frontend} of ${c.owned}: it belongs to ${c.owner}`,
    () => 'Give one of the two another port, or the pod another node',
  ),
  SERVICE_HOST_PORT_ADDRESS: entry(
    (c: { pod: string; hostIP: string; port: number; why: string }) =>
      `Cannot serve hostPort ${c.port} of pod "${c.pod}" at "${c.hostIP}": ${c.why}`,
    () => 'Name an address that the node has, or leave hostIP out for all of them',
  ),
  SERVICE_PROTOCOL_UNSUPPORTED: entry(
    (c: { service: string; protocol: string; engine: string }) =>
      `Cannot serve ${c.protocol} port of Service "${c.service}": engine "${c.engine}" carries TCP and UDP`,
    () => 'Use TCP or UDP, or reach the endpoints by their own addresses',
  ),
  SERVICE_MAP_FULL: entry(
    (c: { service: string; map: string; used: number; limit: number; wanted: number }) =>
      `Cannot program Service "${c.service}": map "${c.map}" holds ${c.used} of ${c.limit}, want ${c.wanted} more`,
    (c) => `Start the agent with a larger limit for "${c.map}"; other Services are not touched`,
  ),
  SERVICE_FLOWS_REFUSED: entry(
    (c: { service: string; store: string; used: number; limit: number }) =>
      `Cannot take all new connections of Service "${c.service}": no place for them in "${c.store}", which holds ${c.used} of ${c.limit}`,
    (c) =>
      c.store === 'lb_nat_flows'
        ? `Add endpoints to Service "${c.service}": a node has some 20,000 ports for clients of one; "portolan.dev/forwarding: dsr" and "externalTrafficPolicy: Local" need none`
        : 'A node holds as many flows as its memory allows; see "drop-flows-full" in "portolan status", and who sends so many',
  ),
  SERVICE_PROGRAM_FAILED: entry(
    (c: { service: string; step: string }) => `Cannot program Service "${c.service}": ${c.step} failed`,
    () =>
      'The kernel\'s answer is in brackets; the agent retries, "portolan service diff" shows what is missing',
  ),
  SERVICE_ENGINE_OPEN: entry(
    (c: { engine: string; step: string }) => `Cannot start Service engine "${c.engine}": ${c.step} failed`,
    () =>
      'Check that the agent runs as root, that bpffs and cgroup2 are mounted; the cause is in the error below it',
  ),
  SERVICE_LAYOUT_FOREIGN: entry(
    (c: { path: string; want: string; found: string }) =>
      `Cannot adopt pinned map "${c.path}": it has ${c.found}, want ${c.want}`,
    () =>
      'It was pinned by another version: end the agent and run "portolan cleanup", or choose another --bpffs',
  ),
  SERVICE_LINK_MISSING: entry(
    (c: { ifindex: number }) => `Cannot attach Service programs to link ${c.ifindex}: it does not exist`,
    () => 'The pod has probably gone; nothing to do',
  ),
};

export const serviceError = errorsOf(serviceCatalogue);
