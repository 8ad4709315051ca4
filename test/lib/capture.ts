/** tcpdump as a witness of what is on a link. */
import { spawn } from 'node:child_process';

export interface Capture {
  /** Ends it; one line a packet, as `tcpdump -n` prints it. */
  stop(): Promise<string[]>;
}

const SILENCE_MS = 200;

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
      // What is on its way to tcpdump, which may have to wait for a processor: until it is silent for a moment.
      for (let before = -1, silent = 0; silent < 4; silent = text.length === before ? silent + 1 : 0) {
        before = text.length;
        await new Promise((resolve) => setTimeout(resolve, SILENCE_MS / 4));
      }
      child.kill('SIGINT');
      await ended;
      return text.split('\n').filter(Boolean);
    },
  };
}
