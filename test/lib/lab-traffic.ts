/** Traffic that goes on inside a lab while something is broken, and counts what was lost. */
import type { ChildProcess } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Lab } from './lab.ts';
import { pinged, pingerCommand } from './pinger.ts';

export interface Losses {
  name: string;
  tried: number;
  /** What went wrong, by how often. */
  failed: Record<string, number>;
}

/** One stream of pings or connects; `stop` ends it and counts. */
export interface Stream {
  stop(): Promise<Losses>;
}

function output(child: ChildProcess): { text: () => string; ended: Promise<void> } {
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (part: Buffer) => (text += part));
  child.stdin?.on('error', () => {});
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  return { text: () => text, ended };
}

/** Pings every few milliseconds. */
export function pinging(
  lab: Lab,
  name: string,
  where: { netns: string; cgroup: string },
  address: string,
  everyMs = 5,
): Stream {
  const child = lab.start(where.netns, where.cgroup, pingerCommand(address, everyMs));
  const { text, ended } = output(child);
  return {
    async stop() {
      child.kill('SIGINT');
      await ended;
      const told = pinged(text());
      if (!told) return { name, tried: 0, failed: { [text().trim()]: 1 } };
      return { name, tried: told.sent, failed: told.lost > 0 ? { lost: told.lost } : {} };
    },
  };
}

const CONNECTOR = `
  const net = require('node:net');
  const [host, port, everyMs] = process.argv.slice(1);
  let tried = 0, open = 0, slow = 0, over = false;
  const failed = {};
  const finish = () => { if (over && open === 0) { console.log(JSON.stringify({ tried, failed })); process.exit(); } };
  const once = () => {
    tried++; open++;
    let done = false;
    const socket = net.connect({ host, port: Number(port) });
    const end = (why) => {
      if (done) return;
      done = true; open--;
      if (why) failed[why] = (failed[why] ?? 0) + 1;
      socket.destroy();
      finish();
    };
    socket.setTimeout(5000, () => end('ETIMEDOUT'));
    socket.on('connect', () => end());
    socket.on('error', (error) => end(error.code));
  };
  const timer = setInterval(once, Number(everyMs));
  process.on('SIGTERM', () => { over = true; clearInterval(timer); finish(); });
`;

/** Opens a TCP connection every few milliseconds and closes it. */
export function connecting(
  lab: Lab,
  name: string,
  where: { netns: string; cgroup: string },
  address: string,
  port: number,
  everyMs = 10,
): Stream {
  const child = lab.start(where.netns, where.cgroup, [
    ...[process.execPath, '-e', CONNECTOR, address, String(port), String(everyMs)],
  ]);
  const { text, ended } = output(child);
  return {
    async stop() {
      child.kill('SIGTERM');
      await Promise.race([ended, sleep(8000).then(() => child.kill('SIGKILL'))]);
      try {
        return { name, ...(JSON.parse(text()) as Omit<Losses, 'name'>) };
      } catch {
        return { name, tried: 0, failed: { [text().trim() || 'it said nothing']: 1 } };
      }
    },
  };
}

/** Names of streams with their failures, empty when nothing was lost. */
export function lost(all: readonly Losses[]): string[] {
  return all
    .filter(({ failed, tried }) => tried === 0 || Object.keys(failed).length > 0)
    .map(({ name, tried, failed }) => `${name}: ${JSON.stringify(failed)} of ${tried}`);
}
