/** A flood of ICMP echoes while something is done to the path, with the kernel's own count of the answers. */
import { execFileSync, spawn } from 'node:child_process';
import { until } from './until.ts';

/** What one namespace sent and got of ICMP echoes (RFC 792), counted by its kernel. */
export interface Echoes {
  readonly sent: number;
  readonly answered: number;
}

function echoes(netns: string): Echoes {
  const table = execFileSync('ip', ['netns', 'exec', netns, 'cat', '/proc/net/snmp'], { encoding: 'utf8' });
  const [names, values] = table
    .split('\n')
    .filter((line) => line.startsWith('Icmp:'))
    .map((line) => line.trim().split(/\s+/));
  const count = (name: string) => Number(values![names!.indexOf(name)]);
  return { sent: count('OutEchos'), answered: count('InEchoReps') };
}

/**
 * Sends `count` echoes from `netns` to `address`, each as soon as the last is answered, and calls `meanwhile`
 * again and again until all are sent; tells what the kernel counted.
 *
 * ping's own count is no witness: after the last echo a flood waits for twice the longest round trip that it has
 * seen, a fifth of a millisecond here, and calls what a busy machine answers later lost.
 */
export async function pingFlood(
  netns: string,
  address: string,
  count: number,
  meanwhile: () => void,
): Promise<Echoes> {
  const before = echoes(netns);
  const since = (): Echoes => {
    const { sent, answered } = echoes(netns);
    return { sent: sent - before.sent, answered: answered - before.answered };
  };
  const pinging = spawn('ip', ['netns', 'exec', netns, 'ping', '-f', '-q', '-c', String(count), address], {
    stdio: 'ignore',
  });
  const done = new Promise((resolve) => pinging.once('close', resolve));
  while (pinging.exitCode === null && pinging.signalCode === null) {
    meanwhile();
    await new Promise((resolve) => setImmediate(resolve));
  }
  await done;
  await until(() => since().answered >= count, { seconds: 2, everyMs: 20 }).catch(() => {});
  return since();
}
