/**
 * How a long-running command lives and ends:
 *
 *   open ──► works ──► SIGINT, SIGTERM or its own end ──► close, 2 s at most ──► exit 0
 *              │                └── a second signal ───► exit at once, 128 + its number
 *              └── an error that nobody caught ────────► logged, exit 1
 *
 * Nothing here has to be tidy to be correct: what a command made stays in the kernel and in the store, and the next
 * start finds it. So an unexpected error ends the process, whose state may be half changed, and the service manager
 * starts it again.
 */
import { constants } from 'node:os';
import type { CommandLog } from './log.ts';

/** What runs until it is closed, or until it is done by itself. */
export interface Running {
  close(): Promise<void> | void;
  done?: Promise<void>;
}

/** What is used of the process; tests have their own. */
export interface Host {
  on(event: string, listener: (...args: never[]) => void): unknown;
  exit(code: number): void;
}

const CLOSE_MS = 2000;
const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

/** Runs a command to its end, and the process with it. Rejects when it can't be opened, or fails by itself. */
export async function live(
  log: CommandLog,
  open: () => Promise<Running>,
  host: Host = process,
  closeMs = CLOSE_MS,
): Promise<void> {
  for (const event of ['uncaughtException', 'unhandledRejection'])
    host.on(event, (error: unknown) => {
      log.error(
        { error: error instanceof Error ? error.stack : String(error) },
        'ends by an unexpected error',
      );
      host.exit(1);
    });
  const { promise: stopped, resolve: stop } = Promise.withResolvers<void>();
  let signals = 0;
  for (const name of SIGNALS)
    host.on(name, () => {
      stop();
      // While it is still being opened there is nothing to close: ends like a command that knows no signals.
      if (++signals > 1 || !running) host.exit(128 + constants.signals[name]);
    });
  let running: Running | undefined;
  running = await open();
  await Promise.race([stopped, running.done ?? stopped]);
  const timer = setTimeout(() => {
    log.warn({ seconds: closeMs / 1000 }, 'ends although not everything is closed');
    host.exit(0);
  }, closeMs);
  try {
    await running.close();
  } finally {
    clearTimeout(timer);
  }
  host.exit(0);
}
