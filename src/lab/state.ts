/** What a running lab remembers of itself: lab.json in its state folder. */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { isAlive } from '../kernel/process/identity.ts';
import { checkLabName, type LabOptions, type LabPlan, labError, planLab } from './plan.ts';
import type { LabProcess } from './processes.ts';

export interface LabState {
  options: LabOptions;
  processes: LabProcess[];
}

function stateFile(name: string): string {
  return join('/run', name, 'lab.json');
}

/** Writes the state whole or not at all. */
export function saveLab(state: LabState): void {
  const file = stateFile(state.options.name);
  mkdirSync(join('/run', state.options.name), { recursive: true, mode: 0o700 });
  const temporary = `${file}.${process.pid}`;
  writeFileSync(temporary, `${JSON.stringify(state, null, 2)}\n`, { mode: 0o600 });
  renameSync(temporary, file);
}

/** Kept in the state folder while a command starts or ends the lab. */
export const LOCK_NAME = 'lab.lock';

/**
 * Refuses names whose folder below /run belongs to something else, such as "systemd" or a true agent's "portolan":
 * a lab's folder is deleted whole. Throws LAB_BAD_OPTION, LAB_NAME_TAKEN.
 */
export function assertOwnName(name: string): void {
  checkLabName(name);
  const path = join('/run', name);
  const there = lstatSync(path, { throwIfNoEntry: false });
  if (!there || (there.isDirectory() && isLabFolder(readdirSync(path)))) return;
  throw labError('LAB_NAME_TAKEN', { name, path });
}

/** By the names in it: a lab's state, or nothing yet. */
export function isLabFolder(entries: readonly string[]): boolean {
  return entries.includes('lab.json') || entries.every((entry) => entry === LOCK_NAME);
}

/** True when this name has a lab, whole or in ruins. */
export function labExists(name: string): boolean {
  return existsSync(stateFile(name));
}

/** A running lab with its plan. Throws LAB_BAD_OPTION, LAB_NOT_RUNNING, LAB_NEEDS_ROOT, LAB_STATE_UNREADABLE. */
export function loadLab(name: string): { state: LabState; plan: LabPlan } {
  checkLabName(name);
  let text: string;
  try {
    text = readFileSync(stateFile(name), 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'EACCES')
      throw labError('LAB_NEEDS_ROOT', { what: 'lab commands' }, cause);
    throw labError('LAB_NOT_RUNNING', { name }, cause);
  }
  try {
    const state = JSON.parse(text) as LabState;
    if (state.options.name !== name || !Array.isArray(state.processes)) throw new Error('of another lab');
    return { state, plan: planLab(state.options) };
  } catch (cause) {
    throw labError('LAB_STATE_UNREADABLE', { name, path: stateFile(name) }, cause);
  }
}

/** Processes of the state that still run. */
export function running(state: LabState): LabProcess[] {
  return state.processes.filter(isAlive);
}

/** Kubeconfigs of a lab. */
export function kubeconfigs(plan: LabPlan): {
  admin: string;
  controller: string;
  node: (name: string) => string;
} {
  return {
    admin: join(plan.apiserver.dataDir, 'admin.kubeconfig'),
    controller: join(plan.stateDir, 'controller.kubeconfig'),
    node: (name) => join(plan.stateDir, name, 'node.kubeconfig'),
  };
}
