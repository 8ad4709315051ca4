/**
 * What the driver of a link can do with XDP: the generic netlink family "netdev" (Linux >= 6.3),
 * Documentation/netlink/specs/netdev.yaml.
 */
import {
  attributeTable,
  NETLINK,
  NetlinkSocket,
  type NlWriter,
  nlString,
  nlU16,
  nlU32,
  nlU64,
} from '../netlink/index.ts';

/** enum netdev_xdp_act. */
export const XDP_ACT = { BASIC: 1n, REDIRECT: 2n, NDO_XMIT: 4n } as const;

/** enum of genetlink.h: CTRL_CMD_GETFAMILY of the family with number 16. */
const CONTROLLER = 16;
const CTRL_CMD_GETFAMILY = 3;
const NETDEV_CMD_DEV_GET = 1;
/** struct genlmsghdr: command, version, 2 bytes of nothing. */
const HEADER_BYTES = 4;

const controlTable = attributeTable('a generic netlink family', {
  id: [1, 'CTRL_ATTR_FAMILY_ID', nlU16],
  name: [2, 'CTRL_ATTR_FAMILY_NAME', nlString],
});

const deviceTable = attributeTable('a network device', {
  ifindex: [1, 'NETDEV_A_DEV_IFINDEX', nlU32],
  features: [3, 'NETDEV_A_DEV_XDP_FEATURES', nlU64, 'XDP_ACT bits'],
});

function header(writer: NlWriter, command: number): void {
  writer.u8(command);
  writer.u8(1);
  writer.u16(0);
}

/** XDP_ACT bits of a link; undefined where the kernel does not tell, or has no such link. Throws KERNEL_SYSCALL. */
export function xdpFeatures(
  ifindex: number,
  netns?: number | { readonly fd: number } | undefined,
): bigint | undefined {
  const socket = NetlinkSocket.open({ netns, protocol: NETLINK.GENERIC, brief: true });
  try {
    let family: number | undefined;
    socket.request(
      'family netdev',
      {
        type: CONTROLLER,
        flags: 0,
        write(writer) {
          header(writer, CTRL_CMD_GETFAMILY);
          controlTable.write(writer, { name: 'netdev' });
        },
      },
      (message) => {
        family = controlTable.readFrom(message.body, HEADER_BYTES).id;
      },
    );
    if (family === undefined) return undefined;
    let features: bigint | undefined;
    socket.request(
      `XDP features of link ${ifindex}`,
      {
        type: family,
        flags: 0,
        write(writer) {
          header(writer, NETDEV_CMD_DEV_GET);
          deviceTable.write(writer, { ifindex });
        },
      },
      (message) => {
        features = deviceTable.readFrom(message.body, HEADER_BYTES).features;
      },
    );
    return features;
  } finally {
    socket.close();
  }
}
