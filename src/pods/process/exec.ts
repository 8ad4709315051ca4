import type { Readable } from 'node:stream';
import { podsError } from '../../errors/index.ts';
import type { ExecOptions, ExecSession } from '../runner.ts';
import type { ExecResult } from '../types.ts';
import type { ProcessContainer } from './container.ts';
import { encodeRequest } from './request.ts';
import { startShim } from './shim.ts';

/** CRI's bound for what ExecSync answers. */
const OUTPUT_LIMIT_BYTES = 16 << 20;

/** Runs a command in a running container. Throws PODS_CONTAINER_STATE, PODS_SHIM_FAILED. */
export async function execIn(
  container: ProcessContainer,
  command: readonly string[],
  options: ExecOptions = {},
): Promise<ExecSession> {
  const { run, id } = container;
  if (!run || !container.isRunning)
    throw podsError('PODS_CONTAINER_STATE', {
      id,
      action: 'run a command in',
      state: container.status().state,
      want: 'running',
    });
  const request = encodeRequest({
    pid: run.process.pid,
    start: run.process.startTicks,
    cgroup: container.cgroup,
    ...container.processFields(),
    ...(options.tty && { tty: true }),
    arg: command,
  });
  const { channel } = await startShim(container.context.shimPath, 'exec', id, request, [
    options.stdin ? 'pipe' : 'ignore',
    'pipe',
    // A terminal has one output.
    options.tty ? 'ignore' : 'pipe',
  ]);
  const exited = channel.next().then((answer) => {
    channel.close();
    if (answer?.[0] !== 'exit') return { exitCode: 137, signal: 9 };
    return { exitCode: Number(answer[1]), signal: Number(answer[2]) };
  });
  return {
    stdin: channel.stdin,
    stdout: channel.stdout,
    stderr: channel.stderr,
    exited,
    resize: (rows, columns) => {
      if (!options.tty) return;
      const size = Buffer.alloc(4);
      size.writeUInt16LE(Math.min(rows, 0xffff), 0);
      size.writeUInt16LE(Math.min(columns, 0xffff), 2);
      channel.send(size);
    },
    kill: () => channel.close(),
  };
}

/** Runs a command to its end, and keeps what it wrote up to a limit. */
export async function execSyncIn(
  container: ProcessContainer,
  command: readonly string[],
  options: { timeoutMs?: number; limitBytes?: number } = {},
): Promise<ExecResult> {
  const session = await execIn(container, command);
  const limit = options.limitBytes ?? OUTPUT_LIMIT_BYTES;
  const stdout = collect(session.stdout, limit);
  const stderr = collect(session.stderr, limit);
  let timedOut = false;
  let timer: NodeJS.Timeout | undefined;
  if (options.timeoutMs !== undefined)
    timer = setTimeout(() => {
      timedOut = true;
      session.kill();
    }, options.timeoutMs);
  const { exitCode } = await session.exited;
  clearTimeout(timer);
  return { exitCode, stdout: await stdout, stderr: await stderr, timedOut };
}

/** Reads to the end, and throws away what is beyond the limit, so that the writer never blocks. */
async function collect(stream: Readable | null, limit: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const chunk of stream ?? []) {
    const part = (chunk as Buffer).subarray(0, limit - size);
    if (part.length > 0) parts.push(part);
    size += part.length;
  }
  return Buffer.concat(parts);
}
