/**
 * What is in nf_tables, by netlink: tables, chains and rules as the kernel tells them; sets are in dump-sets.ts. A handle is never used
 * twice in a table, and what has one cannot be changed in place, rules least of all: the same handles in the same order
 * are the same rules.
 */
import { nftError } from '../../errors/nft.ts';
import {
  attributeTable,
  type NetlinkSocket,
  type NlMessage,
  type NlWriter,
  nlBytes,
  nlI32be,
  nlString,
  nlU32be,
  nlU64be,
  readAttributes,
} from '../netlink/index.ts';
import { ERRNO } from '../syscall/index.ts';
import type { NftHook, NftTableName } from './change.ts';
import { readComment } from './comment.ts';
import { FAMILY, familyOf, HOOKS, NFT, writeHeader } from './messages.ts';
import { type Counted, readCounter, readExpression, readSetName, readTarget } from './read-expression.ts';
import { readSeal } from './seal.ts';
import type { NftFamily } from './set-element.ts';

const NF_DROP = 0;
const TABLE_DORMANT = 1;

const tableAttributes = attributeTable('an nftables table', {
  name: [1, 'NFTA_TABLE_NAME', nlString],
  flags: [2, 'NFTA_TABLE_FLAGS', nlU32be],
});

const chainAttributes = attributeTable('an nftables chain', {
  table: [1, 'NFTA_CHAIN_TABLE', nlString],
  handle: [2, 'NFTA_CHAIN_HANDLE', nlU64be],
  name: [3, 'NFTA_CHAIN_NAME', nlString],
  hook: [4, 'NFTA_CHAIN_HOOK', nlBytes],
  policy: [5, 'NFTA_CHAIN_POLICY', nlU32be],
  type: [7, 'NFTA_CHAIN_TYPE', nlString],
});

const hookAttributes = attributeTable('the hook of an nftables chain', {
  number: [1, 'NFTA_HOOK_HOOKNUM', nlU32be],
  priority: [2, 'NFTA_HOOK_PRIORITY', nlI32be],
});

const ruleAttributes = attributeTable('an nftables rule', {
  table: [1, 'NFTA_RULE_TABLE', nlString],
  chain: [2, 'NFTA_RULE_CHAIN', nlString],
  handle: [3, 'NFTA_RULE_HANDLE', nlU64be],
  expressions: [4, 'NFTA_RULE_EXPRESSIONS', nlBytes],
  userdata: [7, 'NFTA_RULE_USERDATA', nlBytes],
});

/** A chain of anybody. */
export interface NftChainFound {
  /** `inet`, `ip`, ...; a number of a family that is not known here. */
  readonly family: string;
  readonly table: string;
  readonly name: string;
  readonly handle: bigint;
  /** Of a base chain; names of hooks are those of IP families. */
  readonly hook?: Omit<NftHook, 'hook' | 'type'> & { readonly hook: string; readonly type: string };
}

/** Whether a chain hangs where it is wanted; with `policy`, whether it also ends so. */
export function sameHook(found: NftChainFound['hook'], wanted: NftHook | undefined, policy = true): boolean {
  if (!found || !wanted) return found === wanted;
  return (
    found.type === wanted.type &&
    found.hook === wanted.hook &&
    found.priority === wanted.priority &&
    (!policy || found.policy === wanted.policy)
  );
}

/** A rule as the kernel tells it: enough to see that it is the one that was written. */
export interface NftRuleFound {
  readonly chain: string;
  readonly handle: bigint;
  /** Empty when it has none. */
  readonly comment: string;
  /** Of a rule that was written with one: see seal.ts. */
  readonly seal: string | undefined;
  /** Names of its expressions, in their order. */
  readonly expressions: readonly string[];
  /** Chains that its verdicts lead to, by the names that they have now. */
  readonly leadsTo: readonly string[];
  /** Sets with names that it uses. */
  readonly sets: readonly string[];
  /** Packets and bytes of its first counter. */
  readonly packets: number | undefined;
  readonly bytes: number | undefined;
}

