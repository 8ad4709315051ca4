/** The way of an API server on the same machine to the pods of its nodes: the agents' sockets. */
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { FrameLink, STREAM } from '../codec/frames.ts';
import { openAgentStream } from './socket.ts';

/** Names a pod on a node whose state folder is `stateDir`. */
export interface PodPlace {
  readonly stateDir: string;
  readonly namespace: string;
  readonly name: string;
}

/** Starts a command in a container. Throws AGENT_NOT_RUNNING, AGENT_REFUSED. */
export async function execInPod(
  place: PodPlace,
  options: { container: string; command: readonly string[]; stdin: boolean; tty: boolean },
) {
  const query = new URLSearchParams({
    namespace: place.namespace,
    name: place.name,
    container: options.container,
    stdin: options.stdin ? '1' : '0',
    tty: options.tty ? '1' : '0',
  });
  for (const word of options.command) query.append('command', word);
  const link = new FrameLink(
    await openAgentStream(join(place.stateDir, 'agent.sock'), `/pods/exec?${query}`),
  );
  return {
    start(
      onOutput: (stream: number, bytes: Buffer) => Promise<void>,
      onEnd: (outcome: { exitCode: number } | undefined) => void,
    ) {
      let outcome: { exitCode: number } | undefined;
      let work = Promise.resolve();
      link.start(({ stream, payload }) => {
        if (stream === STREAM.outcome) outcome = JSON.parse(payload.toString('utf8')) as { exitCode: number };
        else {
          // What the client does not take is not read from the node either.
          link.pause();
          const bytes = Buffer.from(payload);
          work = work.then(() => onOutput(stream, bytes)).then(() => link.resume());
        }
      });
      void link.closed.then(() => work).then(() => onEnd(outcome));
    },
    send: (stream: number, bytes: Uint8Array) => link.send(stream, bytes),
    cancel: () => link.destroy(),
  };
}

/** A connection to a port inside a pod. Throws AGENT_NOT_RUNNING, AGENT_REFUSED. */
export function dialPod(place: PodPlace, port: number): Promise<Duplex> {
  const query = new URLSearchParams({ namespace: place.namespace, name: place.name, port: String(port) });
  return openAgentStream(join(place.stateDir, 'agent.sock'), `/pods/dial?${query}`);
}
