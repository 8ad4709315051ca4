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
import { type NftSet, type NftSetShape, type NftTableName, setOfShape } from '../../../kernel/nft/index.ts';

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

/** What a set is made with, besides. */
type Options = Pick<NftSetShape, 'counter' | 'dynamic' | 'size'>;

interface SetParts {
  readonly key: readonly Part[];
  readonly data?: readonly Part[] | 'verdict';
  readonly interval?: boolean;
  readonly timeoutMs?: number;
  readonly options?: Options;
}

const VIP: readonly Part[] = ['address', 'protocol', 'port'];
const NODE_PORT: readonly Part[] = ['protocol', 'port'];
const SOCKET: readonly Part[] = ['address', 'port'];

/** New connections by element. */
const COUNTED: Options = { counter: true };

/** What is in the sets, by name. Names with `-node` and `-outside` hold what differs for that kind of client. */
const SHAPES = {
  vips: { key: VIP, data: 'verdict', options: COUNTED },
  'vips-node': { key: VIP, data: 'verdict', options: COUNTED },
  'vips-outside': { key: VIP, data: 'verdict', options: COUNTED },
  nodeports: { key: NODE_PORT, data: 'verdict', options: COUNTED },
  'nodeports-node': { key: NODE_PORT, data: 'verdict', options: COUNTED },
  'nodeports-outside': { key: NODE_PORT, data: 'verdict', options: COUNTED },
  slots: { key: [...VIP, 'number'], data: SOCKET, options: COUNTED },
  'nodeport-slots': { key: [...NODE_PORT, 'number'], data: SOCKET, options: COUNTED },
  /** Frontends without an endpoint for the client: refused, or dropped. */
  refused: { key: VIP, data: 'verdict', options: COUNTED },
  'refused-nodeports': { key: NODE_PORT, data: 'verdict', options: COUNTED },
  'refused-outside': { key: VIP, data: 'verdict', options: COUNTED },
  'refused-nodeports-outside': { key: NODE_PORT, data: 'verdict', options: COUNTED },
  'cluster-ips': { key: ['address'] },
  /** ClusterIPs that somebody else serves. */
  'not-ours': { key: ['address'] },
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
} as const satisfies Readonly<Record<string, SetParts>>;

export type SetId = keyof typeof SHAPES;
export const SET_IDS = Object.keys(SHAPES) as SetId[];

/** Sets that plans alone decide; the others follow links, ranges and clients. */
export const PLANNED_SETS = SET_IDS.filter(
  (id) => id !== 'pod-links' && id !== 'service-ranges' && id !== 'affinity',
);

/** Types as nft calls them. */
const TYPE = {
  4: 'ipv4_addr',
  6: 'ipv6_addr',
  protocol: 'inet_proto',
  port: 'inet_service',
  number: 'mark',
  interface: 'iface_index',
} as const;

export interface Layout {
  readonly family: Family;
  readonly place: NftTableName;
  /** As they are made. */
  readonly shapes: Readonly<Record<SetId, NftSetShape>>;
  /** As their elements are written. */
  readonly sets: Readonly<Record<SetId, NftSet>>;
}

function shapeOf(family: Family, name: SetId): NftSetShape {
  const { key, data, interval, timeoutMs, options }: SetParts = SHAPES[name];
  const types = (parts: readonly Part[]) =>
    parts.map((part) => (part === 'address' ? TYPE[family] : TYPE[part])).join(' . ');
  return {
    name,
    map: data !== undefined,
    key: types(key),
    data: data === undefined || data === 'verdict' ? undefined : types(data),
    interval,
    timeoutMs,
    ...options,
  };
}

function layoutOf(family: Family): Layout {
  const place = { family: family === 4 ? 'ip' : 'ip6', table: TABLE } as const;
  const byName = <T>(make: (name: SetId) => T) =>
    Object.fromEntries(SET_IDS.map((name) => [name, make(name)])) as Record<SetId, T>;
  const shapes = byName((name) => shapeOf(family, name));
  return { family, place, shapes, sets: byName((name) => setOfShape(place, shapes[name])) };
}

export const LAYOUTS: Readonly<Record<Family, Layout>> = { 4: layoutOf(4), 6: layoutOf(6) };
