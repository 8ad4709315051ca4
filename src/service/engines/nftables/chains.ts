/**
 * The rules, written once for both families. Everything that depends on a Service is in sets; chains differ by the
 * number of slots to choose from, because the kernel draws random numbers below a constant only.
 *
 *     prerouting -110  source ranges                              output -110
 *     nat prerouting   pods ─► services                           nat output ─► vips-node ─► services
 *                      outside ─► vips-outside ─► mark ─► services
 *     prerouting  -90  new, and still to a Service address: refused        output -90
 *     nat postrouting  marked, or its own backend: masquerade
 */
import type { Family, IpAddress } from '../../../addr/index.ts';
import {
  absent,
  bitwise,
  CT_STATE,
  CT_STATUS_DNAT,
  compare,
  constant,
  counter,
  ct,
  dnat,
  hostU32,
  lookup,
  masquerade,
  meta,
  type NftExpression,
  type NftHook,
  type NftRule,
  payload,
  random,
  reject,
  remember,
  ruleOf,
  setMark,
  verdict,
  verdictMap,
} from '../../../kernel/nft/index.ts';
import { socketAddress } from '../../describe.ts';
import type { SetName } from '../../types.ts';
import { LOCAL_SLOT, MASQUERADE_MARK, type SetId } from './layout.ts';

export interface Chain {
  readonly hook?: NftHook;
  readonly rules: readonly NftRule[];
}

/** How frontends are found: by address, protocol and port, or by protocol and port at any address of the node. */
export type Space = 'vip' | 'nodeport';

/** Where a new connection goes that is forwarded, when nobody remembers clients. */
export interface Target {
  readonly space: Space;
  readonly set: SetName;
  /** How many slots the set has. */
  readonly size: number;
  readonly masquerade: boolean;
}

/** The same of a Service port with affinity, which has chains of its own. */
export interface AffineTarget {
  /** Number of the Service port. */
  readonly number: number;
  readonly set: SetName;
  readonly masquerade: boolean;
}

/** An endpoint of a Service port with affinity. */
export interface AffineEndpoint {
  /** Never used again while a client may be remembered by it. */
  readonly id: number;
  readonly address: IpAddress;
  readonly port: number;
}

/** Chains for frontends that nobody serves. */
export const REJECTED = 'rejected';
export const DROPPED = 'dropped';
const SERVICES = 'services';
const REFUSE = 'refuse';

const NF_DSTNAT = -100;
/** The link lo has this number in every namespace (drivers/net/loopback.c). */
const LOOPBACK_INDEX = 1;
/** Before the masquerading of pods to the outside (srcnat, 100). */
const POSTROUTING = 99;

/** Registers: the key lies from 0 on, what a map gave from 8 on. */
const FOUND = 8;

/** Registers that an address takes. */
function words(family: Family): number {
  return family === 4 ? 1 : 4;
}

function address(family: Family, which: 'source' | 'destination', to: number): NftExpression {
  const offset = { 4: { source: 12, destination: 16 }, 6: { source: 8, destination: 24 } }[family][which];
  return payload('network', offset, words(family) * 4, to);
}

/** Loads protocol and port of the destination, for `vip` behind its address. Returns the first free register. */
function frontend(family: Family, space: Space): { load: NftExpression[]; next: number } {
  const at = space === 'vip' ? words(family) : 0;
  const load = [meta('l4proto', at), payload('transport', 2, 2, at + 1)];
  return { load: space === 'vip' ? [address(family, 'destination', 0), ...load] : load, next: at + 2 };
}

const isNew: readonly NftExpression[] = [
  ct('state', 0),
  bitwise(0, CT_STATE.new, 0),
  compare(0, hostU32(0), true),
];
const fromPod: readonly NftExpression[] = [meta('iif', 0), lookup('pod-links' satisfies SetId, 0)];
const notFromPod: readonly NftExpression[] = [meta('iif', 0), absent('pod-links' satisfies SetId, 0)];

