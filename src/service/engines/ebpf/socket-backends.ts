/** Which backend a Service gave a socket (lb_sockets), and sockets that were given one which has gone since. */
import { viewOf } from '../../../codec/index.ts';
import type { BpfMap } from '../../../kernel/bpf/index.ts';
import type { GoneBackend } from './backend-store.ts';
import { peerStruct, readAddress } from './layout.ts';

/** Sockets that talk to backends which have gone. */
export interface StaleSockets {
  readonly backends: readonly GoneBackend[];
  /** Whether the socket of this cookie was given this backend by a Service, and did not choose it itself. */
  wasTranslated(cookie: bigint, address: string, port: number): boolean;
}

/** The id of the backend that a Service gave the socket of this cookie; undefined when it chose its peer itself. */
export function backendOfSocket(
  sockets: BpfMap,
  cookie: bigint,
  address: string,
  port: number,
): number | undefined {
  const key = new Uint8Array(8);
  viewOf(key).setBigUint64(0, cookie, true);
  const value = sockets.get(key);
  if (!value) return undefined;
  const peer = peerStruct.decode(value);
  const same = peer.backend_port === port && readAddress(peer.backend) === address;
  return same ? peer.backend_id : undefined;
}

/** Datagram sockets that would talk to nobody for ever; undefined when there can be none. */
export function staleSockets(sockets: BpfMap, gone: readonly GoneBackend[]): StaleSockets | undefined {
  const backends = gone.filter(({ protocol }) => protocol === 'UDP');
  if (backends.length === 0) return undefined;
  return {
    backends,
    wasTranslated: (cookie, address, port) => backendOfSocket(sockets, cookie, address, port) !== undefined,
  };
}
