/** The admin's kubeconfig as commands on a node need it: the machine's loopback address leads nowhere from there. */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { LabPlan } from './plan.ts';
import { kubeconfigs } from './state.ts';

/** Writes it anew, because the server's credentials may be others now, and returns its path. */
export function nodeSideAdmin(plan: LabPlan): string {
  const path = join(plan.stateDir, 'admin-on-nodes.kubeconfig');
  const { url, underlayUrl } = plan.apiserver;
  const draft = `${path}.${process.pid}`;
  writeFileSync(draft, readFileSync(kubeconfigs(plan).admin, 'utf8').replaceAll(url, underlayUrl), {
    mode: 0o600,
  });
  renameSync(draft, path);
  return path;
}
