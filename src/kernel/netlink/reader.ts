import { rtnlError } from '../../errors/index.ts';
import { NLA_TYPE_MASK, NLM_F, NLMSG, NLMSG_HDRLEN, NLMSGERR_ATTR } from './constants.ts';

/** One received message. `body` is a view into the receive buffer: valid during the callback only. */
export interface NlMessage {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  readonly body: Uint8Array;
}

/** A view with the offset and length of the array: pooled arrays share memory. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** The messages of one datagram. Throws NETLINK_MALFORMED. */
export function* readMessages(datagram: Uint8Array): Generator<NlMessage> {
  const view = viewOf(datagram);
  let at = 0;
  while (at < datagram.length) {
    if (datagram.length - at < NLMSG_HDRLEN) throw malformed('a netlink datagram', 'it ends inside a header');
    const length = view.getUint32(at, true);
    if (length < NLMSG_HDRLEN || length > datagram.length - at)
      throw malformed('a netlink datagram', `a message claims ${length} of ${datagram.length - at} bytes`);
    yield {
      type: view.getUint16(at + 4, true),
      flags: view.getUint16(at + 6, true),
      sequence: view.getUint32(at + 8, true),
      body: datagram.subarray(at + NLMSG_HDRLEN, at + length),
    };
    at += (length + 3) & ~3;
  }
}

/** Calls back for each attribute in bytes[at..]. Flag bits are cut off the type. Throws NETLINK_MALFORMED. */
export function readAttributes(
  bytes: Uint8Array,
  at: number,
  what: string,
  onAttribute: (type: number, value: Uint8Array) => void,
): void {
  const view = viewOf(bytes);
  if (at > bytes.length) throw malformed(what, `it has ${bytes.length} bytes, want ${at} at least`);
  while (bytes.length - at >= 4) {
    const length = view.getUint16(at, true);
    if (length < 4 || length > bytes.length - at)
      throw malformed(what, `an attribute claims ${length} of ${bytes.length - at} bytes`);
    onAttribute(view.getUint16(at + 2, true) & NLA_TYPE_MASK, bytes.subarray(at + 4, at + length));
    at += (length + 3) & ~3;
  }
}

/** The kernel's verdict on a request: errno 0 is success. */
export interface Ack {
  readonly errno: number;
  /** The kernel's own words. */
  readonly message?: string;
  /** Which byte of the request the kernel dislikes. */
  readonly offset?: number;
}

/** Reads an NLMSG_ERROR, or the errno of an NLMSG_DONE. Throws NETLINK_MALFORMED. */
export function readAck({ type, flags, body }: NlMessage): Ack {
  if (body.length < 4) {
    // Old families end a dump with a bare NLMSG_DONE.
    if (type === NLMSG.DONE) return { errno: 0 };
    throw malformed('an acknowledgement', 'it is too short');
  }
  const view = viewOf(body);
  const errno = -view.getInt32(0, true) || 0;
  if (!(flags & NLM_F.ACK_TLVS)) return { errno };
  let attributes = 4;
  if (type === NLMSG.ERROR) {
    if (body.length < 4 + NLMSG_HDRLEN) throw malformed('an acknowledgement', 'it is too short');
    const echoed = view.getUint32(4, true);
    attributes = 4 + (flags & NLM_F.CAPPED ? NLMSG_HDRLEN : (echoed + 3) & ~3);
  }
  let message: string | undefined;
  let offset: number | undefined;
  readAttributes(body, attributes, 'an acknowledgement', (attribute, value) => {
    if (attribute === NLMSGERR_ATTR.MSG) message = cString(value);
    else if (attribute === NLMSGERR_ATTR.OFFS && value.length === 4)
      offset = viewOf(value).getUint32(0, true);
    else if (attribute === NLMSGERR_ATTR.MISS_TYPE && value.length === 4)
      message ??= `attribute ${viewOf(value).getUint32(0, true)} is missing`;
  });
  return {
    errno,
    ...(message === undefined ? {} : { message }),
    ...(offset === undefined ? {} : { offset }),
  };
}

/** Text up to the first NUL. */
export function cString(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return Buffer.from(bytes.buffer, bytes.byteOffset, end < 0 ? bytes.length : end).toString('utf8');
}

export function malformed(what: string, why: string) {
  return rtnlError('NETLINK_MALFORMED', { what, why });
}
