/** Changes of elements as messages. Pure. */
import { NLM_F, type NlRequest, type NlWriter } from '../netlink/index.ts';
import { FAMILY, NFT, writeHeader } from './messages.ts';
import { ElementWriter, type NftElement, type NftSet } from './set-element.ts';

export const NFTA_SET_ELEM_LIST = { TABLE: 1, SET: 2, ELEMENTS: 3 } as const;
const ELEMENTS_A_MESSAGE = 1500;
const BYTES_A_MESSAGE = 60_000;
/** Most changes are a few elements; the buffer grows for others. */
const SMALL_BYTES = 1024;
/** struct nlmsghdr and struct nfgenmsg before the attributes. */
const HEADERS = 20;

/** One change of a set's elements. */
export type ElementChange =
  | { readonly kind: 'add' | 'delete'; readonly set: NftSet; readonly elements: Iterable<NftElement> }
  /** Removes all elements. */
  | { readonly kind: 'flush'; readonly set: NftSet };

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
  const part = (list: Uint8Array | undefined, elements: NftElement[], offsets: number[]): ElementMessage => ({
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
