import type { Mac } from '../../addr/index.ts';
import { rtnlError } from '../../errors/index.ts';
import {
  AF,
  type AttributesOf,
  attributeTable,
  cString,
  malformed,
  NLM_F,
  type NlWriter,
  nlBytes,
  nlI32,
  nlMac,
  nlString,
  nlU8,
  nlU32,
  readAttributes,
  viewOf,
} from '../netlink/index.ts';
import { ERRNO } from '../syscall/index.ts';
import type { RtnlChange } from './change.ts';
import {
  type BridgeAttributes,
  type BridgePortAttributes,
  bridgePortTable,
  bridgeTable,
  type TunAttributes,
  tunTable,
  type VxlanAttributes,
  type VxlanOptions,
  vxlanAttributes,
  vxlanTable,
} from './link-kinds.ts';

export const RTM_LINK = { NEW: 16, DEL: 17, GET: 18, SET: 19 } as const;

const IFLA_PROTINFO = 12;
const IFLA_LINKINFO = 18;
const IFLA_INFO_KIND = 1;
const IFLA_INFO_DATA = 2;
const IFLA_INFO_SLAVE_KIND = 4;
const IFLA_INFO_SLAVE_DATA = 5;
const VETH_INFO_PEER = 1;
const IFLA_INET6_ADDR_GEN_MODE = 8;
const HEADER_BYTES = 16;
const IFF_UP = 1;
const IFF_LOWER_UP = 0x10000;

/** Whether and how the kernel makes link-local IPv6 addresses; IN6_ADDR_GEN_MODE_* of if_link.h. */
const ADDR_GEN_MODES = ['eui64', 'none', 'stable-privacy', 'random'] as const;
export type AddrGenMode = (typeof ADDR_GEN_MODES)[number];

/** RFC 2863 states, in the kernel's order (IF_OPER_*). */
const OPER_STATES = ['unknown', 'notpresent', 'down', 'lowerlayerdown', 'testing', 'dormant', 'up'] as const;

/** Attributes of any link that Portolan reads or sets: if_link.h, enum IFLA_*. */
const linkRows = {
  mac: [1, 'IFLA_ADDRESS', nlMac],
  name: [3, 'IFLA_IFNAME', nlString],
  mtu: [4, 'IFLA_MTU', nlU32, 'bytes'],
  lowerIfindex: [5, 'IFLA_LINK', nlI32, 'the link below, or the peer of a veth (in the namespace netnsId)'],
  master: [10, 'IFLA_MASTER', nlU32, 'ifindex of the bridge; 0 takes it out'],
  protInfo: [IFLA_PROTINFO, 'IFLA_PROTINFO', { ...nlBytes, nested: true }],
  txQueueLength: [13, 'IFLA_TXQLEN', nlU32, 'packets'],
  operState: [16, 'IFLA_OPERSTATE', nlU8],
  linkInfo: [IFLA_LINKINFO, 'IFLA_LINKINFO', { ...nlBytes, nested: true }],
  alias: [20, 'IFLA_IFALIAS', nlString],
  afSpec: [26, 'IFLA_AF_SPEC', { ...nlBytes, nested: true }],
  netnsFd: [28, 'IFLA_NET_NS_FD', nlU32, 'move the link into the namespace behind this descriptor'],
  txQueues: [31, 'IFLA_NUM_TX_QUEUES', nlU32, 'queues that a new link can have'],
  rxQueues: [32, 'IFLA_NUM_RX_QUEUES', nlU32],
  lowerNetnsId: [37, 'IFLA_LINK_NETNSID', nlI32],
  minMtu: [50, 'IFLA_MIN_MTU', nlU32],
  maxMtu: [51, 'IFLA_MAX_MTU', nlU32],
} as const;
const linkTable = attributeTable('a link', linkRows);
type LinkAttributes = AttributesOf<typeof linkRows>;

/** A link as the kernel has it. */
export interface Link {
  readonly ifindex: number;
  readonly name: string;
  /** `vxlan`, `veth`, `bridge`, ...; empty for hardware and loopback. */
  readonly kind: string;
  /** IFF_* bits. */
  readonly flags: number;
  readonly up: boolean;
  /** Up and with a carrier. */
  readonly lowerUp: boolean;
  readonly operState: string;
  readonly loopback: boolean;
  readonly mtu: number;
  readonly mac?: Mac | undefined;
  readonly alias?: string | undefined;
  readonly master?: number | undefined;
  readonly lowerIfindex?: number | undefined;
  /** Set when the link below lies in another namespace. */
  readonly lowerNetnsId?: number | undefined;
  readonly txQueueLength?: number | undefined;
  readonly minMtu?: number | undefined;
  readonly maxMtu?: number | undefined;
  readonly addrGenMode?: AddrGenMode | undefined;
  readonly vxlan?: VxlanAttributes | undefined;
  readonly bridge?: BridgeAttributes | undefined;
  readonly bridgePort?: BridgePortAttributes | undefined;
  readonly tun?: TunAttributes | undefined;
}

