/** Messages of nf_tables: their numbers, their header, and the frame of a transaction. */
import { nftError } from '../../errors/nft.ts';
import type { Ack, NetlinkSocket, NlRequest, NlWriter } from '../netlink/index.ts';
import { kernelFailure } from '../syscall/index.ts';
import type { NftFamily } from './set-element.ts';

/** Subsystem 10 of nfnetlink in the high byte, enum nf_tables_msg_types in the low one. */
export const NFT = {
  NEWTABLE: 0xa00,
  GETTABLE: 0xa01,
  DELTABLE: 0xa02,
  NEWCHAIN: 0xa03,
  GETCHAIN: 0xa04,
  DELCHAIN: 0xa05,
  NEWRULE: 0xa06,
  GETRULE: 0xa07,
  DELRULE: 0xa08,
  NEWSET: 0xa09,
  GETSET: 0xa0a,
  DELSET: 0xa0b,
  NEWSETELEM: 0xa0c,
  GETSETELEM: 0xa0d,
  DELSETELEM: 0xa0e,
  NEWGEN: 0xa0f,
  GETGEN: 0xa10,
  TRACE: 0xa11,
} as const;
const NFNL_MSG_BATCH_BEGIN = 16;
const NFNL_MSG_BATCH_END = 17;
const NFNL_SUBSYS_NFTABLES = 10;
const NFNL_BATCH_GENID = 1;
const ERESTART = 85;

/** NFPROTO_*: include/uapi/linux/netfilter.h. */
export const FAMILY: Readonly<Record<NftFamily, number>> = {
  inet: 1,
  ip: 2,
  arp: 3,
  netdev: 5,
  bridge: 7,
  ip6: 10,
};

const FAMILY_NAMES = new Map(
  (Object.entries(FAMILY) as [NftFamily, number][]).map(([name, number]) => [number, name]),
);

/** The family that a message is about as nft calls it; its number when it has no name. */
export function familyOf(body: Uint8Array): string {
  const number = body[0] ?? 0;
  return FAMILY_NAMES.get(number) ?? String(number);
}

/** enum nf_inet_hooks */
export const HOOKS = { prerouting: 0, input: 1, forward: 2, output: 3, postrouting: 4 } as const;

/** struct nfgenmsg. */
export function writeHeader(writer: NlWriter, family: number, resource: number): void {
  writer.u8(family).u8(0).u16be(resource);
}

/**
 * Carries messages out as one transaction, with `generation` only if nothing was changed since it was read. Returns
 * what the kernel dislikes most and the index of the message, or undefined. Throws NFT_GENERATION_CHANGED.
 */
export function runTransaction(
  socket: NetlinkSocket,
  what: string,
  messages: readonly NlRequest[],
  generation?: number,
): { readonly index: number; readonly ack: Ack } | undefined {
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
  const failures = [...socket.transaction(what, [begin, ...messages, end])].sort(([a], [b]) => a - b);
  const first = failures[0];
  if (!first) return undefined;
  const [index, ack] = first;
  if (index === 0 && ack.errno === ERESTART && generation !== undefined)
    throw nftError(
      'NFT_GENERATION_CHANGED',
      { expected: generation },
      kernelFailure(-ack.errno, ack.message),
    );
  // The whole transaction is refused for what is wrong with one of its messages, if that is told.
  const [at, why] = failures.find(([each]) => each > 0) ?? first;
  return { index: Math.max(0, at - 1), ack: why };
}
