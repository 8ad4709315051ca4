import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { FAMILIES } from '../addr/index.ts';
import type { OverlayConfig } from './types.ts';

/**
 * flannel's file for CNI plugins and Docker scripts. A subnet is written as its first address for a pod gateway:
 *
 *     FLANNEL_NETWORK=10.244.0.0/16
 *     FLANNEL_SUBNET=10.244.1.1/24
 *     FLANNEL_MTU=1450
 *     FLANNEL_IPMASQ=true
 */
export function subnetEnv(config: OverlayConfig, mtuBytes: number): string {
  const lines: string[] = [];
  for (const family of FAMILIES) {
    const subnet = config.podCidrs.find((cidr) => cidr.family === family);
    const network = config.clusterCidrs.filter((cidr) => cidr.family === family);
    if (!subnet) continue;
    const name = family === 4 ? '' : 'IPV6_';
    if (network.length > 0) lines.push(`FLANNEL_${name}NETWORK=${network.join(',')}`);
    lines.push(
      `FLANNEL_${name}SUBNET=${subnet.size > 1n ? subnet.host(1) : subnet.address}/${subnet.prefixLength}`,
    );
  }
  lines.push(`FLANNEL_MTU=${mtuBytes}`, `FLANNEL_IPMASQ=${config.masquerade ?? true}`);
  return `${lines.join('\n')}\n`;
}

/** Writes a small file so that readers see the old or the new text, never a part; true if it had to. */
export function writeAtomically(path: string, text: string): boolean {
  try {
    if (readFileSync(path, 'utf8') === text) return false;
  } catch {
    // Not there yet, or unreadable: it is written anew.
  }
  mkdirSync(dirname(path), { recursive: true });
  const draft = `${path}.${process.pid}.tmp`;
  try {
    writeFileSync(draft, text, { mode: 0o644 });
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    throw error;
  }
  return true;
}