/** What can be set on any link. */
export interface LinkSettings {
  readonly name?: string | undefined;
  readonly mac?: Mac | undefined;
  readonly mtu?: number | undefined;
  readonly up?: boolean | undefined;
  readonly alias?: string | undefined;
  /** ifindex of a bridge; 0 takes the link out. */
  readonly master?: number | undefined;
  readonly txQueueLength?: number | undefined;
  /** Descriptor of the namespace to put the link into. */
  readonly netns?: number | undefined;
  /** Queues of a new link for each direction; default the kernel's, which for a veth is room for one a CPU. */
  readonly queues?: number | undefined;
  readonly addrGenMode?: AddrGenMode | undefined;
  readonly bridgePort?: BridgePortAttributes | undefined;
}

/** A link to create. */
export type LinkSpec = LinkSettings & { readonly name: string; readonly ifindex?: number | undefined } & (
    | { readonly kind: 'veth'; readonly peer: LinkSettings & { readonly name: string } }
    | { readonly kind: 'bridge'; readonly bridge?: BridgeAttributes | undefined }
    | { readonly kind: 'vxlan'; readonly vxlan: VxlanOptions }
    | { readonly kind: 'dummy' }
  );

/** Throws RTNL_BAD_LINK_NAME for what the kernel's dev_valid_name() refuses. */
export function checkLinkName(name: string): string {
  const why =
    name === ''
      ? 'it is empty'
      : Buffer.byteLength(name) > 15
        ? 'it is longer than 15 bytes'
        : name === '.' || name === '..'
          ? 'it is a path'
          : /[/:\s\0]/.test(name)
            ? 'it has a character that links cannot have'
            : undefined;
  if (why) throw rtnlError('RTNL_BAD_LINK_NAME', { name, why });
  return name;
}

/** struct ifinfomsg */
function header(
  w: NlWriter,
  ifindex: number,
  flags: number,
  change: number,
  family: number = AF.UNSPEC,
): void {
  w.u8(family).u8(0).u16(0).u32(ifindex).u32(flags).u32(change);
}

/** Header and attributes of a link that is made or changed, without its kind. */
function settings(w: NlWriter, ifindex: number, s: LinkSettings): void {
  if (s.name !== undefined) checkLinkName(s.name);
  header(w, ifindex, s.up ? IFF_UP : 0, s.up === undefined ? 0 : IFF_UP);
  const { name, mac, mtu, alias, master, txQueueLength, netns: netnsFd, queues } = s;
  const counts = { txQueues: queues, rxQueues: queues };
  linkTable.write(w, { name, mac, mtu, alias, master, txQueueLength, netnsFd, ...counts });
  if (s.addrGenMode !== undefined) {
    const mode = ADDR_GEN_MODES.indexOf(s.addrGenMode);
    w.nest(26, () => w.nest(AF.INET6, () => w.attribute(IFLA_INET6_ADDR_GEN_MODE, () => w.u8(mode))));
  }
}

/** What the kernel refuses or ignores in the message that creates a link. */
const LATER = { alias: undefined, addrGenMode: undefined };

/**
 * Creates a link; fails when its name is taken. The kernel takes neither `alias` nor `addrGenMode`, nor `up` of the
 * peer of a veth, while it creates: `Rtnl.createLink` sets them afterwards.
 */
