/**
 * Commands in containers for clients: `kubectl exec` and `attach` over WebSocket channels (v4, v5.channel.k8s.io) and
 * over SPDY streams (v1 to v4). Both become the same numbered streams, which the node understands as they are.
 * Source: k8s.io/apimachinery/pkg/util/remotecommand, KEP-4006.
 */
import { STREAM } from '../../codec/frames.ts';
import type { SpdySession, SpdyStream } from './spdy-session.ts';
import type { WebSocketLink } from './websocket.ts';

/** What a request asks for. */
export interface CommandStreams {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly tty: boolean;
}

/** A command under way on a node. */
export interface RemoteCommand {
  /** Begins to read its output. Outcome is undefined when the node was lost. */
  start(
    onOutput: (stream: number, bytes: Buffer) => Promise<void>,
    onEnd: (outcome: { exitCode: number } | undefined) => void,
  ): void;
  /** To stdin, where no bytes are its end, or a size of the terminal. */
  send(stream: number, bytes: Uint8Array): Promise<void>;
  /** The client has gone. */
  cancel(): void;
}

/** The client's side, whatever the protocol. */
export interface CommandClient {
  readonly closed: Promise<void>;
  start(onInput: (stream: number, bytes: Buffer) => Promise<void>): void;
  send(stream: number, bytes: Uint8Array): Promise<void>;
  /** Sends the outcome as a Status and ends the connection. */
  finish(status: object): Promise<void>;
}

/** Moves bytes until the command has ended or the client has gone. */
export function connectCommand(client: CommandClient, command: RemoteCommand): void {
  let over = false;
  void client.closed.then(() => {
    if (!over) command.cancel();
  });
  client.start((stream, bytes) => command.send(stream, bytes));
  command.start(
    (stream, bytes) => client.send(stream, bytes),
    (outcome) => {
      over = true;
      void client.finish(statusOf(outcome));
    },
  );
}

/** The Status that clients read the exit code from: metav1.Status with reason NonZeroExitCode. */
export function statusOf(outcome: { exitCode: number } | undefined): object {
  if (outcome?.exitCode === 0) return { metadata: {}, status: 'Success' };
  if (!outcome)
    return {
      metadata: {},
      status: 'Failure',
      reason: 'InternalError',
      message: 'Internal error occurred: the node of the pod was lost',
      code: 500,
    };
  const code = String(outcome.exitCode);
  return {
    metadata: {},
    status: 'Failure',
    reason: 'NonZeroExitCode',
    message: `command terminated with non-zero exit code: exit status ${code}`,
    details: { causes: [{ reason: 'ExitCode', message: code }] },
  };
}

/** Channel that closes the one whose number follows; only in v5. */
const CLOSE_CHANNEL = 255;

/** Messages whose first byte is the number of the stream. */
export function webSocketClient(socket: WebSocketLink, wanted: CommandStreams): CommandClient {
  return {
    closed: socket.closed,
    start: (onInput) => {
      // Clients wait for a first message on each output before they show anything.
      socket.start(async (message) => {
        const [channel] = message;
        const bytes = message.subarray(1);
        if (channel === STREAM.stdin && wanted.stdin && bytes.length > 0) await onInput(STREAM.stdin, bytes);
        else if (channel === STREAM.size && wanted.tty) await onInput(STREAM.size, bytes);
        else if (channel === CLOSE_CHANNEL && bytes[0] === STREAM.stdin && wanted.stdin)
          await onInput(STREAM.stdin, Buffer.alloc(0));
      });
    },
    send: async (stream, bytes) => {
      if (isWanted(stream, wanted)) await socket.send(Buffer.concat([Buffer.from([stream]), bytes]));
    },
    finish: async (status) => {
      await socket.send(Buffer.concat([Buffer.from([STREAM.outcome]), Buffer.from(JSON.stringify(status))]));
      socket.close();
    },
  };
}

const isWanted = (stream: number, wanted: CommandStreams) =>
  (stream === STREAM.stdout && wanted.stdout) || (stream === STREAM.stderr && wanted.stderr && !wanted.tty);

/** Names of streams in the header `streamtype`. */
const STREAM_TYPES: Readonly<Record<string, number>> = {
  stdin: STREAM.stdin,
  stdout: STREAM.stdout,
  stderr: STREAM.stderr,
  error: STREAM.outcome,
  resize: STREAM.size,
};

/** How long the client may take to open its streams: remotecommand.DefaultStreamCreationTimeout. */
const STREAMS_TIMEOUT_MS = 30_000;

/** The streams of a session, once the client has opened all that the request asks for. */
export function spdyClient(
  wanted: CommandStreams,
  protocol: string,
): { onStream: (stream: SpdyStream) => void; client: (session: SpdySession) => Promise<CommandClient> } {
  const streams = new Map<number, SpdyStream>();
  const complete = Promise.withResolvers<void>();
  const resizes = wanted.tty && protocol !== 'v1.channel.k8s.io' && protocol !== 'v2.channel.k8s.io';
  const needed = [
    STREAM.outcome,
    ...(wanted.stdin ? [STREAM.stdin] : []),
    ...(wanted.stdout ? [STREAM.stdout] : []),
    ...(wanted.stderr && !wanted.tty ? [STREAM.stderr] : []),
    ...(resizes ? [STREAM.size] : []),
  ];
  const onStream = (stream: SpdyStream) => {
    const number = STREAM_TYPES[stream.headers['streamtype'] ?? ''];
    if (number === undefined || streams.has(number)) return void stream.reset();
    streams.set(number, stream);
    if (needed.every((one) => streams.has(one))) complete.resolve();
  };
  const client = async (session: SpdySession): Promise<CommandClient> => {
    const late = setTimeout(
      () => complete.reject(new Error('the client did not open its streams in time')),
      STREAMS_TIMEOUT_MS,
    );
    void session.closed.then(() => complete.reject(new Error('the client has gone')));
    await complete.promise.finally(() => clearTimeout(late));
    return {
      closed: session.closed,
      start: (onInput) => {
        streams.get(STREAM.stdin)?.onData((bytes) => onInput(STREAM.stdin, bytes ?? Buffer.alloc(0)));
        // Sizes come as JSON values one after the other, each with a line end.
        streams.get(STREAM.size)?.onData((bytes) => (bytes ? onInput(STREAM.size, bytes) : undefined));
        streams.get(STREAM.outcome)?.onData(() => {});
      },
      send: async (stream, bytes) => {
        if (isWanted(stream, wanted)) await streams.get(stream)?.write(bytes);
      },
      finish: async (status) => {
        const outcome = streams.get(STREAM.outcome)!;
        // Before v4 the stream carries an error's text, and nothing says success.
        const { status: verdict, message } = status as { status: string; message?: string };
        const text = protocol === 'v4.channel.k8s.io' ? JSON.stringify(status) : (message ?? '');
        if (text !== '' && (verdict !== 'Success' || protocol === 'v4.channel.k8s.io'))
          await outcome.write(Buffer.from(text));
        for (const stream of streams.values()) await stream.end();
        await session.close();
      },
    };
  };
  return { onStream, client };
}
