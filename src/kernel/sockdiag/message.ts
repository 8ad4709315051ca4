/**
 * Messages of socket diagnosis. Pure.
 *
 *   request  family u8 | protocol u8 | ext u8 | pad u8 | states u32 | id (48 bytes)
 *   answer   family u8 | state u8 | timer u8 | retrans u8 | id | expires u32 | rqueue u32 | wqueue u32 | uid u32 | inode u32
 *   id       sport be16 | dport be16 | src 16 bytes | dst 16 bytes | interface u32 | cookie 2 x u32
 *
 * Source: include/uapi/linux/inet_diag.h, sock_diag(7).
 */
import { IpAddress } from '../../addr/index.ts';
import { AF, malformed, type NlWriter, viewOf } from '../netlink/index.ts';

export const SOCK_DIAG_BY_FAMILY = 20;
export const SOCK_DESTROY = 21;

export type SocketProtocol = 'tcp' | 'udp';
export const IPPROTO: Readonly<Record<SocketProtocol, number>> = { tcp: 6, udp: 17 };

/** enum in include/net/tcp_states.h; a connected UDP socket is `established`, an unconnected one `close`. */
export const SOCKET_STATES = [
  'none',
  'established',
  'syn-sent',
  'syn-recv',
  'fin-wait-1',
  'fin-wait-2',
  'time-wait',
  'close',
  'close-wait',
  'last-ack',
  'listen',
  'closing',
  'new-syn-recv',
] as const;
export type SocketState = (typeof SOCKET_STATES)[number];

export interface SocketInfo {
  readonly protocol: SocketProtocol;
  readonly state: SocketState;
  /** IPv4 for sockets of AF_INET6 that speak IPv4, too. */
  readonly local: IpAddress;
  readonly localPort: number;
  readonly remote: IpAddress;
  readonly remotePort: number;
  readonly uid: number;
  /** Inode number in sockfs, as in /proc/PID/fd; 0 when no process holds it. */
  readonly inode: number;
  /** The 48 bytes by which the kernel finds this socket again, and its family. */
  readonly handle: { readonly family: number; readonly id: Uint8Array };
}

const ID_SIZE = 48;
const ANSWER_SIZE = 4 + ID_SIZE + 20;
const INET_DIAG_REQ_BYTECODE = 1;
const INET_DIAG_BC_D_COND = 8;

export interface SocketFilter {
  readonly protocol: SocketProtocol;
  /** Default all. */
  readonly states?: readonly SocketState[];
  readonly remote?: IpAddress;
  readonly remotePort?: number;
}

/** Writes a request for all sockets of one family that match. */
export function writeListRequest(writer: NlWriter, family: number, filter: SocketFilter): void {
  const states = filter.states?.reduce((mask, state) => mask | (1 << SOCKET_STATES.indexOf(state)), 0);
  writer
    .u8(family)
    .u8(IPPROTO[filter.protocol])
    .u16(0)
    .u32(states ?? 0xffff_ffff);
  writer.bytes(new Uint8Array(ID_SIZE));
  const { remote } = filter;
  if (remote)
    writer.attribute(INET_DIAG_REQ_BYTECODE, () => writeRemoteCondition(writer, remote, filter.remotePort));
}

/**
 * A program of one instruction for the kernel's filter: jump past the end when the remote matches, four bytes
 * further when not. An IPv4 condition matches IPv4 addresses in AF_INET6 sockets as well.
 */
function writeRemoteCondition(writer: NlWriter, remote: IpAddress, port: number | undefined): void {
  const address = remote.toBytes();
  const OPERATION = 4;
  const CONDITION = 8;
  const length = OPERATION + CONDITION + address.length;
  const ANY_PORT = 0xffff_ffff;
  writer
    .u8(INET_DIAG_BC_D_COND)
    .u8(length)
    .u16(length + 4);
  writer
    .u8(remote.family === 4 ? AF.INET : AF.INET6)
    .u8(address.length * 8)
    .u16(0)
    .u32(port ?? ANY_PORT);
  writer.bytes(address);
}

/** Writes a request to destroy exactly this socket. */
export function writeDestroyRequest(writer: NlWriter, socket: SocketInfo): void {
  writer
    .u8(socket.handle.family)
    .u8(IPPROTO[socket.protocol])
    .u16(0)
    .u32(0xffff_ffff)
    .bytes(socket.handle.id);
}

/** Reads one answer. Throws NETLINK_MALFORMED. */
export function readSocket(body: Uint8Array, protocol: SocketProtocol): SocketInfo {
  if (body.length < ANSWER_SIZE)
    throw malformed('a socket', `it has ${body.length} bytes, want ${ANSWER_SIZE}`);
  const view = viewOf(body);
  const family = body[0]!;
  if (family !== AF.INET && family !== AF.INET6) throw malformed('a socket', `its family is ${family}`);
  const state = SOCKET_STATES[body[1]!];
  if (state === undefined) throw malformed('a socket', `its state is ${body[1]}`);
  const id = body.slice(4, 4 + ID_SIZE);
  const after = 4 + ID_SIZE;
  return {
    protocol,
    state,
    localPort: view.getUint16(4),
    remotePort: view.getUint16(6),
    local: address(family, body.subarray(8, 24)),
    remote: address(family, body.subarray(24, 40)),
    uid: view.getUint32(after + 12, true),
    inode: view.getUint32(after + 16, true),
    handle: { family, id },
  };
}

const MAPPED = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff);

function address(family: number, bytes: Uint8Array): IpAddress {
  if (family === AF.INET) return IpAddress.fromBytes(bytes.subarray(0, 4));
  const mapped = MAPPED.every((byte, at) => bytes[at] === byte);
  return IpAddress.fromBytes(mapped ? bytes.subarray(12) : bytes);
}
