/** The command of `pinger.py`, and what it said. */
import { join } from 'node:path';

export interface Pinged {
  readonly sent: number;
  readonly lost: number;
}

/** Pings until SIGINT. */
export function pingerCommand(address: string, everyMs: number): string[] {
  return ['python3', join(import.meta.dirname, 'pinger.py'), address, String(everyMs / 1000)];
}

/** Undefined where it ended before it could count. */
export function pinged(output: string): Pinged | undefined {
  const told = /\{.*\}/.exec(output)?.[0];
  return told === undefined ? undefined : (JSON.parse(told) as Pinged);
}
