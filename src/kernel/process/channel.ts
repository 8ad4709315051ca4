import { type ChildProcess, spawn } from 'node:child_process';
import type { Duplex, Readable, Writable } from 'node:stream';

/** Answers longer than this are not from our program. */
const ANSWER_MAX_BYTES = 65_536;

/**
 * Splits what comes back on the channel into answers: words ended by NUL, each answer ended by an empty word.
 * Throws RangeError when an answer has no end within 64 KiB.
 */
export class AnswerSplitter {
  #rest = Buffer.alloc(0);

  push(chunk: Uint8Array): string[][] {
    this.#rest = Buffer.concat([this.#rest, chunk]);
    const answers: string[][] = [];
    for (let end = this.#rest.indexOf('\0\0'); end >= 0; end = this.#rest.indexOf('\0\0')) {
      answers.push(this.#rest.toString('utf8', 0, end).split('\0'));
      this.#rest = this.#rest.subarray(end + 2);
    }
    if (this.#rest.length > ANSWER_MAX_BYTES)
      throw new RangeError(`answer without end in ${this.#rest.length} bytes`);
    return answers;
  }
}

/** A program of ours that was started with a request on descriptor 3 and answers there. */
export interface ChannelProcess {
  readonly pid: number;
  readonly stdin: Writable | null;
  readonly stdout: Readable | null;
  readonly stderr: Readable | null;
  /** The next answer; undefined when the channel closed without one. */
  next(): Promise<string[] | undefined>;
  /** Sends more to the program. */
  send(bytes: Uint8Array): void;
  /** Closes the channel; the program sees its end. */
  close(): void;
}

/** What its standard streams are: nothing, a pipe to us, or a descriptor to hand on. */
export type Stdio = 'ignore' | 'pipe' | number;

/**
 * Starts a program in a session of its own, with an empty environment and `/` as folder, writes the request on its
 * descriptor 3 (a socket pair) and reads answers from there: nothing of the request shows in argv. The program may
 * outlive this process. Rejects when it cannot be started.
 */
export async function startWithChannel(
  path: string,
  args: readonly string[],
  request: Uint8Array,
  stdio: readonly [Stdio, Stdio, Stdio] = ['ignore', 'ignore', 'ignore'],
): Promise<ChannelProcess> {
  const child = spawn(path, args, { stdio: [...stdio, 'pipe'], detached: true, cwd: '/', env: {} });
  const channel = child.stdio[3] as Duplex;
  const answers = queue<string[]>();
  const splitter = new AnswerSplitter();
  channel.on('data', (chunk: Buffer) => {
    try {
      for (const answer of splitter.push(chunk)) answers.put(answer);
    } catch (error) {
      channel.destroy(error as Error);
    }
  });
  channel.on('error', () => answers.end());
  channel.on('close', () => answers.end());
  await started(child);
  // Not end(): a half-closed channel would look to the program as if we had gone.
  channel.write(request);
  child.unref();
  return {
    pid: child.pid!,
    stdin: child.stdin,
    stdout: child.stdout,
    stderr: child.stderr,
    next: answers.take,
    send: (bytes) => {
      if (!channel.destroyed) channel.write(bytes);
    },
    close: () => channel.destroy(),
  };
}

function started(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', reject);
  });
}

/** Values in order; takers wait, and get undefined after the end. */
function queue<T>() {
  const values: T[] = [];
  const takers: ((value: T | undefined) => void)[] = [];
  let ended = false;
  return {
    put(value: T) {
      const taker = takers.shift();
      if (taker) taker(value);
      else values.push(value);
    },
    end() {
      ended = true;
      for (const taker of takers.splice(0)) taker(undefined);
    },
    take(): Promise<T | undefined> {
      if (values.length > 0 || ended) return Promise.resolve(values.shift());
      return new Promise((resolve) => takers.push(resolve));
    },
  };
}
