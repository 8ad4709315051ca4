/**
 * Tables, chains, rules, sets and elements of nftables in one transaction by raw nfnetlink, without the nft program:
 *
 *   BATCH_BEGIN(generation) | NEWTABLE | NEWSET ... | NEWCHAIN ... | NEWRULE ... | NEWSETELEM ... | BATCH_END
 *
 * Source: include/uapi/linux/netfilter/nf_tables.h.
 */
import { nftError } from '../../errors/nft.ts';
import { type Ack, NETLINK, NetlinkSocket, NLM_F, type NlRequest, type NlWriter } from '../netlink/index.ts';
import { kernelFailure } from '../syscall/index.ts';
import { counter, type Expression } from './bytecode.ts';
import { type DatumType, packedTypes, sizeOf } from './datum.ts';
import { dumpChains, dumpRules, dumpSets, type NftRuleFound, readTable } from './dump.ts';
import { type ElementChange, elementMessages } from './element-messages.ts';
import { refusal } from './elements.ts';
import { FAMILY, HOOKS, NFT, runTransaction, writeHeader } from './messages.ts';
import { nftGeneration } from './monitor.ts';
import type { NftFamily, NftSet } from './set-element.ts';

const NFTA_LIST_ELEM = 1;
const NF_ACCEPT = 1;
/** enum nft_set_flags */
const SET_FLAG = { INTERVAL: 4, MAP: 8, TIMEOUT: 0x10, EVAL: 0x20, CONCAT: 0x80 } as const;
const NFT_DATA_VERDICT = 0xffff_ff00;
/** sizeof(struct nft_verdict); the kernel knows it by itself. */
const VERDICT_BYTES = 16;
/** NFTNL_UDATA_RULE_COMMENT, the same number as of elements and sets. */
const UDATA_COMMENT = 0;
/** NFTNL_UDATA_SET_KEYBYTEORDER, NFTNL_UDATA_SET_DATABYTEORDER of libnftnl's udata.h */
const UDATA_KEY_BYTEORDER = 0;
const UDATA_DATA_BYTEORDER = 1;
const HOST_ORDER: ReadonlySet<string> = new Set(['mark', 'iface_index', 'ct_state', 'fib_addrtype']);

export interface NftTable {
  readonly family: NftFamily;
  readonly table: string;
}

/** Where a base chain is called. */
export interface NftChainHook {
  readonly type: 'filter' | 'nat' | 'route';
  readonly hook: keyof typeof HOOKS;
  readonly priority: number;
}

export interface NftBytecodeRule {
  readonly expressions: readonly Expression[];
  /** What nft shows beside it; 127 bytes. */
  readonly comment: string;
}

/** What else a set is made with. */
export interface NftSetOptions {
  /** Rules add elements. */
  readonly dynamic?: boolean;
  /** Most elements; no limit without it. */
  readonly size?: number;
  /** Each element counts the lookups that found it (Linux >= 5.11). */
  readonly counter?: boolean;
}

/** One message of a transaction, or elements. */
export type BatchChange =
  | ElementChange
  | { readonly kind: 'message'; readonly what: string; readonly request: NlRequest };

function header(writer: NlWriter, family: NftFamily): void {
  writeHeader(writer, FAMILY[family], 0);
}

function message(what: string, type: number, flags: number, write: NlRequest['write']): BatchChange {
  return { kind: 'message', what, request: { type, flags, write } };
}

/** Makes the table; one that is there stays. */
export function newTable({ family, table }: NftTable): BatchChange {
  return message(`make table ${family} ${table}`, NFT.NEWTABLE, NLM_F.CREATE, (w) => {
    header(w, family);
    w.attribute(1, () => w.string(table));
  });
}

/** Removes the table with all that is in it. It must be there: see `newTable`. */
export function deleteTable({ family, table }: NftTable): BatchChange {
  return message(`delete table ${family} ${table}`, NFT.DELTABLE, 0, (w) => {
    header(w, family);
    w.attribute(1, () => w.string(table));
  });
}

/** Makes a chain; with a hook, a base chain of policy accept. */
export function newChain({ family, table }: NftTable, name: string, hook?: NftChainHook): BatchChange {
  return message(`make chain ${family} ${table} ${name}`, NFT.NEWCHAIN, NLM_F.CREATE, (w) => {
    header(w, family);
    w.attribute(1, () => w.string(table)).attribute(3, () => w.string(name));
    if (!hook) return;
    w.nest(4, () => {
      w.attribute(1, () => w.u32be(HOOKS[hook.hook])).attribute(2, () => w.u32be(hook.priority));
    });
    w.attribute(5, () => w.u32be(NF_ACCEPT)).attribute(7, () => w.string(hook.type));
  });
}

/** Removes a chain without rules to which nothing jumps. */
export function deleteChain({ family, table }: NftTable, name: string): BatchChange {
  return message(`delete chain ${family} ${table} ${name}`, NFT.DELCHAIN, 0, (w) => {
    header(w, family);
    w.attribute(1, () => w.string(table)).attribute(3, () => w.string(name));
  });
}

/** Removes all rules of a chain. */
export function flushChain({ family, table }: NftTable, name: string): BatchChange {
  return message(`flush chain ${family} ${table} ${name}`, NFT.DELRULE, 0, (w) => {
    header(w, family);
    w.attribute(1, () => w.string(table)).attribute(2, () => w.string(name));
  });
}

