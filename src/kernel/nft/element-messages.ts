/** Changes of elements as messages. Pure. */
import { nftError } from '../../errors/nft.ts';
import { type Ack, NLM_F, type NlRequest, type NlWriter } from '../netlink/index.ts';
import { kernelFailure } from '../syscall/index.ts';
import { FAMILY, NFT, writeHeader } from './messages.ts';
import { ElementWriter, formatKey, type NftElement, type NftSet } from './set-element.ts';

export const NFTA_SET_ELEM_LIST = { TABLE: 1, SET: 2, ELEMENTS: 3 } as const;
const ELEMENTS_A_MESSAGE = 1500;
/** The length of a nested attribute has 16 bits. */
export const BYTES_A_MESSAGE = 60_000;
/** Most changes are a few elements; the buffer grows for others. */
const SMALL_BYTES = 1024;
/** struct nlmsghdr and struct nfgenmsg before the attributes. */
const HEADERS = 20;

/** One change of a set's elements. */
export interface ElementChange {
  readonly kind: 'add' | 'delete';
  readonly set: NftSet;
  readonly elements: Iterable<NftElement>;
}

/** A message of a transaction and what an error in it is about. */
export interface ElementMessage {
  readonly request: NlRequest;
  readonly change: ElementChange;
  readonly elements: readonly NftElement[];
  /** Offset of each element in the message, where extended acks point. */
  readonly offsets: readonly number[];
}

/** Messages of at most 1,500 elements each: the length of a nested attribute has 16 bits. */
export function* elementMessages(change: ElementChange): Generator<ElementMessage> {
  const { set } = change;
  const type = change.kind === 'add' ? NFT.NEWSETELEM : NFT.DELSETELEM;
  const part = (list: Uint8Array, elements: NftElement[], offsets: number[]): ElementMessage => ({
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
  const writer = new ElementWriter(set, SMALL_BYTES);
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

export function writeNames(writer: NlWriter, { table, name }: NftSet): void {
  writer.attribute(NFTA_SET_ELEM_LIST.TABLE, () => writer.string(table));
  writer.attribute(NFTA_SET_ELEM_LIST.SET, () => writer.string(name));
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
      action: { add: 'add to', delete: 'delete from' }[change.kind],
      set: labelOf(change.set),
      element: element ? formatKey(element) : '',
    },
    kernelFailure(-ack.errno, ack.message),
  );
}

/** A set's name in messages. */
export function labelOf({ family, table, name }: NftSet): string {
  return `${family} ${table} ${name}`;
}