export function createLink(spec: LinkSpec): RtnlChange {
  return {
    request: {
      type: RTM_LINK.NEW,
      flags: NLM_F.CREATE | NLM_F.EXCL,
      write(w) {
        settings(w, spec.ifindex ?? 0, { ...spec, ...LATER });
        w.nest(IFLA_LINKINFO, () => {
          w.attribute(IFLA_INFO_KIND, () => w.string(spec.kind));
          if (spec.kind === 'veth')
            w.nest(IFLA_INFO_DATA, () =>
              w.nest(VETH_INFO_PEER, () => settings(w, 0, { ...spec.peer, ...LATER, up: undefined })),
            );
          else if (spec.kind === 'vxlan')
            w.nest(IFLA_INFO_DATA, () => vxlanTable.write(w, vxlanAttributes(spec.vxlan)));
          else if (spec.kind === 'bridge' && spec.bridge)
            w.nest(IFLA_INFO_DATA, () => bridgeTable.write(w, spec.bridge!));
        });
      },
    },
    ignore: [],
    text: (nameOf) => {
      const parts = [`ip link add ${spec.name}`, ...settingsText(spec, nameOf), `type ${spec.kind}`];
      if (spec.kind === 'veth') parts.push(`peer name ${spec.peer.name}`, ...settingsText(spec.peer, nameOf));
      if (spec.kind === 'vxlan') {
        const { vni, local, lowerIfindex, port, learning } = spec.vxlan;
        parts.push(`id ${vni}`);
        if (local) parts.push(`local ${local}`);
        if (lowerIfindex) parts.push(`dev ${nameOf?.(lowerIfindex) ?? `if${lowerIfindex}`}`);
        parts.push(`dstport ${port ?? 8472}`, learning ? 'learning' : 'nolearning', 'udpcsum');
      }
      return parts.join(' ');
    },
    fail(cause) {
      if (cause.errno === ERRNO.EOPNOTSUPP)
        return rtnlError('RTNL_LINK_KIND_MISSING', { name: spec.name, kind: spec.kind }, cause);
      return undefined;
    },
  };
}

/** Changes settings of a link. */
export function changeLink(ifindex: number, change: LinkSettings): RtnlChange {
  return {
    request: { type: RTM_LINK.NEW, flags: 0, write: (w) => settings(w, ifindex, change) },
    ignore: [],
    text: (nameOf) =>
      `ip link set ${nameOf?.(ifindex) ?? `if${ifindex}`} ${settingsText(change, nameOf).join(' ')}${change.name ? ` name ${change.name}` : ''}`,
    fail: noSuchLink(ifindex, 'change it'),
  };
}

/** Changes how a bridge treats a port of its. */
export function changeBridgePort(ifindex: number, port: BridgePortAttributes): RtnlChange {
  return {
    request: {
      type: RTM_LINK.SET,
      flags: 0,
      write(w) {
        header(w, ifindex, 0, 0, AF.BRIDGE);
        w.nest(IFLA_PROTINFO, () => bridgePortTable.write(w, port));
      },
    },
    ignore: [],
    text: (nameOf) =>
      `bridge link set dev ${nameOf?.(ifindex) ?? `if${ifindex}`} ${Object.entries(port)
        .map(([key, value]) => `${snake(key)} ${value === true ? 'on' : value === false ? 'off' : value}`)
        .join(' ')}`,
    fail: noSuchLink(ifindex, 'change the bridge port'),
  };
}

/** As bridge(8) spells it. */
function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** Deletes a link, with its peer if it is a veth; absent is success. */
export function deleteLink(link: number | string): RtnlChange {
  return {
    request: {
      type: RTM_LINK.DEL,
      flags: 0,
      write(w) {
        header(w, typeof link === 'number' ? link : 0, 0, 0);
        if (typeof link === 'string') linkTable.write(w, { name: checkLinkName(link) });
      },
    },
    ignore: [ERRNO.ENODEV],
    text: (nameOf) => `ip link del ${typeof link === 'string' ? link : (nameOf?.(link) ?? `if${link}`)}`,
  };
}

function noSuchLink(ifindex: number, action: string): NonNullable<RtnlChange['fail']> {
  return (cause) =>
    cause.errno === ERRNO.ENODEV
      ? rtnlError('RTNL_NO_SUCH_LINK', { action, link: `if${ifindex}` }, cause)
      : undefined;
}

function settingsText(s: LinkSettings, nameOf?: (ifindex: number) => string): string[] {
  const parts: string[] = [];
  if (s.mac) parts.push(`address ${s.mac}`);
  if (s.mtu !== undefined) parts.push(`mtu ${s.mtu}`);
  if (s.alias !== undefined) parts.push(`alias "${s.alias}"`);
  if (s.master !== undefined)
    parts.push(s.master === 0 ? 'nomaster' : `master ${nameOf?.(s.master) ?? `if${s.master}`}`);
  if (s.txQueueLength !== undefined) parts.push(`txqueuelen ${s.txQueueLength}`);
  if (s.queues !== undefined) parts.push(`numtxqueues ${s.queues} numrxqueues ${s.queues}`);
  if (s.netns !== undefined) parts.push(`netns /proc/self/fd/${s.netns}`);
  if (s.addrGenMode !== undefined) parts.push(`addrgenmode ${s.addrGenMode}`);
  if (s.up !== undefined) parts.push(s.up ? 'up' : 'down');
  return parts;
}

