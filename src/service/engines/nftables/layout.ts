/**
 * Tables `ip portolan-services` and `ip6 portolan-services`: what their sets hold. A table of its own, because whoever
 * lists a table to guard its rules would otherwise read all Services.
 *
 *     vips        10.96.0.10 . tcp . 80           : goto vip-3          how many slots, which set, masquerade, affinity
 *     slots       10.96.0.10 . tcp . 80 . 2       : 10.244.1.2 . 8080   slot 65536 and on: the local set
 *     nodeports   tcp . 30080                     : goto nodeport-3-masquerade
 *     nodeport-slots      tcp . 30080 . 2         : 10.244.1.2 . 8080
 *
 *     affinity-slots      4 . 2                   : goto endpoint-7     Service port 4; endpoint-7 remembers its clients
 *
 * A changed endpoint is one element of `slots`; only another number of endpoints changes `vips`.
 */
import type { Family } from '../../../addr/index.ts';
import { type NftSet, type NftSetOptions, type NftTable, typesOf } from '../../../kernel/nft/index.ts';

export const TABLE = 'portolan-services';

/** First slot of the local set; before it lies the cluster set. */
export const LOCAL_SLOT = 0x1_0000;

/** Marks what will be masqueraded, between the nat hooks only; the same bit as the eBPF engine's. */
export const MASQUERADE_MARK = 0x2_0000;

/** Clients that affinity remembers in each family; beyond, new ones get a random endpoint. */
const AFFINITY_CLIENTS = 262_144;
const SECOND = 1000;
/** Default of an element's life; rules and Services say their own. */
const AFFINITY_MS = 10_800 * SECOND;

type Part = 'address' | 'protocol' | 'port' | 'number' | 'interface';

interface SetShape {
  readonly key: readonly Part[];
  readonly data?: readonly Part[] | 'verdict';
  readonly interval?: boolean;
  readonly timeoutMs?: number;
  readonly options?: NftSetOptions;
}

const VIP: readonly Part[] = ['address', 'protocol', 'port'];
const NODE_PORT: readonly Part[] = ['protocol', 'port'];
const SOCKET: readonly Part[] = ['address', 'port'];

/** New connections by element. */
const COUNTED: NftSetOptions = { counter: true };

/** What is in the sets, by name. Names with `-node` and `-outside` hold what differs for that kind of client. */
const SHAPES = {
  vips: { key: VIP, data: 'verdict', options: COUNTED },
  'vips-node': { key: VIP, data: 'verdict', options: COUNTED },
  'vips-outside': { key: VIP, data: 'verdict', options: COUNTED },
  nodeports: { key: NODE_PORT, data: 'verdict', options: COUNTED },
  'nodeports-node': { key: NODE_PORT, data: 'verdict', options: COUNTED },
  'nodeports-outside': { key: NODE_PORT, data: 'verdict', options: COUNTED },
  slots: { key: [...VIP, 'number'], data: SOCKET },
  'nodeport-slots': { key: [...NODE_PORT, 'number'], data: SOCKET },
  /** Frontends without an endpoint for the client: refused, or dropped. */
  refused: { key: VIP, data: 'verdict', options: COUNTED },
  'refused-nodeports': { key: NODE_PORT, data: 'verdict', options: COUNTED },
  'refused-outside': { key: VIP, data: 'verdict', options: COUNTED },
  'refused-nodeports-outside': { key: NODE_PORT, data: 'verdict', options: COUNTED },
  'cluster-ips': { key: ['address'] },
  'service-ranges': { key: ['address'], interval: true },
  'node-addresses': { key: ['address'] },
  'pod-links': { key: ['interface'] },
  /** Endpoint twice: a client that is its own backend. */
  hairpins: { key: ['address', 'address'] },
  /** Load balancer frontends with source ranges, and who may come. */
  ranged: { key: VIP },
  allowed: { key: [...VIP, 'address'], interval: true },
  /** Number of a Service port with affinity . slot : goto endpoint-7. */
  'affinity-slots': { key: ['number', 'number'], data: 'verdict' },
  /** Client . number of the endpoint that it has. */
  affinity: {
    key: ['address', 'number'],
    timeoutMs: AFFINITY_MS,
    options: { dynamic: true, size: AFFINITY_CLIENTS },
  },
} as const satisfies Readonly<Record<string, SetShape>>;

export type SetId = keyof typeof SHAPES;
export const SET_IDS = Object.keys(SHAPES) as SetId[];

/** Sets that plans alone decide; the others follow links, ranges and clients. */
export const PLANNED_SETS = SET_IDS.filter(
  (id) => id !== 'pod-links' && id !== 'service-ranges' && id !== 'affinity',
);

/** Numbers of types in nft: ipv4_addr, ipv6_addr, inet_proto, inet_service, mark, iface_index. */
const TYPE = { 4: 7, 6: 8, protocol: 12, port: 13, number: 19, interface: 20 } as const;

export interface Layout {
  readonly family: Family;
  readonly place: NftTable;
  readonly sets: Readonly<Record<SetId, NftSet>>;
}

export function setOptions(id: SetId): NftSetOptions {
  const shape: SetShape = SHAPES[id];
  return shape.options ?? {};
}

function layoutOf(family: Family): Layout {
  const place = { family: family === 4 ? 'ip' : 'ip6', table: TABLE } as const;
  const types = (parts: readonly Part[]) =>
    parts.map((part) => typesOf(part === 'address' ? TYPE[family] : TYPE[part])![0]!);
  const sets = Object.fromEntries(
    SET_IDS.map((name) => {
      const shape: SetShape = SHAPES[name];
      const set: NftSet = {
        ...place,
        name,
        key: types(shape.key),
        data: shape.data === undefined || shape.data === 'verdict' ? shape.data : types(shape.data),
        interval: shape.interval ?? false,
        timeoutMs: shape.timeoutMs,
      };
      return [name, set];
    }),
  ) as Record<SetId, NftSet>;
  return { family, place, sets };
}

export const LAYOUTS: Readonly<Record<Family, Layout>> = { 4: layoutOf(4), 6: layoutOf(6) };