/** Adds a rule at the end of a chain. */
export function newRule({ family, table }: NftTable, chain: string, rule: NftBytecodeRule): BatchChange {
  const flags = NLM_F.CREATE | NLM_F.APPEND;
  return message(`add rule "${rule.comment}" to ${family} ${table} ${chain}`, NFT.NEWRULE, flags, (w) => {
    header(w, family);
    w.attribute(1, () => w.string(table)).attribute(2, () => w.string(chain));
    w.nest(4, () => {
      for (const { name, write } of rule.expressions)
        w.nest(NFTA_LIST_ELEM, () => w.attribute(1, () => w.string(name)).nest(2, () => write(w)));
    });
    const comment = Buffer.from(`${rule.comment}\0`);
    w.attribute(7, () => w.u8(UDATA_COMMENT).u8(comment.length).bytes(comment));
  });
}

let setNumber = 0;

/** Makes a set or map. */
export function newSet(set: NftSet, options: NftSetOptions = {}): BatchChange {
  const { family, table, name, key, data, interval, timeoutMs } = set;
  const concat = key.length > 1;
  const flags =
    (interval ? SET_FLAG.INTERVAL : 0) |
    (interval && concat ? SET_FLAG.CONCAT : 0) |
    (data ? SET_FLAG.MAP : 0) |
    (timeoutMs === undefined ? 0 : SET_FLAG.TIMEOUT) |
    (options.dynamic ? SET_FLAG.EVAL : 0);
  const id = ++setNumber;
  return message(`make set ${family} ${table} ${name}`, NFT.NEWSET, NLM_F.CREATE, (w) => {
    header(w, family);
    w.attribute(1, () => w.string(table)).attribute(2, () => w.string(name));
    w.attribute(3, () => w.u32be(flags));
    w.attribute(4, () => w.u32be(packedTypes(key))).attribute(5, () => w.u32be(sizeOf(key)));
    if (data === 'verdict')
      w.attribute(6, () => w.u32be(NFT_DATA_VERDICT)).attribute(7, () => w.u32be(VERDICT_BYTES));
    else if (data) w.attribute(6, () => w.u32be(packedTypes(data))).attribute(7, () => w.u32be(sizeOf(data)));
    w.nest(9, () => {
      if (options.size !== undefined) w.attribute(1, () => w.u32be(options.size!));
      if (interval && concat)
        w.nest(2, () => {
          for (const part of key) w.nest(NFTA_LIST_ELEM, () => w.attribute(1, () => w.u32be(part.size)));
        });
    });
    w.attribute(10, () => w.u32be(id));
    if (timeoutMs) w.attribute(11, () => w.u64be(BigInt(timeoutMs)));
    if (options.counter) {
      const { name: expression, write } = counter();
      w.nest(17, () => w.attribute(1, () => w.string(expression)).nest(2, () => write(w)));
    }
    // Without it nft shows numbers of the host's order turned round.
    w.attribute(13, () => {
      w.u8(UDATA_KEY_BYTEORDER).u8(4).u32(byteOrder(key));
      if (data && data !== 'verdict') w.u8(UDATA_DATA_BYTEORDER).u8(4).u32(byteOrder(data));
    });
  });
}

/** BYTEORDER_* of nft's include/datatype.h; a concatenation has none of its own. */
function byteOrder(types: readonly DatumType[]): number {
  if (types.length !== 1) return 0;
  return HOST_ORDER.has(types[0]!.name) ? 1 : 2;
}

/** A socket to nf_tables of one network namespace, for transactions of any kind. */
export class NftBatch {
  readonly #socket: NetlinkSocket;

  private constructor(socket: NetlinkSocket) {
    this.#socket = socket;
  }

  /** Throws KERNEL_SYSCALL, KERNEL_NEEDS_ROOT. */
  static open(options: { readonly netns?: number | { readonly fd: number } | undefined } = {}): NftBatch {
    return new NftBatch(NetlinkSocket.open({ netns: options.netns, protocol: NETLINK.NETFILTER }));
  }

  /**
   * Carries out changes in their order, all or none; with `generation`, only if nothing was changed since. Throws
   * NFT_GENERATION_CHANGED, NFT_ELEMENTS_REFUSED, NFT_CHANGE_REFUSED.
   */
  apply(changes: readonly BatchChange[], options: { readonly generation?: number | undefined } = {}): void {
    const parts: { readonly request: NlRequest; readonly fail: (ack: Ack) => Error }[] = [];
    for (const change of changes) {
      if (change.kind === 'message')
        parts.push({
          request: change.request,
          fail: (ack) =>
            nftError('NFT_CHANGE_REFUSED', { change: change.what }, kernelFailure(-ack.errno, ack.message)),
        });
      else
        for (const part of elementMessages(change))
          parts.push({ request: part.request, fail: (ack) => refusal(part, ack) });
    }
    if (parts.length === 0) return;
    const requests = parts.map(({ request }) => request);
    const refused = runTransaction(this.#socket, 'change nftables', requests, options.generation);
    if (refused) throw parts[refused.index]!.fail(refused.ack);
  }

  /** Number of the ruleset's generation; it goes up with each transaction of anybody. */
  generation(): number {
    const generation = nftGeneration(this.#socket);
    if (generation === undefined) throw nftError('NFT_LIST_FAILED', { what: 'the generation of nftables' });
    return generation;
  }

  /** Names of the table's chains; undefined when there is no such table. Throws NFT_LIST_FAILED. */
  chains(place: NftTable): string[] | undefined {
    if (readTable(this.#socket, place) === 'absent') return undefined;
    const chains = dumpChains(this.#socket, place.family).filter(({ table }) => table === place.table);
    return chains.map(({ name }) => name);
  }

  /** Names of the table's sets and maps. */
  sets(place: NftTable): string[] {
    return dumpSets(this.#socket, place).map(({ name }) => name);
  }

  /** All rules of a table, chain by chain in their order. Throws NFT_LIST_FAILED. */
  rules(place: NftTable): NftRuleFound[] {
    return dumpRules(this.#socket, place);
  }

  close(): void {
    this.#socket.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
