import { join } from 'node:path';
import { listCgroups, removeCgroup } from '../../kernel/cgroup/index.ts';
import type { ProcessIdentity } from '../../kernel/process/identity.ts';
import { Pidfd } from '../../kernel/process/pidfd.ts';
import { ProcessContainer } from './container.ts';
import type { RunnerContext } from './context.ts';
import { isId, parseContainerRun, parseSandboxPid, readIfThere } from './records.ts';
import { ProcessSandbox } from './sandbox.ts';

export interface Adopted {
  sandboxes: ProcessSandbox[];
  containers: ProcessContainer[];
}

/**
 * Finds what an earlier life of this process left. Whole records are taken over with the processes behind them (a
 * pid counts only with the same start time, and only within the same boot); half-made sandboxes, broken records,
 * containers without sandbox and unknown cgroups are taken away.
 */
export async function adopt(context: RunnerContext): Promise<Adopted> {
  const sandboxes: ProcessSandbox[] = [];
  for (const id of context.records.ids('sandboxes')) {
    const sandbox = await adoptSandbox(context, id);
    if (sandbox) sandboxes.push(sandbox);
  }
  const known = new Set(sandboxes.map((sandbox) => sandbox.id));
  const containers: ProcessContainer[] = [];
  for (const id of context.records.ids('containers')) {
    const container = await adoptContainer(context, id, known);
    if (container) containers.push(container);
  }
  for (const name of context.cgroupRoot === undefined ? [] : listCgroups(context.cgroupRoot)) {
    if (!isId(name) || known.has(name)) continue;
    context.log(`processes of unknown sandbox ${name} are killed`);
    await removeCgroup(join(context.cgroupRoot!, name));
  }
  return { sandboxes, containers };
}

async function adoptSandbox(context: RunnerContext, id: string): Promise<ProcessSandbox | undefined> {
  const { records } = context;
  let sandbox: ProcessSandbox;
  try {
    sandbox = new ProcessSandbox(context, records.loadSandbox(id));
  } catch (error) {
    context.log(`sandbox ${id} is removed`, error);
    const process = parseSandboxPid(readIfThere(join(records.sandboxFolder(id), 'pid')) ?? '');
    killNow(process);
    records.remove(records.sandboxFolder(id));
    return undefined;
  }
  // After a boot the same pid and start time may be somebody else's.
  if (sandbox.record.bootId === context.bootId) sandbox.readProcess();
  if (sandbox.record.phase !== 'creating') return sandbox;
  await sandbox.undo().catch((error) => context.log(`sandbox ${id} was not taken back wholly`, error));
  return undefined;
}

async function adoptContainer(
  context: RunnerContext,
  id: string,
  sandboxes: ReadonlySet<string>,
): Promise<ProcessContainer | undefined> {
  const { records } = context;
  try {
    const container = new ProcessContainer(context, records.loadContainer(id));
    const started = container.readRun();
    if (!sandboxes.has(container.record.sandboxId)) {
      context.log(`container ${id} of unknown sandbox ${container.record.sandboxId} is removed`);
      await container.remove();
      return undefined;
    }
    if (started && container.isRunning && container.record.bootId !== context.bootId)
      container.declareLost('The machine was restarted');
    return container;
  } catch (error) {
    context.log(`container ${id} is removed`, error);
    const run = parseContainerRun(readIfThere(join(records.containerFolder(id), 'pid')) ?? '');
    killNow(run?.process);
    killNow(run?.monitor);
    records.remove(records.containerFolder(id));
    return undefined;
  }
}

function killNow(target: ProcessIdentity | undefined): void {
  const opened = target && Pidfd.open(target);
  opened?.signal('SIGKILL');
  opened?.close();
}
