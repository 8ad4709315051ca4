/** Expressions as the kernel tells them: { NFTA_EXPR_NAME text, NFTA_EXPR_DATA nested }. Pure. */
import { viewOf } from '../../codec/index.ts';
import { cString, readAttributes } from '../netlink/index.ts';
import { NFTA_DATA, readVerdict } from './verdict.ts';

export const NFTA_EXPR = { NAME: 1, DATA: 2 } as const;
const NFTA_COUNTER = { BYTES: 1, PACKETS: 2 } as const;
const NFTA_IMMEDIATE_DATA = 2;
/** NFTA_LOOKUP_SET, NFTA_DYNSET_SET_NAME */
const SET_NAME = 1;
const NAMES_SET: ReadonlySet<string> = new Set(['lookup', 'dynset']);
/** Sets that belong to one rule. */
const ANONYMOUS = '__';

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

/** The chain that an expression leads to, by the name that it has now; undefined for others. Throws NETLINK_MALFORMED. */
export function readTarget({ name, data }: ExpressionFound): string | undefined {
  if (name !== 'immediate' || !data) return undefined;
  let chain: string | undefined;
  readAttributes(data, 0, 'a constant', (attribute, value) => {
    if (attribute !== NFTA_IMMEDIATE_DATA) return;
    readAttributes(value, 0, 'a constant', (kind, content) => {
      if (kind === NFTA_DATA.VERDICT) ({ chain } = readVerdict(content));
    });
  });
  return chain;
}

/** The set with a name that an expression uses; undefined for others. Throws NETLINK_MALFORMED. */
export function readSetName({ name, data }: ExpressionFound): string | undefined {
  if (!NAMES_SET.has(name) || !data) return undefined;
  let set: string | undefined;
  readAttributes(data, 0, 'a lookup', (attribute, value) => {
    if (attribute === SET_NAME) set = cString(value);
  });
  return set?.startsWith(ANONYMOUS) ? undefined : set;
}
