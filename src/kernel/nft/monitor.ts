import {
  cString,
  NETLINK,
  NetlinkMonitor,
  NetlinkSocket,
  type NlMessage,
  readAttributes,
  viewOf,
} from '../netlink/index.ts';
import type { NftPlace } from './transaction.ts';

/** nfnetlink.h and nf_tables.h */
const NFNLGRP_NFTABLES = 7;
const NFNL_SUBSYS_NFTABLES = 10;
const NFT_MSG_NEWGEN = 15;
const NFT_MSG_GETGEN = 16;
const NFTA_GEN_ID = 1;
/** Who changed the rules, by the kernel's own number. */
const NFTA_GEN_PROC_PID = 2;
/** Rules and elements have the name of their chain or set at 2, as sets have their own. */
const NFTA_CHAIN_NAME = 3;
const HEADER_BYTES = 4;
const AF_OF = new Map([
  [1, 'inet'],
  [2, 'ip'],
  [5, 'netdev'],
  [7, 'bridge'],
  [10, 'ip6'],
  [3, 'arp'],
]);
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
}

/** Tells changes of nftables rules, this process's own included. */
export function monitorNft(
  options: NftPlace & {
    readonly onEvent: (event: NftEvent) => void;
    /**
     * A transaction's events have all been told; its number is that of the ruleset's generation after it.
     * `processId` is who made it, as the kernel counts processes.
     */
    readonly onGeneration?: (generation: number, processId: number | undefined) => void;
    readonly onResync: (reason: string) => void;
  },
): NetlinkMonitor {
  return new NetlinkMonitor({
    netns: options.netns,
    protocol: NETLINK.NETFILTER,
    groups: [NFNLGRP_NFTABLES],
    onMessage(message) {
      const event = readNftEvent(message);
      if (event) options.onEvent(event);
      else if (options.onGeneration && message.type === ((NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_NEWGEN)) {
        const { generation, processId } = readGeneration(message.body);
        if (generation !== undefined) options.onGeneration(generation, processId);
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
  const nameAt = about.subject === 'chain' ? NFTA_CHAIN_NAME : 2;
  // Attribute 1 is the name of the table in every one of these messages; 2 that of the set, or of a rule's chain.
  readAttributes(body, HEADER_BYTES, 'an nftables notification', (attribute, value) => {
    if (attribute === 1) table = cString(value);
    else if (attribute === nameAt && about.subject !== 'table') name = cString(value);
    if (attribute === 2 && about.subject === 'element') set = name;
  });
  const family = AF_OF.get(body[0]!) ?? String(body[0]);
  return {
    ...about,
    family,
    table,
    ...(set === undefined ? {} : { set }),
    ...(name === undefined ? {} : { name }),
  };
}

/** Number of the ruleset's generation: one more after each transaction of anybody. */
export function nftGeneration(socket: NetlinkSocket): number | undefined {
  let generation: number | undefined;
  socket.request(
    'read the generation of the nftables rules',
    {
      type: (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETGEN,
      flags: 0,
      write: (w) => {
        w.u8(0).u8(0).u16be(0);
      },
    },
    ({ body }) => {
      ({ generation } = readGeneration(body));
    },
  );
  return generation;
}

function readGeneration(body: Uint8Array): {
  generation: number | undefined;
  processId: number | undefined;
} {
  let generation: number | undefined;
  let processId: number | undefined;
  if (body.length >= HEADER_BYTES)
    readAttributes(body, HEADER_BYTES, 'the generation of the nftables rules', (attribute, value) => {
      if (value.length !== 4) return;
      if (attribute === NFTA_GEN_ID) generation = viewOf(value).getUint32(0);
      if (attribute === NFTA_GEN_PROC_PID) processId = viewOf(value).getUint32(0);
    });
  return { generation, processId };
}

/** A socket to ask for the generation with. */
export function openNfnetlink({ netns }: NftPlace): NetlinkSocket {
  return NetlinkSocket.open({ netns, protocol: NETLINK.NETFILTER });
}
