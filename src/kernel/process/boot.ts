import { readFileSync } from 'node:fs';

/** Names one boot of this machine: pids and start times of another boot mean nothing. random(4). */
export function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}
