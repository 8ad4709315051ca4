/**
 * Changes tables, chains, rules, sets and elements by raw nfnetlink, as one transaction: what costs nft(8) its start, a
 * listing of everything and a parse is a send of some kilobytes.
 *
 *   BATCH_BEGIN | NEWTABLE | NEWSET | NEWCHAIN | DELRULE (flush) | NEWRULE ... | NEWSETELEM ... | BATCH_END   one datagram
 */
import { nftError } from '../../errors/nft.ts';
import { NETLINK, NetlinkSocket } from '../netlink/index.ts';
import { kernelFailure } from '../syscall/index.ts';
import { changeText, type NftChange, type NftPlace, type NftTableName } from './change.ts';
import { changeMessages } from './change-bytes.ts';
import { dumpChains, dumpRules, type NftChainFound, type NftRuleFound, readTable } from './dump.ts';
import { dumpElements, dumpSets, type NftSetFound, readElement, readSet } from './dump-sets.ts';
import { refusal } from './element-messages.ts';
import { runTransaction } from './messages.ts';
import { nftGeneration } from './monitor.ts';
import type { NftElement, NftSet } from './set-element.ts';

/** Of a refused change, so much is told. */
const LONGEST_TEXT = 300;

/** A socket to nf_tables of one network namespace. */
export class NftRuleset {
  readonly #socket: NetlinkSocket;

  private constructor(socket: NetlinkSocket) {
    this.#socket = socket;
  }

  /** Throws KERNEL_SYSCALL, KERNEL_NEEDS_ROOT. */
  static open(options: NftPlace = {}): NftRuleset {
    return new NftRuleset(NetlinkSocket.open({ netns: options.netns, protocol: NETLINK.NETFILTER }));
  }

  /**
   * Carries out changes in their order, all or none: a packet meets the rules from before or those from after. With
   * `generation`, only if nothing was changed since it was read. Adding an element that exists with the same
   * data is success; to give a key other data, delete it first. Throws NFT_CHANGE_REFUSED naming the change,
   * NFT_ELEMENTS_REFUSED naming the element, NFT_GENERATION_CHANGED, NFT_VALUE_INVALID.
   */
  apply(changes: readonly NftChange[], options: { readonly generation?: number | undefined } = {}): void {
    const messages = changeMessages(changes);
    if (messages.length === 0) return;
    const refused = runTransaction(
      this.#socket,
      'change nftables',
      messages.map(({ request }) => request),
      options.generation,
    );
    if (!refused) return;
    const { ack, index } = refused;
    const { change, part } = messages[index]!;
    if (part) throw refusal(part, ack);
    const text = changeText(change);
    throw nftError(
      'NFT_CHANGE_REFUSED',
      { change: text.length <= LONGEST_TEXT ? text : `${text.slice(0, LONGEST_TEXT)}...` },
      kernelFailure(-ack.errno, ack.message),
    );
  }

  /** The number that changes with every transaction of anybody. Throws NFT_LIST_FAILED. */
  generation(): number {
    return nftGeneration(this.#socket);
  }

  /** By which notifications tell changes made over this socket from those of others: see monitorNft(). */
  get port(): number {
    return this.#socket.port;
  }

  /** Whether there is such a table; a dormant one does nothing. Throws NFT_LIST_FAILED. */
  table(place: NftTableName): 'absent' | 'dormant' | 'awake' {
    return readTable(this.#socket, place);
  }

  /** Ends `flags dormant` of a table; returns whether it had them. Throws NFT_CHANGE_REFUSED. */
  wake({ family, table }: NftTableName): boolean {
    if (this.table({ family, table }) !== 'dormant') return false;
    this.apply([{ family, table, change: 'wake table' }]);
    return true;
  }

  /** Chains of one table; none when there is no such table. Throws NFT_LIST_FAILED. */
  chains({ family, table }: NftTableName): NftChainFound[] {
    return dumpChains(this.#socket, family).filter((chain) => chain.table === table);
  }

  /** Chains of all families and tables. Throws NFT_LIST_FAILED. */
  allChains(): NftChainFound[] {
    return dumpChains(this.#socket);
  }

  /** Rules of one table, chain by chain in their order, or of one chain. Throws NFT_LIST_FAILED. */
  rules(place: NftTableName, chain?: string): NftRuleFound[] {
    return dumpRules(this.#socket, place, chain);
  }

  /** Sets and maps of one table, anonymous ones left out. Throws NFT_LIST_FAILED. */
  sets(place: NftTableName): NftSetFound[] {
    return dumpSets(this.#socket, place);
  }

  /** What the kernel knows about a set. Throws NFT_NO_SUCH_SET, NFT_SET_UNSUPPORTED. */
  set(place: NftTableName, name: string): NftSet {
    return readSet(this.#socket, place, name);
  }

  /** The element under a key of a set without intervals; undefined when there is none. Throws NFT_LIST_FAILED. */
  element(set: NftSet, key: NftElement['key']): NftElement | undefined {
    return readElement(this.#socket, set, key);
  }

  /** All elements of a set. Throws NFT_NO_SUCH_SET, NFT_LIST_FAILED. */
  elements(set: NftSet): NftElement[] {
    return dumpElements(this.#socket, set);
  }

  close(): void {
    this.#socket.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
