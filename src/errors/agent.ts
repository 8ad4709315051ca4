import { entry, errorsOf } from './net-error.ts';

export const agentCatalogue = {
  AGENT_NOT_RUNNING: entry(
    (c: { socket: string; why: string }) => `Cannot ask the agent at "${c.socket}": ${c.why}`,
    () =>
      `Start it with "portolan agent", name its folder with --state-dir, or for a lab run the command by "portolan lab exec NODE -- portolan ..."`,
  ),
  AGENT_RUNNING: entry(
    (c: { stateDir: string; pid: number }) =>
      `Cannot start an agent on "${c.stateDir}": one runs there as process ${c.pid}`,
    () => `End that one first, or choose another --state-dir`,
  ),
  AGENT_REFUSED: entry(
    (c: { path: string; status: number; message: string }) => `The agent refused ${c.path}: ${c.message}`,
    () => `Its log says more`,
  ),
  AGENT_NO_SUCH_SERVICE: entry(
    (c: { service: string; near?: string }) => `Cannot find Service "${c.service}"`,
    (c) =>
      `${c.near === undefined ? '' : `Did you mean "${c.near}"? `}"portolan service list" prints those that this node knows; name one as NAMESPACE/NAME`,
  ),
  AGENT_NO_ROUTE: entry(
    (c: { family: string }) =>
      `Cannot find this node's ${c.family} address: no default route and no --node-ip`,
    () => `Name the address by which other nodes reach this one with --node-ip`,
  ),
  AGENT_BAD_OPTION: entry(
    (c: { option: string; value: string; want: string; command?: string }) =>
      `Cannot use --${c.option} ${c.value}: want ${c.want}`,
    (c) => `See "portolan ${c.command ?? 'agent'} --help"`,
  ),
  AGENT_LISTEN_FAILED: entry(
    (c: { what: string; address: string }) => `Cannot serve ${c.what} at ${c.address}`,
    (c) => `The reason is in brackets; choose another address by --${c.what}-listen, or leave it out`,
  ),
  AGENT_FOREIGN_FOLDER: entry(
    (c: { option: string; path: string; why: string }) =>
      `Cannot remove --${c.option} "${c.path}": it is no agent's, ${c.why}`,
    (c) => `Name the folder that the agent was started with by --${c.option}; nothing was removed`,
  ),
  AGENT_CIDR_OVERLAP: entry(
    (c: { first: string; second: string; what: string }) =>
      `Cannot use ${c.first} and ${c.second} as ${c.what}: they overlap`,
    () => `Choose ranges that have no address in common, also with the network that the nodes are in`,
  ),
};

export const agentError = errorsOf(agentCatalogue);
