/** What a running lab remembers of itself: lab.json in its state folder. */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { identify } from '../kernel/process/identity.ts';
import { type LabOptions, type LabPlan, labError, planLab } from './plan.ts';
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

/** True when this name has a lab, whole or in ruins. */
export function labExists(name: string): boolean {
  return existsSync(stateFile(name));
}

/** A running lab with its plan. Throws LAB_NOT_RUNNING. */
export function loadLab(name: string): { state: LabState; plan: LabPlan } {
  let text: string;
  try {
    text = readFileSync(stateFile(name), 'utf8');
  } catch (cause) {
    throw labError('LAB_NOT_RUNNING', { name }, cause);
  }
  const state = JSON.parse(text) as LabState;
  return { state, plan: planLab(state.options) };
}

/** Processes of the state that still run. */
export function running(state: LabState): LabProcess[] {
  return state.processes.filter(({ pid, startTicks }) => identify(pid)?.startTicks === startTicks);
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