function mark(on: boolean): readonly NftExpression[] {
  return [meta('mark', 0), bitwise(0, ~MASQUERADE_MARK, on ? MASQUERADE_MARK : 0), setMark(0)];
}

function rule(
  comment: string,
  ...expressions: readonly (NftExpression | readonly NftExpression[])[]
): NftRule {
  return ruleOf([{ kind: 'steps', steps: expressions.flat() }], comment);
}

/** The verdict of a map for this packet's frontend. */
function dispatch(family: Family, space: Space, map: SetId): NftExpression[] {
  const atNode = [address(family, 'destination', 0), lookup('node-addresses' satisfies SetId, 0)];
  return [...(space === 'vip' ? [] : atNode), ...frontend(family, space).load, verdictMap(map, 0)];
}

/** Chains that do not depend on Services, in an order in which none jumps to a later one. */
export function baseChains(family: Family): Map<string, Chain> {
  const destination = (set: SetId): NftExpression[] => [address(family, 'destination', 0), lookup(set, 0)];
  const go = (chain: string) => verdict({ verdict: 'goto', chain });
  const jump = (chain: string) => verdict({ verdict: 'jump', chain });
  const drop = verdict({ verdict: 'drop' });
  const base = (type: NftHook['type'], hook: NftHook['hook'], priority: number, rules: NftRule[]): Chain => ({
    hook: { type, hook, priority, policy: 'accept' },
    rules,
  });
  const { load, next } = frontend(family, 'vip');
  const ranges = [
    rule(
      'drop: the source is in no range of the load balancer',
      isNew,
      load,
      lookup('ranged' satisfies SetId, 0),
      address(family, 'source', next),
      absent('allowed' satisfies SetId, 0),
      counter(),
      drop,
    ),
  ];
  const tcp = Uint8Array.of(6);
  const LOOPBACK_MASK = 0x0000_00ff;
  /** 127.0.0.0/8; of the first byte, since registers hold what lies in the packet. */
  const loopback = (which: 'source' | 'destination') => [
    address(family, which, 0),
    bitwise(0, LOOPBACK_MASK, 0),
    compare(0, hostU32(127)),
  ];
  const translated = [ct('status', 0), bitwise(0, CT_STATUS_DNAT, 0)];
  const fromLoopback = rule(
    'a nodePort at 127.0.0.1',
    translated,
    compare(0, hostU32(0), true),
    loopback('source'),
    masquerade(),
  );
  /** With route_localnet others on the link could reach what listens at 127.0.0.1 (CVE-2020-8558). */
  const guard = rule(
    'drop: to 127.0.0.0/8 from outside',
    meta('iif', 0),
    compare(0, hostU32(LOOPBACK_INDEX), true),
    loopback('destination'),
    translated,
    compare(0, hostU32(0)),
    counter(),
    drop,
  );
  return new Map<string, Chain>([
    [DROPPED, { rules: [rule('drop: policy Local, and no endpoint on this node', counter(), drop)] }],
    [
      REJECTED,
      {
        rules: [
          rule(
            'reject: no endpoint, or no such port',
            meta('l4proto', 0),
            compare(0, tcp),
            counter(),
            reject('tcp reset'),
          ),
          rule(
            'reject: no endpoint, or no such port',
            counter(),
            reject(family === 4 ? 'icmp port-unreachable' : 'icmpv6 port-unreachable'),
          ),
        ],
      },
    ],
    [
      SERVICES,
      {
        rules: [
          rule('to a Service by its address', dispatch(family, 'vip', 'vips')),
          rule('to a Service by its nodePort', dispatch(family, 'nodeport', 'nodeports')),
        ],
      },
    ],
    [
      REFUSE,
      {
        rules: [
          rule('Services without endpoints', dispatch(family, 'vip', 'refused')),
          rule('nodePorts without endpoints', dispatch(family, 'nodeport', 'refused-nodeports')),
          rule('a ClusterIP, but none of its ports', destination('cluster-ips'), go(REJECTED)),
          rule(
            'drop: an address of a Service range that no Service has',
            destination('service-ranges'),
            counter(),
            drop,
          ),
        ],
      },
    ],
    [
      'prerouting-ranges',
      base('filter', 'prerouting', NF_DSTNAT - 10, family === 4 ? [guard, ...ranges] : ranges),
    ],
    ['output-ranges', base('filter', 'output', NF_DSTNAT - 10, ranges)],
    [
      'prerouting',
      base('nat', 'prerouting', NF_DSTNAT, [
        rule('pods of this node', fromPod, go(SERVICES)),
        rule('clients outside, policy Local', dispatch(family, 'vip', 'vips-outside')),
        rule('clients outside, policy Local', dispatch(family, 'nodeport', 'nodeports-outside')),
        rule('other clients outside must get their answers by this node', mark(true)),
        rule('clients outside', jump(SERVICES)),
        rule('to no Service', mark(false)),
      ]),
    ],
    [
      'output',
      base('nat', 'output', NF_DSTNAT, [
        rule('this node, policy Local', dispatch(family, 'vip', 'vips-node')),
        rule('this node, policy Local', dispatch(family, 'nodeport', 'nodeports-node')),
        rule('this node', go(SERVICES)),
      ]),
    ],
    [
      'prerouting-refuse',
      base('filter', 'prerouting', NF_DSTNAT + 10, [
        rule('clients outside', isNew, notFromPod, dispatch(family, 'vip', 'refused-outside')),
        rule('clients outside', isNew, notFromPod, dispatch(family, 'nodeport', 'refused-nodeports-outside')),
        rule('everybody', isNew, go(REFUSE)),
      ]),
    ],
    ['output-refuse', base('filter', 'output', NF_DSTNAT + 10, [rule('this node', isNew, go(REFUSE))])],
    [
      'forward',
      base('filter', 'forward', NF_DSTNAT - 10, [
        // Without its connection a segment would leave with the endpoint's address (kubernetes issue 74839).
        rule(
          'drop: a segment of a pod that belongs to no connection',
          fromPod,
          meta('l4proto', 0),
          compare(0, tcp),
          ct('state', 0),
          bitwise(0, CT_STATE.invalid, 0),
          compare(0, hostU32(0), true),
          counter(),
          drop,
        ),
      ]),
    ],
    [
      'postrouting',
      base('nat', 'postrouting', POSTROUTING, [
        rule(
          'answers must come back by this node',
          meta('mark', 0),
          bitwise(0, MASQUERADE_MARK, 0),
          compare(0, hostU32(0), true),
          mark(false),
          masquerade(),
        ),
        rule(
          'a client that is its own backend',
          ct('status', 0),
          bitwise(0, CT_STATUS_DNAT, 0),
          compare(0, hostU32(0), true),
          address(family, 'source', 0),
          address(family, 'destination', words(family)),
          lookup('hairpins' satisfies SetId, 0),
          masquerade(),
        ),
        ...(family === 4 ? [fromLoopback] : []),
      ]),
    ],
  ]);
}

