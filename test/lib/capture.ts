/** tcpdump as a witness of what is on a link. */
import { spawn } from 'node:child_process';

export interface Capture {
  /** Ends it; one line a packet, as `tcpdump -n` prints it. */
  stop(): Promise<string[]>;
}

const SILENCE_MS = 200;
/** Timestamps of packets that come in at two processors are in order but for less than this. */
const ORDER_MS = 10;
const DAY_MS = 86_400_000;

/** How long after a moment the last packet of a text was on the link; negative when that was before, or there is none. */
function msAfter(moment: Date, text: string): number {
  const times = [...text.slice(-8192).matchAll(/^(\d\d):(\d\d):(\d\d\.\d{6}) /gm)].at(-1);
  if (!times) return Number.NEGATIVE_INFINITY;
  const [, hours, minutes, seconds] = times.map(Number);
  const last = new Date(moment).setHours(hours!, minutes, 0, 0) + seconds! * 1000;
  // It prints the time of the day only: midnight may be in between.
  const after = last - moment.getTime();
  return Math.abs(after) > DAY_MS / 2 ? after - Math.sign(after) * DAY_MS : after;
}

/** Starts tcpdump on a link of a namespace and waits until it listens. `options` such as `-vv` show more. */
export async function capture(
  netns: string,
  link: string,
  filter: string,
  options: readonly string[] = [],
): Promise<Capture> {
  const child = spawn(
    'ip',
    ['netns', 'exec', netns, 'tcpdump', '-n', '-l', '--immediate-mode', '-U', '-i', link, ...options, filter],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (more: string) => {
    text += more;
  });
  const ended = new Promise((resolve) => child.once('close', resolve));
  await new Promise<void>((resolve, reject) => {
    child.stderr.setEncoding('utf8').on('data', (more: string) => {
      if (more.includes('listening on')) resolve();
    });
    child.once('close', () => reject(new Error(`tcpdump on "${link}" ended`)));
  });
  return {
    async stop() {
      // What is on its way to tcpdump, which may have to wait for a processor: until it is silent for a moment, or shows
      // what came after this call where somebody goes on sending.
      const asked = new Date();
      for (let before = -1, silent = 0; silent < 4; silent = text.length === before ? silent + 1 : 0) {
        if (msAfter(asked, text) > ORDER_MS) break;
        before = text.length;
        await new Promise((resolve) => setTimeout(resolve, SILENCE_MS / 4));
      }
      child.kill('SIGINT');
      await ended;
      return text.split('\n').filter(Boolean);
    },
  };
}