/** Whether there is such a table, and awake. Throws NFT_LIST_FAILED. */
export function readTable(
  socket: NetlinkSocket,
  { family, table }: NftTableName,
): 'absent' | 'dormant' | 'awake' {
  let flags = 0;
  const what = `nftables table "${family} ${table}"`;
  const cause = socket.request(
    `read ${what}`,
    {
      type: NFT.GETTABLE,
      flags: 0,
      write(writer) {
        writeHeader(writer, FAMILY[family], 0);
        tableAttributes.write(writer, { name: table });
      },
    },
    ({ type, body }) => {
      if (type === NFT.NEWTABLE) flags = tableAttributes.readFrom(body, 4).flags ?? 0;
    },
  );
  if (cause?.errno === ERRNO.ENOENT) return 'absent';
  if (cause) throw nftError('NFT_LIST_FAILED', { what }, cause);
  return flags & TABLE_DORMANT ? 'dormant' : 'awake';
}

/** Chains of a family, or of all; the kernel tells them table by table. Throws NFT_LIST_FAILED. */
export function dumpChains(socket: NetlinkSocket, family?: NftFamily): NftChainFound[] {
  return dump(socket, {
    what: family ? `nftables chains of family ${family}` : 'nftables chains',
    get: NFT.GETCHAIN,
    family: family ? FAMILY[family] : 0,
    read: ({ type, body }) => (type === NFT.NEWCHAIN ? readChain(body) : undefined),
  });
}

/**
 * All rules of a table, chain by chain in their order, or of one chain; none when there is no such table or chain. Throws
 * NFT_LIST_FAILED.
 */
export function dumpRules(
  socket: NetlinkSocket,
  { family, table }: NftTableName,
  chain?: string,
): NftRuleFound[] {
  return dump(socket, {
    what: `rules of nftables table "${family} ${table}"`,
    get: NFT.GETRULE,
    family: FAMILY[family],
    write: (writer) => ruleAttributes.write(writer, chain === undefined ? { table } : { table, chain }),
    read({ type, body }) {
      const rule = type === NFT.NEWRULE ? readRule(body) : undefined;
      return chain === undefined || rule?.chain === chain ? rule : undefined;
    },
  });
}

/** A dump of something; none when there is no such table. Throws NFT_LIST_FAILED. */
export function dump<T>(
  socket: NetlinkSocket,
  {
    what,
    get,
    family,
    write,
    read,
  }: {
    readonly what: string;
    readonly get: number;
    readonly family: number;
    readonly write?: (writer: NlWriter) => void;
    readonly read: (message: NlMessage) => T | undefined;
  },
): T[] {
  let found: T[] = [];
  const cause = socket.dump(
    what,
    {
      type: get,
      flags: 0,
      write(writer) {
        writeHeader(writer, family, 0);
        write?.(writer);
      },
    },
    () => {
      found = [];
    },
    (message) => {
      const one = read(message);
      if (one !== undefined) found.push(one);
    },
  );
  if (cause?.errno === ERRNO.ENOENT) return [];
  if (cause) throw nftError('NFT_LIST_FAILED', { what }, cause);
  return found;
}

/** Reads a chain of a dump. Throws NETLINK_MALFORMED. */
export function readChain(body: Uint8Array): NftChainFound | undefined {
  const { table, name, handle, hook, policy, type } = chainAttributes.readFrom(body, 4);
  if (table === undefined || name === undefined) return undefined;
  const plain = {
    family: familyOf(body),
    table,
    name,
    handle: handle ?? 0n,
  };
  if (!hook) return plain;
  const { number = -1, priority = 0 } = hookAttributes.read(hook);
  return {
    ...plain,
    hook: {
      type: type ?? 'filter',
      hook: Object.entries(HOOKS).find(([, value]) => value === number)?.[0] ?? String(number),
      priority,
      policy: policy === NF_DROP ? 'drop' : 'accept',
    },
  };
}

/** Reads a rule of a dump. Throws NETLINK_MALFORMED. */
export function readRule(body: Uint8Array): NftRuleFound {
  const { chain, handle, expressions, userdata } = ruleAttributes.readFrom(body, 4);
  const names: string[] = [];
  const leadsTo: string[] = [];
  const sets: string[] = [];
  let counted: Counted | undefined;
  if (expressions)
    readAttributes(expressions, 0, 'the expressions of a rule', (_, item) => {
      const expression = readExpression(item);
      names.push(expression.name);
      const target = readTarget(expression);
      if (target !== undefined) leadsTo.push(target);
      const set = readSetName(expression);
      if (set !== undefined) sets.push(set);
      counted ??= readCounter(expression);
    });
  return {
    chain: chain ?? '',
    handle: handle ?? 0n,
    comment: (userdata && readComment(userdata)) ?? '',
    seal: userdata && readSeal(userdata),
    expressions: names,
    leadsTo,
    sets,
    packets: counted?.packets,
    bytes: counted?.bytes,
  };
}