/** `vip-3`, `nodeport-2-local-masquerade`. */
export function targetName({ space, set, size, masquerade: masqueraded }: Target): string {
  return `${space}-${size}${suffix(set, masqueraded)}`;
}

function suffix(set: SetName, masqueraded: boolean): string {
  return `${set === 'local' ? '-local' : ''}${masqueraded ? '-masquerade' : ''}`;
}

const TARGET = /^(?<space>vip|nodeport)-(?<size>\d+)(?<local>-local)?(?<masquerade>-masquerade)?$/;

/** The target of a chain by its name; undefined for other chains. */
export function parseTarget(name: string): Target | undefined {
  const groups = TARGET.exec(name)?.groups;
  if (!groups) return undefined;
  return {
    space: groups['space'] as Space,
    set: groups['local'] ? 'local' : 'cluster',
    size: Number(groups['size']),
    masquerade: groups['masquerade'] !== undefined,
  };
}

/** The chain that chooses an endpoint. */
export function targetChain(family: Family, { space, set, size, masquerade: masqueraded }: Target): Chain {
  const slots: SetId = space === 'vip' ? 'slots' : 'nodeport-slots';
  const { load, next } = frontend(family, space);
  const first = set === 'local' ? LOCAL_SLOT : 0;
  const choice = rule(
    'an endpoint by chance',
    load,
    random(size, first, next),
    lookup(slots, 0, FOUND),
    counter(),
    dnat(family, FOUND, FOUND + words(family)),
  );
  return { rules: masqueraded ? [MARKED, choice] : [choice] };
}

