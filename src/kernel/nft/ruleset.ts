/**
 * Changes tables, chains, rules, sets and elements by raw nfnetlink, as one transaction: what costs nft(8) its start, a
 * listing of everything and a parse is a send of some kilobytes.
 *
 *   BATCH_BEGIN | NEWTABLE | NEWSET | NEWCHAIN | DELRULE (flush) | NEWRULE ... | NEWSETELEM ... | BATCH_END   one datagram
 */
import { nftError } from '../../errors/nft.ts';
import { attributeTable, NETLINK, NetlinkSocket, nlString } from '../netlink/index.ts';
import { ERRNO, kernelFailure } from '../syscall/index.ts';
import { changeText, type NftChange } from './change.ts';
import { changeMessages } from './change-bytes.ts';
import { FAMILY, NFT, runTransaction, writeHeader } from './messages.ts';
import type { NftFamily } from './set-element.ts';

const chainAttributes = attributeTable('an nftables chain', {
  table: [1, 'NFTA_CHAIN_TABLE', nlString],
  name: [3, 'NFTA_CHAIN_NAME', nlString],
});
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

  /** Names of a table's chains; none when there is no such table. Throws NFT_LIST_FAILED. */
  chains(family: NftFamily, table: string): string[] {
    let names: string[] = [];
    const what = `chains of nftables table "${family} ${table}"`;
    const cause = this.#socket.dump(
      what,
      { type: NFT.GETCHAIN, flags: 0, write: (writer) => writeHeader(writer, FAMILY[family], 0) },
      () => {
        names = [];
      },
      (message) => {
        if (message.type !== NFT.NEWCHAIN) return;
        const chain = chainAttributes.readFrom(message.body, 4);
        if (chain.table === table && chain.name !== undefined) names.push(chain.name);
      },
    );
    if (cause?.errno === ERRNO.ENOENT) return [];
    if (cause) throw nftError('NFT_LIST_FAILED', { what }, cause);
    return names;
  }

  close(): void {
    this.#socket.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
