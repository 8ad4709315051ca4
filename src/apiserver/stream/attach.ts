/**
 * `kubectl attach`: the output of a container from now on. Containers here write into their log and have no input, so
 * attaching follows the log; what a client types goes nowhere, as with a container that has no `stdin: true`.
 */
import { STREAM } from '../../codec/frames.ts';
import type { Pod } from '../../model/kubernetes.ts';
import type { PodLogs } from '../rest/pods.ts';
import type { RemoteCommand } from './remote-command.ts';

export async function attachByLog(pod: Pod, container: string, podLogs: PodLogs): Promise<RemoteCommand> {
  const stop = new AbortController();
  const follow = (stream: string) =>
    podLogs(pod, new URLSearchParams({ container, follow: 'true', tailLines: '0', stream }), stop.signal);
  const [stdout, stderr] = await Promise.all([follow('Stdout'), follow('Stderr')]);
  return {
    start: (onOutput, onEnd) => {
      const copy = async (stream: number, from: AsyncIterable<Uint8Array> | Iterable<Uint8Array>) => {
        for await (const bytes of from) await onOutput(stream, Buffer.from(bytes));
      };
      Promise.all([copy(STREAM.stdout, stdout), copy(STREAM.stderr, stderr)]).then(
        () => onEnd({ exitCode: 0 }),
        () => onEnd(undefined),
      );
    },
    send: async () => {},
    cancel: () => stop.abort(),
  };
}
