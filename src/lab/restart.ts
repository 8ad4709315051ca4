/** `lab restart`: ends one process of a lab, politely or not, and starts it again as it was. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { askAgent } from '../agent/socket.ts';
import type { AgentStatus } from '../agent/status.ts';
import { isAlive, signal } from '../kernel/process/identity.ts';
import { type LabPlan, labError } from './plan.ts';
import { endProcesses, type LabProcess, startDetached, waitFor } from './processes.ts';
import { kubeconfigs, type LabState, loadLab, saveLab } from './state.ts';
import { giveNodeKubeconfig, isServing } from './up.ts';

/** What can be restarted: a node's agent by the node's name, and what there is one of. */
export function processOf(plan: LabPlan, state: LabState, what: string): LabProcess {
  const title = { apiserver: 'API server', controllers: 'controllers' }[what] ?? `agent of ${what}`;
  const found = state.processes.find((one) => one.title === title);
  if (!found)
    throw labError('LAB_NO_SUCH_PROCESS', {
      what,
      known: ['apiserver', 'controllers', ...plan.nodes.map(({ name }) => name)],
    });
  return found;
}

/** Ends a process of a lab; `kill` leaves it no moment to tidy up. Throws LAB_NOT_RUNNING, LAB_NO_SUCH_PROCESS. */
export async function stopProcess(name: string, what: string, kill: boolean): Promise<LabProcess> {
  const { state, plan } = loadLab(name);
  const process = processOf(plan, state, what);
  if (!kill) await endProcesses([process]);
  else {
    signal(process, 'SIGKILL');
    const end = Date.now() + 2000;
    while (isAlive(process) && Date.now() < end) await new Promise((resolve) => setTimeout(resolve, 2));
  }
  return process;
}

/** Starts it again with the command it had. One that runs is left alone. */
export function respawn(name: string, what: string): LabProcess {
  const { state, plan } = loadLab(name);
  const before = processOf(plan, state, what);
  if (isAlive(before)) return before;
  const { title, log, command, netnsPath } = before;
  const process = startDetached({ title, log, command, ...(netnsPath && { netnsPath }) });
  // Read again: another restart may have been saved meanwhile.
  const now = loadLab(name).state;
  saveLab({ ...now, processes: now.processes.map((one) => (one.title === title ? process : one)) });
  return process;
}

/** Starts it again and waits until it serves. Throws LAB_PROCESS_ENDED, LAB_TIMEOUT. */
export async function startAgain(name: string, what: string, seconds = 30): Promise<LabProcess> {
  const { plan } = loadLab(name);
  // `portolan cleanup` on a node takes its whole state folder, with the credentials that only the lab can give.
  const isNode = plan.nodes.some((node) => node.name === what);
  if (isNode && !existsSync(kubeconfigs(plan).node(what))) await giveNodeKubeconfig(plan, what);
  const process = respawn(name, what);
  await waitFor(process, () => serves(plan, what), { what: process.title, seconds });
  return process;
}

async function serves(plan: LabPlan, what: string): Promise<boolean> {
  if (what === 'controllers') return true;
  if (what === 'apiserver') return isServing(join(plan.apiserver.dataDir, 'admin.kubeconfig'));
  const node = plan.nodes.find(({ name }) => name === what);
  try {
    const status = await askAgent<AgentStatus>(join(node!.stateDir, 'agent.sock'), 'GET', '/status');
    return (status.services.synced && status.policies.synced) || !status.api.connected;
  } catch {
    return false;
  }
}
