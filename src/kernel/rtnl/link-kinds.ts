import type { IpAddress } from '../../addr/index.ts';
import {
  type AttributesOf,
  attributeTable,
  nlBool,
  nlFlag,
  nlIp,
  nlU8,
  nlU16,
  nlU16be,
  nlU32,
} from '../netlink/index.ts';

/** Attributes of a vxlan link: include/uapi/linux/if_link.h, enum IFLA_VXLAN_*. */
const vxlanRows = {
  vni: [1, 'IFLA_VXLAN_ID', nlU32, 'network identifier, 24 bits'],
  group4: [2, 'IFLA_VXLAN_GROUP', nlIp],
  lowerIfindex: [3, 'IFLA_VXLAN_LINK', nlU32, 'link that the outer packets leave by'],
  local4: [4, 'IFLA_VXLAN_LOCAL', nlIp, 'source of outer packets'],
  ttl: [5, 'IFLA_VXLAN_TTL', nlU8, '0: the default of the namespace'],
  tos: [6, 'IFLA_VXLAN_TOS', nlU8],
  learning: [7, 'IFLA_VXLAN_LEARNING', nlBool, 'make FDB entries from received packets'],
  ageingS: [8, 'IFLA_VXLAN_AGEING', nlU32],
  limit: [9, 'IFLA_VXLAN_LIMIT', nlU32],
  proxy: [11, 'IFLA_VXLAN_PROXY', nlBool],
  rsc: [12, 'IFLA_VXLAN_RSC', nlBool],
  l2miss: [13, 'IFLA_VXLAN_L2MISS', nlBool],
  l3miss: [14, 'IFLA_VXLAN_L3MISS', nlBool],
  port: [15, 'IFLA_VXLAN_PORT', nlU16be, 'UDP destination port'],
  group6: [16, 'IFLA_VXLAN_GROUP6', nlIp],
  local6: [17, 'IFLA_VXLAN_LOCAL6', nlIp],
  udpChecksum: [18, 'IFLA_VXLAN_UDP_CSUM', nlBool, 'outer UDP checksum over IPv4'],
  udpZeroChecksum6Tx: [19, 'IFLA_VXLAN_UDP_ZERO_CSUM6_TX', nlBool],
  udpZeroChecksum6Rx: [20, 'IFLA_VXLAN_UDP_ZERO_CSUM6_RX', nlBool],
  gbp: [23, 'IFLA_VXLAN_GBP', nlFlag, 'group policy extension'],
  collectMetadata: [25, 'IFLA_VXLAN_COLLECT_METADATA', nlBool],
  ttlInherit: [28, 'IFLA_VXLAN_TTL_INHERIT', nlFlag],
  df: [29, 'IFLA_VXLAN_DF', nlU8],
} as const;
export const vxlanTable = attributeTable('a vxlan link', vxlanRows);
export type VxlanAttributes = AttributesOf<typeof vxlanRows>;

/** Attributes of a bridge: enum IFLA_BR_*. Times are in USER_HZ, 1/100 s. */
const bridgeRows = {
  forwardDelayCs: [1, 'IFLA_BR_FORWARD_DELAY', nlU32],
  helloTimeCs: [2, 'IFLA_BR_HELLO_TIME', nlU32],
  maxAgeCs: [3, 'IFLA_BR_MAX_AGE', nlU32],
  ageingTimeCs: [4, 'IFLA_BR_AGEING_TIME', nlU32],
  stpState: [5, 'IFLA_BR_STP_STATE', nlU32],
  priority: [6, 'IFLA_BR_PRIORITY', nlU16],
  vlanFiltering: [7, 'IFLA_BR_VLAN_FILTERING', nlU8],
  multicastSnooping: [23, 'IFLA_BR_MCAST_SNOOPING', nlU8],
} as const;
export const bridgeTable = attributeTable('a bridge', bridgeRows);
export type BridgeAttributes = AttributesOf<typeof bridgeRows>;

/** Attributes of a port of a bridge: enum IFLA_BRPORT_*. */
const bridgePortRows = {
  state: [1, 'IFLA_BRPORT_STATE', nlU8, '3 is forwarding'],
  hairpin: [4, 'IFLA_BRPORT_MODE', nlBool, 'may send a packet back where it came from'],
  learning: [8, 'IFLA_BRPORT_LEARNING', nlBool],
  flood: [9, 'IFLA_BRPORT_UNICAST_FLOOD', nlBool],
  mcastFlood: [27, 'IFLA_BRPORT_MCAST_FLOOD', nlBool],
  bcastFlood: [30, 'IFLA_BRPORT_BCAST_FLOOD', nlBool],
  isolated: [33, 'IFLA_BRPORT_ISOLATED', nlBool, 'sends nothing to other isolated ports'],
  locked: [39, 'IFLA_BRPORT_LOCKED', nlBool, 'takes frames of MACs only that the FDB has at it; Linux 5.18'],
} as const;
export const bridgePortTable = attributeTable('a port of a bridge', bridgePortRows);
export type BridgePortAttributes = AttributesOf<typeof bridgePortRows>;

/** Attributes of a tun or tap link, read only: such links are made by an ioctl on /dev/net/tun. */
const tunRows = {
  owner: [1, 'IFLA_TUN_OWNER', nlU32],
  group: [2, 'IFLA_TUN_GROUP', nlU32],
  type: [3, 'IFLA_TUN_TYPE', nlU8, '1 tun, 2 tap'],
  packetInfo: [4, 'IFLA_TUN_PI', nlBool],
  vnetHeader: [5, 'IFLA_TUN_VNET_HDR', nlBool],
  persist: [6, 'IFLA_TUN_PERSIST', nlBool],
  multiQueue: [7, 'IFLA_TUN_MULTI_QUEUE', nlBool],
  queues: [8, 'IFLA_TUN_NUM_QUEUES', nlU32],
} as const;
export const tunTable = attributeTable('a tun link', tunRows);
export type TunAttributes = AttributesOf<typeof tunRows>;

/** A vxlan link: who it is and where its packets go. */
export interface VxlanOptions {
  readonly vni: number;
  /** UDP destination port, default 8472 as the kernel and flannel have it. */
  readonly port?: number | undefined;
  /** Source address of outer packets; its family is that of the underlay. */
  readonly local?: IpAddress | undefined;
  /** The link below. */
  readonly lowerIfindex?: number | undefined;
  /** Default false: the table is filled by hand. */
  readonly learning?: boolean | undefined;
  /** Outer UDP checksum over IPv4, default true. */
  readonly udpChecksum?: boolean | undefined;
  readonly ttl?: number | undefined;
  readonly gbp?: boolean | undefined;
}

/** The attributes that make such a link. */
export function vxlanAttributes(options: VxlanOptions): VxlanAttributes {
  const { local } = options;
  return {
    vni: options.vni,
    lowerIfindex: options.lowerIfindex,
    ...(local?.family === 4 ? { local4: local } : local ? { local6: local } : {}),
    ttl: options.ttl ?? 0,
    learning: options.learning ?? false,
    port: options.port ?? 8472,
    udpChecksum: options.udpChecksum ?? true,
    // A checksum over IPv6 is mandatory unless both ends agree otherwise, so it stays on.
    udpZeroChecksum6Tx: false,
    udpZeroChecksum6Rx: false,
    gbp: options.gbp ? true : undefined,
  };
}
