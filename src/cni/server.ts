import { chmodSync, renameSync, rmSync, statSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { cniError } from '../errors/cni.ts';
import { type CniAnswer, type CniCall, decodeCall, encodeAnswer } from './protocol.ts';
import { failure } from './verdict.ts';

export interface CniServerOptions {
  /** Path of the unix socket, at most 107 bytes. */
  readonly socketPath: string;
  readonly answer: (call: CniCall) => Promise<CniAnswer>;
  /** Told after each call, for logs and metrics; the time counts from the connection on. */
  readonly onCall?: (call: {
    command: string;
    containerId: string;
    status: number;
    durationMs: number;
  }) => void;
  /** Longest call in bytes, default 1 MiB. */
  readonly limitBytes?: number;
  /** Wait for the end of a call, default 10,000. */
  readonly inputTimeoutMs?: number;
  /** Wait for an answer before the runtime is told to try again, default 60,000; the work goes on. */
  readonly answerTimeoutMs?: number;
}

/** Calls waiting to be accepted; a burst of pod starts must not see ECONNREFUSED. */
const BACKLOG = 1024;

/**
 * Serves the plugin binary on a unix socket that only root can open. One connection is one call:
 * read to the end, answer, close.
 */
export class CniServer {
  readonly #options: Required<Omit<CniServerOptions, 'onCall'>> & Pick<CniServerOptions, 'onCall'>;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #answering = new Set<Promise<void>>();
  #inode: bigint | undefined;

  constructor(options: CniServerOptions) {
    this.#options = { limitBytes: 1 << 20, inputTimeoutMs: 10_000, answerTimeoutMs: 60_000, ...options };
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#serve(socket));
  }

  /**
   * Starts to listen. The socket is bound under another name and renamed over the path: an agent that restarts
   * leaves no moment without a socket. Throws CNI_SOCKET_IN_USE, CNI_SOCKET_FAILED.
   */
  async listen(): Promise<void> {
    const path = this.#options.socketPath;
    if (await isAnswered(path)) throw cniError('CNI_SOCKET_IN_USE', { path });
    const temporary = `${path}.${process.pid}`;
    const fail = (why: string, cause?: unknown) => cniError('CNI_SOCKET_FAILED', { path, why }, cause);
    if (Buffer.byteLength(path) > 107) throw fail('it is longer than 107 bytes');
    if (Buffer.byteLength(temporary) > 107) throw fail('it is too long: the process id must fit behind it');
    rmSync(temporary, { force: true });
    // bind(2) makes the file with the umask's mode, inside this call: nobody can connect before chmod.
    const umask = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        this.#server.once('error', reject);
        this.#server.listen({ path: temporary, backlog: BACKLOG }, () => {
          this.#server.removeListener('error', reject);
          resolve();
        });
        process.umask(umask);
      });
      chmodSync(temporary, 0o600);
      this.#inode = statSync(temporary, { bigint: true }).ino;
      renameSync(temporary, path);
    } catch (error) {
      this.#server.close();
      throw fail((error as Error).message, error);
    } finally {
      process.umask(umask);
    }
  }

  /** Stops listening, lets calls at work finish, and removes the socket if it is still ours. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    await Promise.all(this.#answering);
    for (const socket of this.#sockets) socket.destroy();
    await closed;
    const path = this.#options.socketPath;
    try {
      if (statSync(path, { bigint: true }).ino === this.#inode) rmSync(path, { force: true });
    } catch {
      // Already gone.
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #serve(socket: Socket): void {
    const { limitBytes, inputTimeoutMs } = this.#options;
    const start = performance.now();
    const chunks: Buffer[] = [];
    let size = 0;
    let isAnswered = false;
    const end = (answer: CniAnswer) => {
      if (isAnswered) return;
      isAnswered = true;
      clearTimeout(timer);
      socket.end(encodeAnswer(answer));
    };
    const timer = setTimeout(
      () => end(failure(cniError('CNI_INPUT_TIMEOUT', { timeoutMs: inputTimeoutMs }))),
      inputTimeoutMs,
    );
    this.#sockets.add(socket);
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      clearTimeout(timer);
      this.#sockets.delete(socket);
    });
    socket.on('data', (chunk: Buffer) => {
      if (isAnswered) return; // drained, so that the sender does not block before it reads the answer
      size += chunk.length;
      if (size > limitBytes) {
        chunks.length = 0;
        end(failure(cniError('CNI_INPUT_TOO_LARGE', { limitBytes })));
      } else chunks.push(chunk);
    });
    socket.on('end', () => {
      clearTimeout(timer);
      if (isAnswered) return;
      const work = this.#answer(Buffer.concat(chunks), start).then(end);
      this.#answering.add(work);
      void work.finally(() => this.#answering.delete(work));
    });
  }

  async #answer(frame: Uint8Array, start: number): Promise<CniAnswer> {
    let call: CniCall;
    try {
      call = decodeCall(frame);
    } catch (error) {
      return failure(error);
    }
    const command = call.env.get('CNI_COMMAND') ?? '';
    const timeoutMs = this.#options.answerTimeoutMs;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<CniAnswer>((resolve) => {
      timer = setTimeout(() => resolve(failure(cniError('CNI_TIMEOUT', { command, timeoutMs }))), timeoutMs);
    });
    let answer: CniAnswer;
    try {
      answer = await Promise.race([this.#options.answer(call), late]);
    } catch (error) {
      answer = failure(error);
    }
    clearTimeout(timer);
    this.#options.onCall?.({
      command,
      containerId: call.env.get('CNI_CONTAINERID') ?? '',
      status: answer.status,
      durationMs: performance.now() - start,
    });
    return answer;
  }
}

/** True when somebody accepts connections there. */
function isAnswered(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
