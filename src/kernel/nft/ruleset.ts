/**
 * Changes tables, chains, rules, sets and elements by raw nfnetlink, as one transaction: what costs nft(8) its start, a
 * listing of everything and a parse is a send of some kilobytes.
 *
 *   BATCH_BEGIN | NEWTABLE | NEWSET | NEWCHAIN | DELRULE (flush) | NEWRULE ... | NEWSETELEM ... | BATCH_END   one datagram
 */
import { nftError } from '../../errors/nft.ts';
import { NETLINK, NetlinkSocket } from '../netlink/index.ts';
import { kernelFailure } from '../syscall/index.ts';
import { changeText, type NftChange, type NftTableName } from './change.ts';
import { changeMessages } from './change-bytes.ts';
import {
  dumpChains,
  dumpRules,
  dumpSets,
  type NftChainFound,
  type NftRuleFound,
  type NftSetFound,
  readTable,
} from './dump.ts';
import { dumpElements } from './elements.ts';
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
  static open(options: { readonly netns?: number | { readonly fd: number } | undefined } = {}): NftRuleset {
    return new NftRuleset(NetlinkSocket.open({ netns: options.netns, protocol: NETLINK.NETFILTER }));
  }

  /**
   * Carries out changes in their order, all or none: a packet meets the rules from before or those from after. With
   * `generation`, only if nothing was changed since it was read. Throws NFT_CHANGE_REFUSED naming the change,
   * NFT_GENERATION_CHANGED, NFT_VALUE_INVALID.
   */
  apply(changes: readonly NftChange[], options: { readonly generation?: number } = {}): void {
    const messages = changeMessages(changes);
    if (messages.length === 0) return;
    const refused = runTransaction(
      this.#socket,
      'change nftables rules',
      messages.map(({ request }) => request),
      options.generation,
    );
    if (!refused) return;
    const { ack, index } = refused;
    const text = changeText(messages[index]!.change);
    throw nftError(
      'NFT_CHANGE_REFUSED',
      { change: text.length <= LONGEST_TEXT ? text : `${text.slice(0, LONGEST_TEXT)}...` },
      kernelFailure(-ack.errno, ack.message),
    );
  }

  /** The number that changes with every transaction of anybody. Throws NFT_LIST_FAILED. */
  generation(): number {
    const generation = nftGeneration(this.#socket);
    if (generation === undefined) throw nftError('NFT_LIST_FAILED', { what: 'the generation of nftables' });
    return generation;
  }

  /** Whether there is such a table; a dormant one does nothing. Throws NFT_LIST_FAILED. */
  table(place: NftTableName): 'absent' | 'dormant' | 'awake' {
    return readTable(this.#socket, place);
  }

  /** Chains of one table; none when there is no such table. Throws NFT_LIST_FAILED. */
  chains({ family, table }: NftTableName): NftChainFound[] {
    return dumpChains(this.#socket, family).filter((chain) => chain.table === table);
  }

  /** Chains of all families and tables. Throws NFT_LIST_FAILED. */
  allChains(): NftChainFound[] {
    return dumpChains(this.#socket);
  }

  /** Rules of one table, chain by chain in their order. Throws NFT_LIST_FAILED. */
  rules(place: NftTableName): NftRuleFound[] {
    return dumpRules(this.#socket, place);
  }

  /** Sets and maps of one table, anonymous ones left out. Throws NFT_LIST_FAILED. */
  sets(place: NftTableName): NftSetFound[] {
    return dumpSets(this.#socket, place);
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
