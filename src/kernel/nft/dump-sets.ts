/** Sets and maps as the kernel tells them, and their elements, by netlink. */
import { nftError } from '../../errors/nft.ts';
import { attributeTable, type NetlinkSocket, nlBytes, nlString, nlU32be, nlU64be } from '../netlink/index.ts';
import { ERRNO } from '../syscall/index.ts';
import type { NftTableName } from './change.ts';
import { typesOf } from './datum.ts';
import { dump } from './dump.ts';
import { elementMessages, labelOf, NFTA_SET_ELEM_LIST, writeNames } from './element-messages.ts';
import { FAMILY, NFT, writeHeader } from './messages.ts';
import { joinIntervals, type NftElement, type NftSet, type RawElement, readElements } from './set-element.ts';

/** enum nft_set_flags */
const SET_FLAG = { ANONYMOUS: 1, INTERVAL: 4, MAP: 8, TIMEOUT: 0x10, EVAL: 0x20, OBJECT: 0x40 } as const;
const VERDICT_TYPE = 0xffff_ff00;

const setAttributes = attributeTable('an nftables set', {
  table: [1, 'NFTA_SET_TABLE', nlString],
  name: [2, 'NFTA_SET_NAME', nlString],
  flags: [3, 'NFTA_SET_FLAGS', nlU32be],
  keyType: [4, 'NFTA_SET_KEY_TYPE', nlU32be],
  dataType: [6, 'NFTA_SET_DATA_TYPE', nlU32be],
  timeout: [11, 'NFTA_SET_TIMEOUT', nlU64be, 'milliseconds'],
  handle: [16, 'NFTA_SET_HANDLE', nlU64be],
});

const elementListAttributes = attributeTable('a list of set elements', {
  elements: [NFTA_SET_ELEM_LIST.ELEMENTS, 'NFTA_SET_ELEM_LIST_ELEMENTS', nlBytes],
});

/** A set or map by its looks. */
export interface NftSetFound {
  readonly name: string;
  readonly handle: bigint;
  /** Types of its key as nft writes them, empty when one is not known here. */
  readonly key: string;
  readonly map: boolean;
  /** Types of a map's values, likewise; undefined where they are verdicts. */
  readonly data: string | undefined;
  readonly interval: boolean;
  /** Rules add elements. */
  readonly dynamic: boolean;
  /** As of NftSetShape. */
  readonly timeoutMs: number | undefined;
}

/** What the kernel knows about a set. Throws NFT_NO_SUCH_SET, NFT_SET_UNSUPPORTED. */
export function readSet(socket: NetlinkSocket, { family, table }: NftTableName, name: string): NftSet {
  const label = `${family} ${table} ${name}`;
  let found: ReturnType<typeof setAttributes.read> | undefined;
  const cause = socket.request(
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

/** Sets and maps of a table, anonymous ones left out; none when there is no such table. Throws NFT_LIST_FAILED. */
export function dumpSets(socket: NetlinkSocket, { family, table }: NftTableName): NftSetFound[] {
  return dump(socket, {
    what: `sets of nftables table "${family} ${table}"`,
    get: NFT.GETSET,
    family: FAMILY[family],
    write: (writer) => setAttributes.write(writer, { table }),
    read({ type, body }) {
      if (type !== NFT.NEWSET) return undefined;
      const set = setAttributes.readFrom(body, 4);
      const flags = set.flags ?? 0;
      if (set.table !== table || set.name === undefined || flags & SET_FLAG.ANONYMOUS) return undefined;
      const namesOf = (packed: number) =>
        typesOf(packed)
          ?.map(({ name }) => name)
          .join(' . ') ?? '';
      const map = (flags & SET_FLAG.MAP) !== 0;
      return {
        name: set.name,
        handle: set.handle ?? 0n,
        key: namesOf(set.keyType ?? 0),
        map,
        data: map && set.dataType !== VERDICT_TYPE ? namesOf(set.dataType ?? 0) : undefined,
        interval: (flags & SET_FLAG.INTERVAL) !== 0,
        dynamic: (flags & SET_FLAG.EVAL) !== 0,
        timeoutMs: flags & SET_FLAG.TIMEOUT ? Number(set.timeout ?? 0n) : undefined,
      };
    },
  });
}

/** The element that a set has under this key, not an interval; undefined when there is none, or no such set. */
export function readElement(
  socket: NetlinkSocket,
  set: NftSet,
  key: NftElement['key'],
): NftElement | undefined {
  const raw: RawElement[] = [];
  const label = labelOf(set);
  const [message] = elementMessages({ kind: 'delete', set, elements: [{ key }] });
  const cause = socket.request(
    `read an element of nftables set "${label}"`,
    { ...message!.request, type: NFT.GETSETELEM },
    ({ type, body }) => {
      const { elements } = type === NFT.NEWSETELEM ? elementListAttributes.readFrom(body, 4) : {};
      if (elements) readElements(set, elements, raw);
    },
  );
  if (cause?.errno === ERRNO.ENOENT) return undefined;
  if (cause) throw nftError('NFT_LIST_FAILED', { what: `an element of nftables set "${label}"` }, cause);
  return joinIntervals(set, raw)[0];
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
