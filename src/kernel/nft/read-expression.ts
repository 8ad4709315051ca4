/** Expressions as the kernel tells them: { NFTA_EXPR_NAME text, NFTA_EXPR_DATA nested }. Pure. */
import { viewOf } from '../../codec/index.ts';
import { cString, readAttributes } from '../netlink/index.ts';

export const NFTA_EXPR = { NAME: 1, DATA: 2 } as const;
const NFTA_COUNTER = { BYTES: 1, PACKETS: 2 } as const;

export interface ExpressionFound {
  /** `counter`, `payload`, ...; empty when it is not told. */
  readonly name: string;
  readonly data: Uint8Array | undefined;
}

/** What a counter has counted; undefined where it does not tell. */
export interface Counted {
  readonly packets: number | undefined;
  readonly bytes: number | undefined;
}

/** Throws NETLINK_MALFORMED. */
export function readExpression(bytes: Uint8Array): ExpressionFound {
  let name = '';
  let data: Uint8Array | undefined;
  readAttributes(bytes, 0, 'an expression', (attribute, value) => {
    if (attribute === NFTA_EXPR.NAME) name = cString(value);
    else if (attribute === NFTA_EXPR.DATA) data = value;
  });
  return { name, data };
}

/** What an expression has counted; undefined when it is no counter. Throws NETLINK_MALFORMED. */
export function readCounter({ name, data }: ExpressionFound): Counted | undefined {
  if (name !== 'counter' || !data) return undefined;
  let packets: number | undefined;
  let bytes: number | undefined;
  readAttributes(data, 0, 'a counter', (attribute, value) => {
    if (value.length < 8) return;
    if (attribute === NFTA_COUNTER.BYTES) bytes = Number(viewOf(value).getBigUint64(0));
    else if (attribute === NFTA_COUNTER.PACKETS) packets = Number(viewOf(value).getBigUint64(0));
  });
  return { packets, bytes };
}
