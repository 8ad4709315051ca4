/**
 * Packets that nftables rules with a `log group` statement report: linux/netfilter/nfnetlink_log.h. One reader a group
 * and network namespace.
 */
import { nftError } from '../../errors/nft.ts';
import { NETLINK, NetlinkSocket, type NlMessage, type NlWriter } from '../netlink/index.ts';
import { type LoggedPacket, readLoggedPacket } from './packet.ts';

export { type PacketFlow, readPacketFlow } from './flow.ts';
export type { LoggedPacket };

/** Subsystem 4 of nfnetlink in the high byte, enum nfulnl_msg_types in the low one. */
const NFULNL = { PACKET: 0x400, CONFIG: 0x401 } as const;
const CFG = { CMD: 1, MODE: 2, TIMEOUT: 4, QTHRESH: 5 } as const;
const CMD_BIND = 1;
const COPY_PACKET = 2;
/** The kernel collects so many packets, or waits so long, before it wakes the reader; hundredths of a second. */
const COLLECT_PACKETS = 64;
const COLLECT_CENTISECONDS = 5;

export interface NflogOptions {
  readonly netns?: number | { readonly fd: number } | undefined;
  /** Number in the rule's `log group`, 0 to 65535. */
  readonly group: number;
  /** Bytes of each packet from its network header on. */
  readonly snaplen: number;
  /** `payload` is valid during the call only. */
  readonly onPacket: (packet: LoggedPacket) => void;
  /** Packets were lost, because they came faster than they were read. */
  readonly onLost: () => void;
}

/** Reads until closed. Throws NFLOG_BUSY when another process reads the group, KERNEL_*. */
export function openNflog({ netns, group, snaplen, onPacket, onLost }: NflogOptions): { close(): void } {
  const socket = NetlinkSocket.open({ netns, protocol: NETLINK.NETFILTER });
  const configure = (write: (writer: NlWriter) => void) => {
    const cause = socket.request('read logged packets', {
      type: NFULNL.CONFIG,
      flags: 0,
      write: (writer) => {
        // struct nfgenmsg: family, version, group in network order
        writer
          .u8(0)
          .u8(0)
          .u8(group >> 8)
          .u8(group & 255);
        write(writer);
      },
    });
    if (cause) throw nftError('NFLOG_BUSY', { group }, cause);
  };
  try {
    configure((writer) => writer.attribute(CFG.CMD, () => writer.u8(CMD_BIND)));
    configure((writer) => {
      // struct nfulnl_msg_config_mode is packed: 6 bytes
      writer.attribute(CFG.MODE, () => writer.u32be(snaplen).u8(COPY_PACKET).u8(0));
      writer.attribute(CFG.TIMEOUT, () => writer.u32be(COLLECT_CENTISECONDS));
      writer.attribute(CFG.QTHRESH, () => writer.u32be(COLLECT_PACKETS));
    });
  } catch (error) {
    socket.close();
    throw error;
  }
  const onMessage = ({ type, body }: NlMessage) => {
    if (type === NFULNL.PACKET) onPacket(readLoggedPacket(body));
  };
  socket.listen(onMessage, onLost);
  return { close: () => socket.close() };
}
