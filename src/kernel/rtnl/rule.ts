import { addressBits, Cidr, type Family } from '../../addr/index.ts';
import {
  attributeTable,
  malformed,
  NLM_F,
  type NlWriter,
  nlIp,
  nlString,
  nlU8,
  nlU32,
  viewOf,
} from '../netlink/index.ts';
import { ERRNO } from '../syscall/index.ts';
import type { RtnlChange } from './change.ts';
import { afOf, familyOf, needBytes } from './family.ts';
import { RTPROT_PORTOLAN } from './route.ts';

export const RTM_RULE = { NEW: 32, DEL: 33, GET: 34 } as const;

const HEADER_BYTES = 12;
const FIB_RULE_INVERT = 2;
/** FR_ACT_*, fib_rules.h, by number. */
const ACTIONS = [
  'unspec',
  'lookup',
  'goto',
  'nop',
  'res3',
  'res4',
  'blackhole',
  'unreachable',
  'prohibit',
] as const;
export type RuleAction = (typeof ACTIONS)[number];

/** Attributes of a rule: fib_rules.h, enum FRA_*. */
const ruleTable = attributeTable('a rule', {
  to: [1, 'FRA_DST', nlIp],
  from: [2, 'FRA_SRC', nlIp],
  iif: [3, 'FRA_IIFNAME', nlString],
  priority: [6, 'FRA_PRIORITY', nlU32, 'lower is asked first'],
  mark: [10, 'FRA_FWMARK', nlU32],
  suppressPrefixLength: [14, 'FRA_SUPPRESS_PREFIXLEN', nlU32, '0xffffffff: none'],
  table: [15, 'FRA_TABLE', nlU32],
  mask: [16, 'FRA_FWMASK', nlU32],
  oif: [17, 'FRA_OIFNAME', nlString],
  protocol: [21, 'FRA_PROTOCOL', nlU8],
});

/** A rule that chooses a routing table. */
export interface Rule {
  readonly family: Family;
  readonly priority: number;
  readonly action: RuleAction;
  /** The table to look into. */
  readonly table: number;
  readonly from?: Cidr | undefined;
  readonly to?: Cidr | undefined;
  readonly iif?: string | undefined;
  readonly oif?: string | undefined;
  readonly mark?: number | undefined;
  readonly mask?: number | undefined;
  readonly invert: boolean;
  /** Take no route of this prefix length or shorter from the table. */
  readonly suppressPrefixLength?: number | undefined;
  /** RTPROT_*: who made it. */
  readonly protocol: number;
}

export type RuleSpec = Pick<Rule, 'family' | 'priority'> & Partial<Omit<Rule, 'family' | 'priority'>>;

function write(w: NlWriter, r: RuleSpec): void {
  const table = r.table ?? 0;
  w.u8(afOf(r.family))
    .u8(r.to?.prefixLength ?? 0)
    .u8(r.from?.prefixLength ?? 0)
    .u8(0);
  w.u8(table < 256 ? table : 0)
    .u8(0)
    .u8(0)
    .u8(ACTIONS.indexOf(r.action ?? 'lookup'));
  w.u32(r.invert ? FIB_RULE_INVERT : 0);
  ruleTable.write(w, {
    to: r.to?.prefixLength ? r.to.address : undefined,
    from: r.from?.prefixLength ? r.from.address : undefined,
    iif: r.iif,
    oif: r.oif,
    priority: r.priority,
    mark: r.mark,
    mask: r.mask,
    suppressPrefixLength: r.suppressPrefixLength,
    table: r.table,
    protocol: r.protocol ?? RTPROT_PORTOLAN,
  });
}

export function ruleText(r: RuleSpec): string {
  const parts = [`priority ${r.priority}`];
  if (r.invert) parts.push('not');
  parts.push(`from ${r.from ?? 'all'}`);
  if (r.to) parts.push(`to ${r.to}`);
  if (r.mark !== undefined)
    parts.push(`fwmark 0x${r.mark.toString(16)}${r.mask === undefined ? '' : `/0x${r.mask.toString(16)}`}`);
  if (r.iif) parts.push(`iif ${r.iif}`);
  if (r.oif) parts.push(`oif ${r.oif}`);
  parts.push((r.action ?? 'lookup') === 'lookup' ? `lookup ${r.table}` : r.action!);
  if (r.suppressPrefixLength !== undefined) parts.push(`suppress_prefixlength ${r.suppressPrefixLength}`);
  parts.push(`protocol ${r.protocol ?? RTPROT_PORTOLAN}`);
  return parts.join(' ');
}

const command = (r: RuleSpec) => `ip${r.family === 6 ? ' -6' : ''} rule`;

/** Adds a rule; one that is there already is success. */
export function ensureRule(spec: RuleSpec): RtnlChange {
  return {
    request: { type: RTM_RULE.NEW, flags: NLM_F.CREATE | NLM_F.EXCL, write: (w) => write(w, spec) },
    ignore: [ERRNO.EEXIST],
    text: () => `${command(spec)} add ${ruleText(spec)}`,
  };
}

/** Deletes a rule; absent is success. */
export function deleteRule(spec: RuleSpec): RtnlChange {
  return {
    request: { type: RTM_RULE.DEL, flags: 0, write: (w) => write(w, spec) },
    ignore: [ERRNO.ENOENT],
    text: () => `${command(spec)} del ${ruleText(spec)}`,
  };
}

export function ruleQuery(family: Family) {
  return {
    type: RTM_RULE.GET,
    flags: 0,
    write: (w: NlWriter) => {
      w.u8(afOf(family)).u8(0).u8(0).u8(0).u32(0).u32(0);
    },
  };
}

/** Reads RTM_*RULE; undefined for another family. Throws NETLINK_MALFORMED. */
export function readRule(body: Uint8Array): Rule | undefined {
  needBytes('a rule', body, HEADER_BYTES);
  const family = familyOf(body[0]!);
  if (!family) return undefined;
  const a = ruleTable.readFrom(body, HEADER_BYTES);
  if (body[1]! > addressBits(family) || body[2]! > addressBits(family))
    throw malformed('a rule', 'a prefix is too long');
  const none = 0xffff_ffff;
  return {
    family,
    priority: a.priority ?? 0,
    action: ACTIONS[body[7]!] ?? 'unspec',
    table: a.table ?? body[4]!,
    from: a.from && Cidr.around(a.from, body[2]!),
    to: a.to && Cidr.around(a.to, body[1]!),
    iif: a.iif,
    oif: a.oif,
    mark: a.mark,
    mask: a.mask,
    invert: (viewOf(body).getUint32(8, true) & FIB_RULE_INVERT) !== 0,
    suppressPrefixLength: a.suppressPrefixLength === none ? undefined : a.suppressPrefixLength,
    protocol: a.protocol ?? 0,
  };
}
