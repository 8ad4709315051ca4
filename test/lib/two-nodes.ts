/**
 * Two nodes side by side, and a client of the first one to whom the second one has a way of its own, so that answers
 * need not pass the first.
 *
 *     client 172.20.7.9 ── up20 a ab ── ba b ── pods 10.244.8.0/24
 *              172.41.0.9 ──────────────── cl b
 */
import type { ServiceNode, TestPod } from './services.ts';

/** The nodes' addresses on the link between them. */
export const BETWEEN = {
  a: { ip4: '172.40.0.1', ip6: 'fd00:40::1' },
  b: { ip4: '172.40.0.2', ip6: 'fd00:40::2' },
} as const;
/** Address of node a on the link of its client, and of b on its own. */
export const EDGE = {
  a: { ip4: '172.20.7.1', ip6: 'fd00:20:7::1' },
  b: { ip4: '172.41.0.1', ip6: 'fd00:41::1' },
} as const;

/** Links and routes between nodes of number 7 and 8 and a client, who is `addHost(…, 20)` of node a. */
export function joinNodes(a: ServiceNode, b: ServiceNode, client: TestPod): void {
  a.ip(`link add ab type veth peer name ba netns ${b.prefix}`);
  b.ip(`link add cl type veth peer name eth1 netns ${client.netns}`);
  a.ip(`addr add ${BETWEEN.a.ip4}/24 dev ab`, `addr add ${BETWEEN.a.ip6}/64 dev ab nodad`, 'link set ab up');
  b.ip(
    `addr add ${BETWEEN.b.ip4}/24 dev ba`,
    `addr add ${BETWEEN.b.ip6}/64 dev ba nodad`,
    'link set ba up',
    `addr add ${EDGE.b.ip4}/24 dev cl`,
    `addr add ${EDGE.b.ip6}/64 dev cl nodad`,
    'link set cl up',
    'route add 172.20.7.0/24 via 172.41.0.9',
    'route add fd00:20:7::/64 via fd00:41::9',
  );
  a.ip(`route add 10.244.8.0/24 via ${BETWEEN.b.ip4}`, `route add fd00:10:244:8::/64 via ${BETWEEN.b.ip6}`);
  a.ipAt(
    client.netns,
    'addr add 172.41.0.9/24 dev eth1',
    'addr add fd00:41::9/64 dev eth1 nodad',
    'link set eth1 up',
  );
}
