import { entry, errorsOf } from './net-error.ts';

/** nftables by its own program and by netlink; connection tracking; socket diagnosis. */
export const nftCatalogue = {
  NFT_MISSING: entry(
    (c: { program: string }) => `Cannot run "${c.program}": it is not installed`,
    () => 'Install it with "apt-get install nftables util-linux"',
  ),
  NFT_REFUSED: entry(
    (c: { what: string; said: string }) => `Cannot ${c.what}: nft says: ${c.said}`,
    () => 'Only "portolan doctor firewall" asks that program; run it by hand to see more',
  ),
  NFT_UNREADABLE: entry(
    (c: { what: string; why: string }) => `Cannot ${c.what}: nft's answer is not understood: ${c.why}`,
    () => 'Compare "nft --version" with 1.0.6, and report it',
  ),
  NFT_FOREIGN_DROP: entry(
    (c: { chain: string; why: string }) =>
      `Pod traffic may be dropped by the foreign chain "${c.chain}": ${c.why}`,
    (c) =>
      `Accept the pod network there, e.g. "nft insert rule ${c.chain} ip saddr 10.244.0.0/16 accept", and the same for daddr`,
  ),
  NFT_NO_SUCH_SET: entry(
    (c: { set: string }) => `Cannot use nftables set "${c.set}": it does not exist`,
    () => '"nft list sets" and "nft list maps" show those that do; the table may have been deleted',
  ),
  NFT_SET_UNSUPPORTED: entry(
    (c: { set: string; why: string }) => `Cannot use nftables set "${c.set}": ${c.why}`,
    () => 'Change such sets with nft(8) text instead',
  ),
  NFT_VALUE_INVALID: entry(
    (c: { type: string; value: string; why: string }) =>
      `Cannot put "${c.value}" into a set of type ${c.type}: ${c.why}`,
    () => 'Correct the value; an error of the program when it did not come from input',
  ),
  NFT_ELEMENTS_REFUSED: entry(
    (c: { action: string; set: string; element: string }) =>
      `Cannot ${c.action} nftables set "${c.set}"${c.element === '' ? '' : `, element ${c.element}`}`,
    () =>
      'EEXIST: the key is there with other data; ENOENT: element or chain is missing; ENFILE or ENOSPC: the set is full; nothing of the transaction was done',
  ),
  NFT_CHANGE_REFUSED: entry(
    (c: { change: string }) => `Cannot change nftables: the kernel refuses "${c.change}"`,
    () =>
      'ENOENT: table, chain or set is missing; EEXIST: it is there and different; EBUSY: a rule still names it; nothing of the transaction was done',
  ),
  NFT_GENERATION_CHANGED: entry(
    (c: { expected: number }) =>
      `Cannot change nftables: someone changed the rules since generation ${c.expected} was read`,
    () => 'Read the state again and plan anew',
  ),
  NFT_LIST_FAILED: entry(
    (c: { what: string }) => `Cannot list ${c.what}`,
    () => 'Needs root (CAP_NET_ADMIN) and nf_tables in the kernel (CONFIG_NF_TABLES)',
  ),
  NFT_TRACE_NO_SUCH_END: entry(
    (c: { text: string; want: string }) => `Cannot trace packets of "${c.text}": want ${c.want}`,
    () => '"portolan pod list" names the pods of this node; for a Service, name a backend',
  ),
  NFT_TRACE_UNSUPPORTED: entry(
    () => 'Cannot trace packets: this kernel has no nftables tables that go with their owner',
    () => 'Requires Linux >= 5.12; "nft monitor trace" does it by hand',
  ),
  CONNTRACK_FAILED: entry(
    (c: { action: string }) => `Cannot ${c.action} connection tracking entries`,
    () => 'Needs root (CAP_NET_ADMIN) and CONFIG_NF_CT_NETLINK',
  ),
  NFLOG_BUSY: entry(
    (c: { group: number }) => `Cannot read the packets that rules log to group ${c.group}`,
    () =>
      'EBUSY: another process reads them, perhaps a second agent on this node; "ss -f netlink" tells which',
  ),
  SOCKDIAG_FAILED: entry(
    (c: { action: string; family: string }) => `Cannot ${c.action} sockets of ${c.family}`,
    () =>
      'Needs root (CAP_NET_ADMIN) and CONFIG_INET_UDP_DIAG, CONFIG_INET_TCP_DIAG, CONFIG_INET_DIAG_DESTROY',
  ),
} as const;

export const nftError = errorsOf(nftCatalogue);
