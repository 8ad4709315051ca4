/**
 * Changes elements of nftables sets and maps by raw nfnetlink, many in one transaction: what `nft -f -` does in 100 ms
 * takes 10. Tables, chains and sets themselves are made by ruleset.ts, or by text, see transaction.ts.
 *
 *   BATCH_BEGIN(generation) | DELSETELEM ... | NEWSETELEM (<= 1,500 elements each) ... | BATCH_END    one datagram
 *
 * A nested attribute's length has 16 bits, hence the limit on elements a message.
 */
import { nftError } from '../../errors/nft.ts';
import {
  type Ack,
  attributeTable,
  NETLINK,
  NetlinkSocket,
  nlBytes,
  nlString,
  nlU32be,
  nlU64be,
} from '../netlink/index.ts';
import { ERRNO, kernelFailure } from '../syscall/index.ts';
import { typesOf } from './datum.ts';
import { dumpSets, type NftSetFound } from './dump.ts';
import {
  type ElementChange,
  type ElementMessage,
  elementMessages,
  NFTA_SET_ELEM_LIST,
  writeNames,
} from './element-messages.ts';
import { FAMILY, NFT, runTransaction, writeHeader } from './messages.ts';
import {
  formatKey,
  joinIntervals,
  type NftElement,
  type NftFamily,
  type NftSet,
  type RawElement,
  readElements,
} from './set-element.ts';

/** NFT_SET_ANONYMOUS, NFT_SET_INTERVAL, NFT_SET_MAP, NFT_SET_TIMEOUT, NFT_SET_OBJECT. */
const SET_FLAG = { ANONYMOUS: 1, INTERVAL: 4, MAP: 8, TIMEOUT: 0x10, OBJECT: 0x40 } as const;
const VERDICT_TYPE = 0xffff_ff00;

const setAttributes = attributeTable('an nftables set', {
  table: [1, 'NFTA_SET_TABLE', nlString],
  name: [2, 'NFTA_SET_NAME', nlString],
  flags: [3, 'NFTA_SET_FLAGS', nlU32be],
  keyType: [4, 'NFTA_SET_KEY_TYPE', nlU32be],
  keyLength: [5, 'NFTA_SET_KEY_LEN', nlU32be],
  dataType: [6, 'NFTA_SET_DATA_TYPE', nlU32be],
  timeout: [11, 'NFTA_SET_TIMEOUT', nlU64be, 'milliseconds'],
});

const elementListAttributes = attributeTable('a list of set elements', {
  elements: [NFTA_SET_ELEM_LIST.ELEMENTS, 'NFTA_SET_ELEM_LIST_ELEMENTS', nlBytes],
});

const generationAttributes = attributeTable('the generation of nftables', {
  id: [1, 'NFTA_GEN_ID', nlU32be],
  processId: [2, 'NFTA_GEN_PROC_PID', nlU32be, 'of who changed it; in an answer, of who asked'],
});

/** A socket to nf_tables of one network namespace. */
export class NftElements {
  readonly #socket: NetlinkSocket;

  private constructor(socket: NetlinkSocket) {
    this.#socket = socket;
  }

  /** Throws KERNEL_SYSCALL, KERNEL_NEEDS_ROOT. */
  static open(options: { readonly netns?: number | { readonly fd: number } | undefined } = {}): NftElements {
    return new NftElements(NetlinkSocket.open({ netns: options.netns, protocol: NETLINK.NETFILTER }));
  }

