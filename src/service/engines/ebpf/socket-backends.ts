/** Which backend a Service gave a socket, and sockets that were given one which has gone since. */
import { viewOf } from '../../../codec/index.ts';
import type { BpfMap } from '../../../kernel/bpf/index.ts';
import type { GoneBackend } from './backend-store.ts';
import { peerStruct, readAddress, socketPlaceStruct } from './layout.ts';

/** Where programs remember what connected sockets talk to. */
export type SocketMaps = Readonly<Record<'lb_sockets' | 'lb_socket_places', BpfMap>>;

/** A struct lb_peer. A socket that has its place may have an older one in lb_sockets. */
function peerOf(maps: SocketMaps, cookie: bigint): Uint8Array | undefined {
  const at = new Uint8Array(4);
  viewOf(at).setUint32(0, Number(cookie & BigInt(maps.lb_socket_places.maxEntries - 1)), true);
  const found = maps.lb_socket_places.get(at);
  const place = found && socketPlaceStruct.decode(found);
  if (place?.cookie === cookie) return place.peer;
  const key = new Uint8Array(8);
  viewOf(key).setBigUint64(0, cookie, true);
  return maps.lb_sockets.get(key);
}

/** Connected sockets that a Service gave a backend. */
export function countSockets(maps: SocketMaps): number {
  let count = 0;
  for (const _ of maps.lb_sockets.keys()) count++;
  for (const [, place] of maps.lb_socket_places.entries())
    if (viewOf(place).getBigUint64(0, true) !== 0n) count++;
  return count;
}

/** Sockets that talk to backends which have gone. */
export interface StaleSockets {
  readonly backends: readonly GoneBackend[];
  /** Whether the socket of this cookie was given this backend by a Service, and did not choose it itself. */
  wasTranslated(cookie: bigint, address: string, port: number): boolean;
}

/** The id of the backend that a Service gave the socket of this cookie; undefined when it chose its peer itself. */
export function backendOfSocket(
  maps: SocketMaps,
  cookie: bigint,
  address: string,
  port: number,
): number | undefined {
  const value = peerOf(maps, cookie);
  if (!value) return undefined;
  const peer = peerStruct.decode(value);
  const same = peer.backend_port === port && readAddress(peer.backend) === address;
  return same ? peer.backend_id : undefined;
}

/** Datagram sockets that would talk to nobody for ever; undefined when there can be none. */
export function staleSockets(maps: SocketMaps, gone: readonly GoneBackend[]): StaleSockets | undefined {
  const backends = gone.filter(({ protocol }) => protocol === 'UDP');
  if (backends.length === 0) return undefined;
  return {
    backends,
    wasTranslated: (cookie, address, port) => backendOfSocket(maps, cookie, address, port) !== undefined,
  };
}
