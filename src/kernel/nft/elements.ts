/**
 * Changes elements of nftables sets and maps by raw nfnetlink, many in one transaction: what `nft -f -` does in 100 ms
 * takes 10. Tables, chains and sets themselves are made by text, see transaction.ts.
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
  NLM_F,
  type NlRequest,
  type NlWriter,
  nlBytes,
  nlString,
  nlU32be,
  nlU64be,
} from '../netlink/index.ts';
import { ERRNO, kernelFailure } from '../syscall/index.ts';
import { typesOf } from './datum.ts';
import {
  ElementWriter,
  formatKey,
  joinIntervals,
  type NftElement,
  type NftFamily,
  type NftSet,
  type RawElement,
  readElements,
} from './set-element.ts';

/** Subsystem 10 of nfnetlink in the high byte, enum nf_tables_msg_types in the low one. */
const NFT = {
  NEWSET: 0xa09,
  GETSET: 0xa0a,
  NEWSETELEM: 0xa0c,
  GETSETELEM: 0xa0d,
  DELSETELEM: 0xa0e,
  NEWGEN: 0xa0f,
  GETGEN: 0xa10,
} as const;
const NFNL_MSG_BATCH_BEGIN = 16;
const NFNL_MSG_BATCH_END = 17;
const NFNL_SUBSYS_NFTABLES = 10;
const NFNL_BATCH_GENID = 1;
const NFTA_SET_ELEM_LIST = { TABLE: 1, SET: 2, ELEMENTS: 3 } as const;
/** NFT_SET_INTERVAL, NFT_SET_MAP, NFT_SET_TIMEOUT, NFT_SET_OBJECT. */
const SET_FLAG = { INTERVAL: 4, MAP: 8, TIMEOUT: 0x10, OBJECT: 0x40 } as const;
const VERDICT_TYPE = 0xffff_ff00;
const ELEMENTS_A_MESSAGE = 1500;
const BYTES_A_MESSAGE = 60_000;
const ERESTART = 85;
/** struct nlmsghdr and struct nfgenmsg before the attributes. */
const HEADERS = 20;

/** NFPROTO_*: include/uapi/linux/netfilter.h. */
const FAMILY: Readonly<Record<NftFamily, number>> = { inet: 1, ip: 2, arp: 3, netdev: 5, bridge: 7, ip6: 10 };

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
});

/** One change of a set's elements. */
export type ElementChange =
  | { readonly kind: 'add' | 'delete'; readonly set: NftSet; readonly elements: Iterable<NftElement> }
  /** Removes all elements. */
  | { readonly kind: 'flush'; readonly set: NftSet };

/** A message of a transaction and what an error in it is about. */
interface Part {
  readonly request: NlRequest;
  readonly change: ElementChange;
  readonly elements: readonly NftElement[];
  /** Offset of each element in the message, where extended acks point. */
  readonly offsets: readonly number[];
}

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

  /** All elements of a set. Throws NFT_NO_SUCH_SET, NFT_LIST_FAILED. */
  list(set: NftSet): NftElement[] {
    let raw: RawElement[] = [];
    const label = labelOf(set);
    const cause = this.#socket.dump(
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

  /** The number that changes with every change of nftables in this namespace. */
  generation(): number {
    let id: number | undefined;
    const cause = this.#socket.request(
      'read the generation of nftables',
      { type: NFT.GETGEN, flags: 0, write: (writer) => writeHeader(writer, 0, 0) },
      (message) => {
        if (message.type === NFT.NEWGEN) id = generationAttributes.readFrom(message.body, 4).id;
      },
    );
    if (cause || id === undefined)
      throw nftError('NFT_LIST_FAILED', { what: 'the generation of nftables' }, cause);
    return id;
  }

  /**
   * Carries out changes in their order, all or none. With `generation`, only if nothing was changed since it was
   * read. Adding an element that exists with the same data is success; to give a key other data, delete it first,
   * in the same transaction. Throws NFT_GENERATION_CHANGED, NFT_ELEMENTS_REFUSED naming the element.
   */
  apply(changes: readonly ElementChange[], options: { readonly generation?: number } = {}): void {
    const parts = changes.flatMap((change) => [...partsOf(change)]);
    if (parts.length === 0) return;
    const { generation } = options;
    const begin: NlRequest = {
      type: NFNL_MSG_BATCH_BEGIN,
      flags: 0,
      write(writer) {
        writeHeader(writer, 0, NFNL_SUBSYS_NFTABLES);
        if (generation !== undefined) writer.attribute(NFNL_BATCH_GENID, () => writer.u32be(generation));
      },
    };
    const end: NlRequest = {
      type: NFNL_MSG_BATCH_END,
      flags: 0,
      write: (writer) => writeHeader(writer, 0, NFNL_SUBSYS_NFTABLES),
    };
    const requests = [begin, ...parts.map(({ request }) => request), end];
    const failures = this.#socket.transaction('change nftables elements', requests);
    const first = [...failures].sort(([a], [b]) => a - b)[0];
    if (!first) return;
    const [index, ack] = first;
    if (index === 0 && ack.errno === ERESTART && generation !== undefined)
      throw nftError(
        'NFT_GENERATION_CHANGED',
        { expected: generation },
        kernelFailure(-ack.errno, ack.message),
      );
    // The whole transaction is refused for what is wrong with one of its messages, if that is told.
    const specific = [...failures].find(([at]) => at > 0) ?? first;
    throw refusal(parts[specific[0] - 1] ?? parts[0]!, specific[1]);
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

function* partsOf(change: ElementChange): Generator<Part> {
  const { set } = change;
  const type = change.kind === 'add' ? NFT.NEWSETELEM : NFT.DELSETELEM;
  const part = (list: Uint8Array | undefined, elements: NftElement[], offsets: number[]): Part => ({
    change,
    elements,
    offsets,
    request: {
      type,
      flags: change.kind === 'add' ? NLM_F.CREATE : 0,
      write(writer) {
        const start = writer.length;
        writeHeader(writer, FAMILY[set.family], 0);
        writeNames(writer, set);
        if (!list) return;
        writer.nest(NFTA_SET_ELEM_LIST.ELEMENTS, () => {
          const base = writer.length - start + HEADERS - 4;
          offsets.forEach((offset, index) => {
            offsets[index] = offset + base;
          });
          writer.bytes(list);
        });
      },
    },
  });
  if (change.kind === 'flush') {
    yield part(undefined, [], []);
    return;
  }
  const writer = new ElementWriter(set);
  let elements: NftElement[] = [];
  let offsets: number[] = [];
  for (const element of change.elements) {
    if (elements.length === ELEMENTS_A_MESSAGE || writer.length > BYTES_A_MESSAGE) {
      yield part(writer.take(), elements, offsets);
      elements = [];
      offsets = [];
    }
    elements.push(element);
    offsets.push(writer.length);
    writer.add(element, change.kind === 'delete');
  }
  if (elements.length > 0) yield part(writer.take(), elements, offsets);
}

function refusal(part: Part, ack: Ack) {
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

/** struct nfgenmsg. */
function writeHeader(writer: NlWriter, family: number, resource: number): void {
  writer.u8(family).u8(0).u16be(resource);
}

function writeNames(writer: NlWriter, { table, name }: NftSet): void {
  writer.attribute(NFTA_SET_ELEM_LIST.TABLE, () => writer.string(table));
  writer.attribute(NFTA_SET_ELEM_LIST.SET, () => writer.string(name));
}
