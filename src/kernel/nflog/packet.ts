/** One message of nfnetlink_log. */
import { cString, readAttributes, viewOf } from '../netlink/index.ts';

/** enum nfulnl_attr_type */
const NFULA = { IFINDEX_INDEV: 4, IFINDEX_OUTDEV: 5, PAYLOAD: 9, PREFIX: 10 } as const;
/** struct nfgenmsg */
const HEADER_BYTES = 4;

export interface LoggedPacket {
  /** Text of the rule's `log prefix`. */
  readonly prefix: string;
  /** Index of the interface that it came in by, and of the one that it would leave by; 0 for none. */
  readonly inInterface: number;
  readonly outInterface: number;
  /** From the network header on, cut to the snaplen. A view: valid during the callback only. */
  readonly payload: Uint8Array;
}

/** Throws NETLINK_MALFORMED. */
export function readLoggedPacket(body: Uint8Array): LoggedPacket {
  let prefix = '';
  let inInterface = 0;
  let outInterface = 0;
  let payload: Uint8Array = new Uint8Array();
  const index = (value: Uint8Array) => (value.length < 4 ? 0 : viewOf(value).getUint32(0));
  readAttributes(body, HEADER_BYTES, 'a logged packet', (type, value) => {
    if (type === NFULA.PREFIX) prefix = cString(value);
    else if (type === NFULA.PAYLOAD) payload = value;
    else if (type === NFULA.IFINDEX_INDEV) inInterface = index(value);
    else if (type === NFULA.IFINDEX_OUTDEV) outInterface = index(value);
  });
  return { prefix, inInterface, outInterface, payload };
}
