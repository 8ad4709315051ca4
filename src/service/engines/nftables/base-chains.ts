/**
 * The rules that do not depend on Services, written once for both families. Everything that does is in sets, and in
 * chains that differ by the number of slots to choose from (target-chains.ts), because the kernel draws random numbers
 * below a constant only.
 *
 *     prerouting -110  source ranges                              output -110
 *     nat prerouting   pods ─► services                           nat output ─► vips-node ─► services
 *                      outside ─► vips-outside ─► mark ─► services
 *     prerouting  -90  new, and still to a Service address: refused        output -90
 *     nat postrouting  marked, or its own backend: masquerade
 */
import type { Family } from '../../../addr/index.ts';
import {
  absent,
  bitwise,
  CT_STATE,
  CT_STATUS_DNAT,
  compare,
  counter,
  ct,
  hostU32,
  lookup,
  masquerade,
  meta,
  type NftExpression,
  type NftHook,
  type NftRule,
  reject,
  verdict,
  verdictMap,
} from '../../../kernel/nft/index.ts';
import { MASQUERADE_MARK, type SetId } from './layout.ts';
import { address, type Chain, frontend, mark, rule, type Space, words } from './rule-parts.ts';

/** Chains for frontends that nobody serves. */
export const REJECTED = 'rejected';
export const DROPPED = 'dropped';
const SERVICES = 'services';
const REFUSE = 'refuse';

const NF_DSTNAT = -100;
/** The link lo has this number in every namespace (drivers/net/loopback.c). */
const LOOPBACK_INDEX = 1;
/** ::1 */
const LOOPBACK_6 = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);
/** Before the masquerading of pods to the outside (srcnat, 100). */
const POSTROUTING = 99;

const isNew: readonly NftExpression[] = [
  ct('state', 0),
  bitwise(0, CT_STATE.new, 0),
  compare(0, hostU32(0), true),
];
const fromPod: readonly NftExpression[] = [meta('iif', 0), lookup('pod-links' satisfies SetId, 0)];
const notFromPod: readonly NftExpression[] = [meta('iif', 0), absent('pod-links' satisfies SetId, 0)];

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
    family === 4 ? 'a nodePort at 127.0.0.1' : 'a nodePort at ::1',
    translated,
    compare(0, hostU32(0), true),
    family === 4 ? loopback('source') : [address(6, 'source', 0), compare(0, LOOPBACK_6)],
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
          rule('a ClusterIP of another proxy', destination('not-ours'), verdict({ verdict: 'accept' })),
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
        fromLoopback,
      ]),
    ],
  ]);
}
