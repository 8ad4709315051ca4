import { nftError } from '../../errors/nft.ts';
import {
  cString,
  NETLINK,
  NetlinkMonitor,
  type NetlinkSocket,
  type NlMessage,
  readAttributes,
  viewOf,
} from '../netlink/index.ts';
import type { NftPlace } from './change.ts';
import { familyOf, NFT, writeHeader } from './messages.ts';

/** nfnetlink.h and nf_tables.h */
const NFNLGRP_NFTABLES = 7;
const NFNL_SUBSYS_NFTABLES = 10;
const NFTA_GEN_ID = 1;
/** Rules and elements have the name of their chain or set at 2, as sets have their own. */
const NFTA_CHAIN_NAME = 3;
const NFTA_SET_ELEM_LIST_ELEMENTS = 3;
const HEADER_BYTES = 4;
/** NFT_TABLE_F_DORMANT of NFTA_TABLE_FLAGS */
const TABLE_DORMANT = 1;
/** What a message is about, by its number in enum nf_tables_msg_types. */
const SUBJECTS = new Map<number, { subject: NftSubject; deleted: boolean }>([
  [0, { subject: 'table', deleted: false }],
  [2, { subject: 'table', deleted: true }],
  [3, { subject: 'chain', deleted: false }],
  [5, { subject: 'chain', deleted: true }],
  [6, { subject: 'rule', deleted: false }],
  [8, { subject: 'rule', deleted: true }],
  [9, { subject: 'set', deleted: false }],
  [11, { subject: 'set', deleted: true }],
  [12, { subject: 'element', deleted: false }],
  [14, { subject: 'element', deleted: true }],
]);

export type NftSubject = 'table' | 'chain' | 'rule' | 'set' | 'element';

/** One change that somebody made to the rules of a namespace. */
export interface NftEvent {
  readonly subject: NftSubject;
  readonly deleted: boolean;
  /** `ip`, `ip6`, `inet`, ... */
  readonly family: string;
  readonly table: string;
  /** Name of the set, when elements changed. */
  readonly set?: string;
  /** Name of the chain, of the rule's chain, or of the set; undefined for tables. */
  readonly name?: string;
  /** The elements that changed, for readNftElements(). */
  readonly elements?: Uint8Array;
  /** The table does nothing until it is awake again. */
  readonly dormant?: true;
}

/** Tells changes of nftables rules, this process's own included if they are not ignored. */
export function monitorNft(
  options: NftPlace & {
    readonly onEvent: (event: NftEvent) => void;
    /** A transaction's events have all been told; its number is that of the ruleset's generation after it. */
    readonly onGeneration?: (generation: number) => void;
    /** Sockets (`NftRuleset.port`) whose changes are not told: the kernel leaves them out before it wakes anybody. */
    readonly ignore?: readonly number[] | undefined;
    readonly onResync: (reason: string) => void;
  },
): NetlinkMonitor {
  return new NetlinkMonitor({
    netns: options.netns,
    protocol: NETLINK.NETFILTER,
    groups: [NFNLGRP_NFTABLES],
    ignore: options.ignore,
    onMessage(message) {
      const event = readNftEvent(message);
      if (event) options.onEvent(event);
      else if (options.onGeneration && message.type === NFT.NEWGEN) {
        const generation = readGeneration(message.body);
        if (generation !== undefined) options.onGeneration(generation);
      }
    },
    onResync: options.onResync,
  });
}

/** The event in a notification. Throws NETLINK_MALFORMED. */
export function readNftEvent({ type, body }: Pick<NlMessage, 'type' | 'body'>): NftEvent | undefined {
  if (type >> 8 !== NFNL_SUBSYS_NFTABLES || body.length < HEADER_BYTES) return undefined;
  const about = SUBJECTS.get(type & 0xff);
  if (!about) return undefined;
  let table = '';
  let set: string | undefined;
  let name: string | undefined;
  let dormant = false;
  let elements: Uint8Array | undefined;
  const nameAt = about.subject === 'chain' ? NFTA_CHAIN_NAME : 2;
  // Attribute 1 is the name of the table in every one of these messages; 2 that of the set, or of a rule's chain.
  readAttributes(body, HEADER_BYTES, 'an nftables notification', (attribute, value) => {
    if (attribute === 1) table = cString(value);
    else if (attribute === nameAt && about.subject !== 'table') name = cString(value);
    if (about.subject === 'element') {
      if (attribute === 2) set = name;
      else if (attribute === NFTA_SET_ELEM_LIST_ELEMENTS) elements = value.slice();
    }
    if (attribute === 2 && about.subject === 'table' && value.length >= 4)
      dormant = (viewOf(value).getUint32(0) & TABLE_DORMANT) !== 0;
  });
  return {
    ...about,
    family: familyOf(body),
    table,
    ...(set === undefined ? {} : { set }),
    ...(name === undefined ? {} : { name }),
    ...(elements === undefined ? {} : { elements }),
    ...(dormant ? { dormant } : {}),
  };
}

/** Number of the ruleset's generation: one more after each transaction of anybody. Throws NFT_LIST_FAILED. */
export function nftGeneration(socket: NetlinkSocket): number {
  let generation: number | undefined;
  const cause = socket.request(
    'read the generation of the nftables rules',
    { type: NFT.GETGEN, flags: 0, write: (w) => writeHeader(w, 0, 0) },
    ({ body }) => {
      generation = readGeneration(body);
    },
  );
  if (cause || generation === undefined)
    throw nftError('NFT_LIST_FAILED', { what: 'the generation of nftables' }, cause);
  return generation;
}

function readGeneration(body: Uint8Array): number | undefined {
  let generation: number | undefined;
  if (body.length >= HEADER_BYTES)
    readAttributes(body, HEADER_BYTES, 'the generation of the nftables rules', (attribute, value) => {
      if (attribute === NFTA_GEN_ID && value.length >= 4) generation = viewOf(value).getUint32(0);
    });
  return generation;
}
