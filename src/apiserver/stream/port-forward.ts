/**
 * `kubectl port-forward`: for each connection the client opens two SPDY streams with one request id, for bytes and for
 * what goes wrong. Source: k8s.io/kubelet/pkg/cri/streaming/portforward/httpstream.go.
 */
import type { Duplex } from 'node:stream';
import { writeTo } from '../../codec/frames.ts';
import type { ByteLink } from './bytes.ts';
import { SpdySession, type SpdyStream } from './spdy-session.ts';

/** A second stream that never comes does not keep the first one for ever. */
const PAIR_TIMEOUT_MS = 30_000;

interface Pair {
  data?: SpdyStream;
  error?: SpdyStream;
}

/** Serves a session; `dial` makes a connection to a port of the pod. */
export function forwardPorts(link: ByteLink, dial: (port: number) => Promise<Duplex>): void {
  const pairs = new Map<string, Pair>();
  new SpdySession(link, (stream) => {
    const { streamtype, port, requestid } = stream.headers;
    const number = Number(port);
    if (
      (streamtype !== 'data' && streamtype !== 'error') ||
      !Number.isInteger(number) ||
      number < 1 ||
      number > 65_535
    )
      return void stream.reset();
    // Old clients send no id and open one connection at a time, its error stream first.
    const id = requestid ?? String(streamtype === 'error' ? stream.id : stream.id - 2);
    const pair = pairs.get(id) ?? {};
    if (pair[streamtype]) return void stream.reset();
    pair[streamtype] = stream;
    pairs.set(id, pair);
    const { data, error } = pair;
    if (data && error) {
      pairs.delete(id);
      void connectPair(data, error, number, dial);
      return;
    }
    setTimeout(() => {
      if (pairs.get(id) !== pair) return;
      pairs.delete(id);
      void stream.reset();
    }, PAIR_TIMEOUT_MS).unref();
  });
}

async function connectPair(
  data: SpdyStream,
  error: SpdyStream,
  port: number,
  dial: (port: number) => Promise<Duplex>,
): Promise<void> {
  error.onData(() => {});
  let there: Duplex;
  try {
    there = await dial(port);
  } catch (cause) {
    data.onData(() => {});
    await error.write(Buffer.from(`error forwarding port ${port} to pod: ${(cause as Error).message}`));
    await error.end();
    await data.end();
    return;
  }
  there.on('error', () => there.destroy());
  data.onData(async (bytes) => {
    if (bytes) await writeTo(there, bytes);
    else there.end();
  });
  try {
    for await (const bytes of there) await data.write(bytes as Buffer);
  } catch {
    // The connection broke: its end is all that there is to tell.
  }
  await data.end();
  await error.end();
}
