/** Connection tracking of a network namespace: list, count, make and delete entries by ctnetlink. */
import type { IpAddress } from '../../addr/index.ts';
import { nftError } from '../../errors/nft.ts';
import { AF, NETLINK, NetlinkSocket, NLM_F, type NlRequest, type NlWriter } from '../netlink/index.ts';
import { ERRNO } from '../syscall/index.ts';
import { type ConntrackSocket, IPS, type TranslatedConnection, writeConnection } from './create.ts';
import {
  type ConntrackEntry,
  type ConntrackTuple,
  conntrackAttributes,
  readEntry,
  statisticsAttributes,
} from './entry.ts';
import { isFrom, type Senders, sendersOf } from './senders.ts';

export type { ConntrackEntry, ConntrackSocket, ConntrackTuple, TranslatedConnection };
export { IPS, type Senders, sendersOf };

/** Subsystem 1 of nfnetlink in the high byte, enum ctnl_msg_types in the low one. */
const IPCTNL = { NEW: 0x100, GET: 0x101, DELETE: 0x102, GET_STATS: 0x105 } as const;
/** Since 4.10 a deletion may ask that the id is compared, too. */
const CTA_ID = 12;

/** Which entries; all parts given must match. */
export interface ConntrackFilter {
  /** Default both. */
  readonly family?: 4 | 6;
  /** IPPROTO_*. */
  readonly protocol?: number;
  /** Where the first packet was sent to: the address of a Service. */
  readonly originalDestination?: IpAddress;
  readonly originalDestinationPort?: number;
  readonly originalSource?: IpAddress;
  /** Who answers: the backend, behind DNAT. */
  readonly replySource?: IpAddress;
  readonly replySourcePort?: number;
  /** Who sent the first packet, or answers: one of these. By far the cheapest for large tables. */
  readonly senders?: Senders;
}

export class Conntrack {
  readonly #netlink: NetlinkSocket;

  private constructor(netlink: NetlinkSocket) {
    this.#netlink = netlink;
  }

  /** Throws KERNEL_SYSCALL, KERNEL_NEEDS_ROOT. */
  static open(options: { readonly netns?: number | { readonly fd: number } | undefined } = {}): Conntrack {
    return new Conntrack(NetlinkSocket.open({ netns: options.netns, protocol: NETLINK.NETFILTER }));
  }

  /** Entries that match. Throws CONNTRACK_FAILED. */
  list(filter: ConntrackFilter = {}): ConntrackEntry[] {
    const family = filter.family ?? filter.originalDestination?.family ?? filter.replySource?.family;
    let found: ConntrackEntry[] = [];
    const cause = this.#netlink.dump(
      'connection tracking entries',
      { type: IPCTNL.GET, flags: 0, write: (writer) => writeHeader(writer, family) },
      () => {
        found = [];
      },
      (message) => {
        if (message.type !== IPCTNL.NEW) return;
        if (filter.senders && !isFrom(message.body, filter.senders)) return;
        const entry = readEntry(message.body);
        if (entry && matches(entry, filter)) found.push(entry);
      },
    );
    if (cause) throw nftError('CONNTRACK_FAILED', { action: 'list' }, cause);
    return found;
  }

  /** How many entries there are, without listing them (>= 5.10). Throws CONNTRACK_FAILED. */
  count(): number {
    let entries: number | undefined;
    const cause = this.#netlink.request(
      'count connection tracking entries',
      { type: IPCTNL.GET_STATS, flags: 0, write: (writer) => writeHeader(writer, undefined) },
      (message) => {
        if (message.type === IPCTNL.GET_STATS)
          entries = statisticsAttributes.readFrom(message.body, 4).entries;
      },
    );
    if (cause || entries === undefined) throw nftError('CONNTRACK_FAILED', { action: 'count' }, cause);
    return entries;
  }

  /** Deletes these entries and no others, not even new ones of the same addresses. Returns how many were there. */
  delete(entries: readonly ConntrackEntry[]): number {
    const verdicts = this.#netlink.batch('delete connection tracking entries', entries.map(deletion));
    for (const cause of verdicts)
      if (cause && cause.errno !== ERRNO.ENOENT)
        throw nftError('CONNTRACK_FAILED', { action: 'delete' }, cause);
    return verdicts.filter((cause) => cause === undefined).length;
  }

  /**
   * Makes connections with their translation. Returns those that could not be made because another one has one of
   * their tuples. Throws CONNTRACK_FAILED.
   */
  create(connections: readonly TranslatedConnection[]): TranslatedConnection[] {
    const verdicts = this.#netlink.batch('make connection tracking entries', connections.map(creation));
    const taken: TranslatedConnection[] = [];
    verdicts.forEach((cause, at) => {
      if (!cause) return;
      if (cause.errno !== ERRNO.EEXIST) throw nftError('CONNTRACK_FAILED', { action: 'make' }, cause);
      taken.push(connections[at]!);
    });
    return taken;
  }

  /** Deletes what matches; a filter that would match everything is refused by the type. Returns how many. */
  deleteMatching(
    filter: ConntrackFilter &
      ({ protocol: number } | { replySource: IpAddress } | { originalDestination: IpAddress }),
  ): number {
    return this.delete(this.list(filter));
  }

  close(): void {
    this.#netlink.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function creation(connection: TranslatedConnection): NlRequest {
  return {
    type: IPCTNL.NEW,
    flags: NLM_F.CREATE | NLM_F.EXCL,
    write(writer) {
      writeHeader(writer, connection.client.address.family);
      writeConnection(writer, connection);
    },
  };
}

/** Without a tuple this message would empty the table, so the tuple is always written. */
function deletion(entry: ConntrackEntry): NlRequest {
  return {
    type: IPCTNL.DELETE,
    flags: NLM_F.ACK,
    write(writer) {
      writeHeader(writer, entry.family);
      conntrackAttributes.write(writer, {
        original: { bytes: entry.raw, tuple: {} },
        ...(entry.zone === 0 ? {} : { zone: entry.zone }),
      });
      writer.attribute(CTA_ID, () => writer.u32be(entry.id));
    },
  };
}

/** struct nfgenmsg. */
function writeHeader(writer: NlWriter, family: 4 | 6 | undefined): void {
  const number = family === undefined ? AF.UNSPEC : family === 4 ? AF.INET : AF.INET6;
  writer.u8(number).u8(0).u16be(0);
}

/** True when the entry is one that the filter asks for. */
export function matches(entry: ConntrackEntry, filter: ConntrackFilter): boolean {
  const { original, reply } = entry;
  const is = <T>(wanted: T | undefined, actual: T) => wanted === undefined || wanted === actual;
  const equal = (wanted: IpAddress | undefined, actual: IpAddress) => !wanted || wanted.equals(actual);
  return (
    is(filter.family, entry.family) &&
    is(filter.protocol, original.protocol) &&
    is(filter.originalDestinationPort, original.destinationPort) &&
    is(filter.replySourcePort, reply.sourcePort) &&
    equal(filter.originalDestination, original.destination) &&
    equal(filter.originalSource, original.source) &&
    equal(filter.replySource, reply.source)
  );
}