/** Writes a request for one link by index or name, or for all. */
export function linkQuery(link: number | string | undefined) {
  return {
    type: RTM_LINK.GET,
    flags: 0,
    write(w: NlWriter) {
      header(w, typeof link === 'number' ? link : 0, 0, 0);
      if (typeof link === 'string') linkTable.write(w, { name: checkLinkName(link) });
    },
  };
}

/** Reads RTM_NEWLINK or RTM_DELLINK. Throws NETLINK_MALFORMED. */
export function readLink(body: Uint8Array): Link {
  if (body.length < HEADER_BYTES) throw malformed('a link', `it has ${body.length} bytes`);
  const view = viewOf(body);
  const flags = view.getUint32(8, true);
  const a = linkTable.readFrom(body, HEADER_BYTES);
  const { name, mtu, mac, alias, master, lowerIfindex, lowerNetnsId, txQueueLength, minMtu, maxMtu } = a;
  return {
    ifindex: view.getInt32(4, true),
    name: name ?? '',
    flags,
    up: (flags & IFF_UP) !== 0,
    lowerUp: (flags & IFF_LOWER_UP) !== 0,
    loopback: (flags & 8) !== 0,
    operState: OPER_STATES[a.operState ?? 0] ?? 'unknown',
    mtu: mtu ?? 0,
    mac,
    alias,
    master,
    lowerIfindex,
    lowerNetnsId,
    txQueueLength,
    minMtu,
    maxMtu,
    addrGenMode: readAddrGenMode(a),
    ...readLinkInfo(a),
  };
}

/** A port of a bridge as messages of AF_BRIDGE tell it. */
export interface BridgePort {
  readonly ifindex: number;
  readonly name: string;
  readonly port: BridgePortAttributes;
}

/** Reads RTM_NEWLINK or RTM_DELLINK of AF_BRIDGE. Throws NETLINK_MALFORMED. */
export function readBridgePort(body: Uint8Array): BridgePort {
  if (body.length < HEADER_BYTES) throw malformed('a port of a bridge', `it has ${body.length} bytes`);
  const { name, protInfo } = linkTable.readFrom(body, HEADER_BYTES);
  return {
    ifindex: viewOf(body).getInt32(4, true),
    name: name ?? '',
    port: protInfo ? bridgePortTable.read(protInfo) : {},
  };
}

/** Family of struct ifinfomsg: messages of AF_BRIDGE are about a port, not about the link. */
export function linkFamily(body: Uint8Array): number {
  return body[0] ?? 0;
}

function readLinkInfo({
  linkInfo,
}: LinkAttributes): Pick<Link, 'kind' | 'vxlan' | 'bridge' | 'bridgePort' | 'tun'> {
  let kind = '';
  let slaveKind = '';
  let data: Uint8Array | undefined;
  let slaveData: Uint8Array | undefined;
  if (linkInfo)
    readAttributes(linkInfo, 0, 'the kind of a link', (type, value) => {
      if (type === IFLA_INFO_KIND) kind = cString(value);
      else if (type === IFLA_INFO_DATA) data = value;
      else if (type === IFLA_INFO_SLAVE_KIND) slaveKind = cString(value);
      else if (type === IFLA_INFO_SLAVE_DATA) slaveData = value;
    });
  return {
    kind,
    ...(kind === 'vxlan' && data ? { vxlan: vxlanTable.read(data) } : {}),
    ...(kind === 'bridge' && data ? { bridge: bridgeTable.read(data) } : {}),
    ...(kind === 'tun' && data ? { tun: tunTable.read(data) } : {}),
    ...(slaveKind === 'bridge' && slaveData ? { bridgePort: bridgePortTable.read(slaveData) } : {}),
  };
}

function readAddrGenMode({ afSpec }: LinkAttributes): AddrGenMode | undefined {
  let mode: AddrGenMode | undefined;
  if (afSpec)
    readAttributes(afSpec, 0, 'the families of a link', (family, value) => {
      if (family === AF.INET6)
        readAttributes(value, 0, 'the IPv6 settings of a link', (type, bytes) => {
          if (type === IFLA_INET6_ADDR_GEN_MODE) mode = ADDR_GEN_MODES[bytes[0] ?? 0];
        });
    });
  return mode;
}