const MARKED = rule('answers must come back by this node', mark(true));

/** `affinity-4`, `affinity-4-local-masquerade`. */
export function affineName({ number, set, masquerade: masqueraded }: AffineTarget): string {
  return `affinity-${number}${suffix(set, masqueraded)}`;
}

const AFFINE = /^affinity-(?<number>\d+)(?<local>-local)?(?<masquerade>-masquerade)?$/;

export function parseAffine(name: string): AffineTarget | undefined {
  const groups = AFFINE.exec(name)?.groups;
  if (!groups) return undefined;
  return {
    number: Number(groups['number']),
    set: groups['local'] ? 'local' : 'cluster',
    masquerade: groups['masquerade'] !== undefined,
  };
}

const ENDPOINT_CHAIN = 'endpoint-';

export function endpointName(id: number): string {
  return `${ENDPOINT_CHAIN}${id}`;
}

/** The number in the name of an endpoint's chain. */
export function parseEndpointName(name: string): number | undefined {
  const digits = name.startsWith(ENDPOINT_CHAIN) ? name.slice(ENDPOINT_CHAIN.length) : '';
  return /^\d+$/.test(digits) ? Number(digits) : undefined;
}

/** Loads the client and a number: the key of `affinity`. */
function client(family: Family, id: number): NftExpression[] {
  return [address(family, 'source', 0), constant(hostU32(id), words(family))];
}

/** First the endpoint that the client had, then one by chance. `size` is the number of slots. */
export function affineChain(
  family: Family,
  target: AffineTarget,
  endpoints: readonly AffineEndpoint[],
  size: number,
): Chain {
  const { number, set } = target;
  if (target.masquerade) {
    const plain = affineName({ ...target, masquerade: false });
    return { rules: [MARKED, rule('and the endpoint', verdict({ verdict: 'goto', chain: plain }))] };
  }
  const known = endpoints.map(({ id, address: to, port }) =>
    rule(
      `${id}: clients that had ${socketAddress(String(to), port)}`,
      client(family, id),
      lookup('affinity' satisfies SetId, 0),
      verdict({ verdict: 'goto', chain: endpointName(id) }),
    ),
  );
  const choice = rule(
    `one of ${size} by chance`,
    constant(hostU32(number), 0),
    random(size, set === 'local' ? LOCAL_SLOT : 0, 1),
    verdictMap('affinity-slots' satisfies SetId, 0),
  );
  return { rules: [...known, choice] };
}

/** Remembers the client, and sends it on. */
export function endpointChain(family: Family, endpoint: AffineEndpoint, seconds: number): Chain {
  const { id, address: to, port } = endpoint;
  const bytes = new Uint8Array(words(family) * 4);
  to.writeTo(bytes, 0);
  return {
    rules: [
      rule(
        `remembered for ${seconds} s`,
        client(family, id),
        remember('affinity' satisfies SetId, 0, seconds * 1000),
      ),
      rule(
        `to ${socketAddress(String(to), port)}`,
        constant(bytes, FOUND),
        constant(Uint8Array.of(port >> 8, port & 0xff), FOUND + words(family)),
        counter(),
        dnat(family, FOUND, FOUND + words(family)),
      ),
    ],
  };
}

/** What a chain is known by: a changed rule has another comment. */
export function chainLooks(chain: Chain): string {
  return chain.rules.map(({ comment }) => comment).join('\n');
}