  /** What the kernel knows about a set. Throws NFT_NO_SUCH_SET, NFT_SET_UNSUPPORTED. */
  set(family: NftFamily, table: string, name: string): NftSet {
    const label = `${family} ${table} ${name}`;
    let found: ReturnType<typeof setAttributes.read> | undefined;
    const cause = this.#socket.request(
      `read nftables set "${label}"`,
      {
        type: NFT.GETSET,
        flags: 0,
        write: (writer) => {
          writeHeader(writer, FAMILY[family], 0);
          setAttributes.write(writer, { table, name });
        },
      },
      (message) => {
        if (message.type === NFT.NEWSET) found = setAttributes.readFrom(message.body, 4);
      },
    );
    if (cause?.errno === ERRNO.ENOENT || (!cause && !found))
      throw nftError('NFT_NO_SUCH_SET', { set: label }, cause);
    if (cause || !found) throw nftError('NFT_LIST_FAILED', { what: `nftables set "${label}"` }, cause);
    const { flags = 0, keyType = 0, dataType = 0, timeout } = found;
    const unsupported = (why: string): never => {
      throw nftError('NFT_SET_UNSUPPORTED', { set: label, why });
    };
    const key = typesOf(keyType) ?? unsupported(`its key has a type that is not known here (${keyType})`);
    if (flags & SET_FLAG.OBJECT) unsupported('it maps to stateful objects');
    const isMap = (flags & SET_FLAG.MAP) !== 0;
    const dataOf = () =>
      typesOf(dataType) ?? unsupported(`its data has a type that is not known here (${dataType})`);
    const data = !isMap ? undefined : dataType === VERDICT_TYPE ? 'verdict' : dataOf();
    return {
      family,
      table,
      name,
      key,
      data,
      interval: (flags & SET_FLAG.INTERVAL) !== 0,
      timeoutMs: flags & SET_FLAG.TIMEOUT ? Number(timeout ?? 0n) : undefined,
    };
  }

  /** Sets and maps of a table; none when there is no such table. Throws NFT_LIST_FAILED. */
  sets(family: NftFamily, table: string): NftSetFound[] {
    return dumpSets(this.#socket, { family, table });
  }

  /** All elements of a set. Throws NFT_NO_SUCH_SET, NFT_LIST_FAILED. */
  list(set: NftSet): NftElement[] {
    return dumpElements(this.#socket, set);
  }

  /** The number that changes with every change of nftables in this namespace. */
  generation(): number {
    return this.#generation().id;
  }

  /**
   * The number by which the kernel calls this process in notifications of changes. It is not process.pid inside a
   * PID namespace.
   */
  processId(): number | undefined {
    return this.#generation().processId;
  }

  #generation(): { id: number; processId: number | undefined } {
    let id: number | undefined;
    let processId: number | undefined;
    const cause = this.#socket.request(
      'read the generation of nftables',
      { type: NFT.GETGEN, flags: 0, write: (writer) => writeHeader(writer, 0, 0) },
      (message) => {
        if (message.type === NFT.NEWGEN) ({ id, processId } = generationAttributes.readFrom(message.body, 4));
      },
    );
    if (cause || id === undefined)
      throw nftError('NFT_LIST_FAILED', { what: 'the generation of nftables' }, cause);
    return { id, processId };
  }

  /**
   * Carries out changes in their order, all or none. With `generation`, only if nothing was changed since it was
   * read. Adding an element that exists with the same data is success; to give a key other data, delete it first,
   * in the same transaction. Throws NFT_GENERATION_CHANGED, NFT_ELEMENTS_REFUSED naming the element.
   */
  apply(changes: readonly ElementChange[], options: { readonly generation?: number } = {}): void {
    const parts = changes.flatMap((change) => [...elementMessages(change)]);
    if (parts.length === 0) return;
    const refused = runTransaction(
      this.#socket,
      'change nftables elements',
      parts.map(({ request }) => request),
      options.generation,
    );
    if (refused) throw refusal(parts[refused.index]!, refused.ack);
  }

  /** Makes the set hold exactly these elements, in one step: packets see the old set or the new one. */
  replace(set: NftSet, elements: Iterable<NftElement>): void {
    this.apply([
      { kind: 'flush', set },
      { kind: 'add', set, elements },
    ]);
  }

  close(): void {
    this.#socket.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** All elements of a set. Throws NFT_NO_SUCH_SET, NFT_LIST_FAILED. */
export function dumpElements(socket: NetlinkSocket, set: NftSet): NftElement[] {
  let raw: RawElement[] = [];
  const label = labelOf(set);
  const cause = socket.dump(
    `nftables set "${label}"`,
    {
      type: NFT.GETSETELEM,
      flags: 0,
      write: (writer) => {
        writeHeader(writer, FAMILY[set.family], 0);
        writeNames(writer, set);
      },
    },
    () => {
      raw = [];
    },
    (message) => {
      if (message.type !== NFT.NEWSETELEM) return;
      const { elements } = elementListAttributes.readFrom(message.body, 4);
      if (elements) readElements(set, elements, raw);
    },
  );
  if (cause?.errno === ERRNO.ENOENT) throw nftError('NFT_NO_SUCH_SET', { set: label }, cause);
  if (cause) throw nftError('NFT_LIST_FAILED', { what: `elements of nftables set "${label}"` }, cause);
  return joinIntervals(set, raw);
}

/** The error that says which element was refused. */
export function refusal(part: ElementMessage, ack: Ack) {
  const { change, elements, offsets } = part;
  const { offset } = ack;
  const at = offset === undefined ? -1 : offsets.findLastIndex((begin) => begin <= offset);
  const element = elements[at] ?? (elements.length === 1 ? elements[0] : undefined);
  return nftError(
    'NFT_ELEMENTS_REFUSED',
    {
      action: { add: 'add to', delete: 'delete from', flush: 'flush' }[change.kind],
      set: labelOf(change.set),
      element: element ? formatKey(element) : '',
    },
    kernelFailure(-ack.errno, ack.message),
  );
}

function labelOf({ family, table, name }: NftSet): string {
  return `${family} ${table} ${name}`;
}
