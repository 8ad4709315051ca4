import { podsError } from '../../errors/index.ts';
import { type ChannelProcess, type Stdio, startWithChannel } from '../../kernel/process/channel.ts';
import { errnoName } from '../../kernel/syscall/index.ts';

/** The three roles of native/pod-shim.static.c. */
export type ShimRole = 'sandbox' | 'container' | 'exec';

/** A shim that has answered "ok". */
export interface RunningShim {
  channel: ChannelProcess;
  /** The process it started, as the host numbers it. */
  pid: number;
}

/**
 * Starts the shim and waits for its first answer. Throws PODS_SHIM_MISSING, PODS_SHIM_FAILED with the step that
 * failed and the errno as its cause, PODS_SHIM_SILENT.
 */
export async function startShim(
  path: string,
  role: ShimRole,
  id: string,
  request: Uint8Array,
  stdio?: readonly [Stdio, Stdio, Stdio],
): Promise<RunningShim> {
  let channel: ChannelProcess;
  try {
    channel = await startWithChannel(path, [role, id], request, stdio);
  } catch (cause) {
    throw podsError('PODS_SHIM_MISSING', { path }, cause);
  }
  const answer = await channel.next();
  if (answer?.[0] === 'ok') return { channel, pid: Number(answer[1]) };
  channel.close();
  if (answer?.[0] === 'error') {
    const errno = Number(answer[1]);
    throw podsError(
      'PODS_SHIM_FAILED',
      { role, id, step: answer[2] ?? '' },
      { errno, name: errnoName(errno) },
    );
  }
  throw podsError('PODS_SHIM_SILENT', { role, id });
}
