/** Sides of conditions in bpf/ that no test takes, and why. tools/bpf-coverage.ts compares them with what it sees. */
import type { Explained } from './bpf-coverage-report.ts';

const ARGUMENT = 'the verifier checks a function by itself for any argument, so also for none';
const ARRAY = 'an array has each index that is asked for; the verifier wants every look-up tested';
const READ = 'these bytes were read before, or no program runs on a packet without them';
const MEMORY = 'the kernel writes to a packet that it has read unless there is no memory for a copy';
const RACE = 'another CPU would have to change the same place at the same moment';
const BOUND = 'another condition ends it first; the verifier wants a bound that it understands';
const DRIVER = 'test runs and veth have room in front of a packet and let its end be moved';
const OLD_KERNEL = 'kernels before 5.12 do not say a route’s MTU';
const OLD_ERRORS = 'kernels before 5.18 know one error for all that a socket hook refuses';
const OLD_COOKIE = 'kernels before 5.14 give a process no cookie of a namespace';
const OTHER_CPU = 'CPUs other than x64 may store out of order';
const FOREIGN = 'another node would have to hand over a packet with its XDP program’s word';
const SUBFLOW = 'the kernel asks for the TCP socket inside one of MPTCP';
const JUST_NOW = 'a tick would have to pass between two lines';
const SOCKET = 'a socket’s hook has its socket';
const CHANCE = 'random packets come here, but not with each seed';
const NO_FURTHER = 'a node whose ports are all spoken for below the range has no further ones';
const BENCHMARK = 'a switch for npm run bench -- xdp, which says by it what counting costs';

/** One entry for each time that the condition occurs. */
function never(
  file: string,
  side: 'true' | 'false',
  why: string,
  conditions: readonly string[],
): Explained[] {
  return conditions.map((condition) => ({ file, condition, side, why }));
}

const LOAD = (at: string, to: string, size = `sizeof(${to})`) =>
  `bpf_skb_load_bytes(skb, ${at}, &${to}, ${size})`;

export const EXPLAINED: readonly Explained[] = [
  // A function's arguments.
  ...never('include/lb_answer.h', 'true', ARGUMENT, ['!p']),
  ...never('include/lb_direct.h', 'true', ARGUMENT, ['!p', '!flow', '!p', '!p', '!outer']),
  ...never('include/lb_flow.h', 'true', ARGUMENT, ['!p', '!name', '!p', '!p']),
  ...never('include/lb_flow_table.h', 'true', ARGUMENT, ['!name', '!name', '!name']),
  ...never('include/lb_flow_claim.h', 'true', ARGUMENT, ['!name']),
  ...never('include/lb_frame_answer.h', 'true', ARGUMENT, ['!p']),
  ...never('include/lb_frame_direct.h', 'true', ARGUMENT, ['!p', '!flow']),
  ...never('include/lb_hot.h', 'true', ARGUMENT, ['!p']),
  ...never('include/lb_open.h', 'true', ARGUMENT, ['!p', '!p', '!backend', '!p', '!backend']),
  ...never('include/lb_option.h', 'true', ARGUMENT, ['!p', '!told']),
  ...never('include/lb_packet.h', 'true', ARGUMENT, ['!p']),
  ...never('include/lb_passed.h', 'true', ARGUMENT, ['!p']),
  ...never('include/lb_tell.h', 'true', ARGUMENT, ['!p', '!flow', '!p']),
  ...never('lb_node.bpf.c', 'true', ARGUMENT, ['!p', '!p', '!p', '!p']),
  ...never('lb_node.bpf.c', 'false', ARGUMENT, ['p', 'p', 'p']),
  ...never('lb_xdp.bpf.c', 'true', ARGUMENT, ['!p', '!flow', '!p', '!p', '!p']),

  // Look-ups in arrays.
  ...never('include/lb_choose.h', 'false', ARRAY, ['found', 'config']),
  ...never('include/lb_choose.h', 'true', ARRAY, ['!config']),
  ...never('include/lb_count.h', 'false', ARRAY, ['map', 'count', 'count', 'count', 'count']),
  ...never('include/lb_direct.h', 'true', ARRAY, ['!room']),
  ...never('include/lb_flow.h', 'false', ARRAY, ['used', 'used']),
  ...never('include/lb_flow.h', 'true', ARRAY, ['!used', '!table']),
  ...never('include/lb_flow_table.h', 'false', ARRAY, ['map', 'set', 'set', 'set']),
  ...never('include/lb_flow_table.h', 'true', ARRAY, ['!set', '!set', '!set']),
  ...never('include/lb_flow_table.h', 'true', ARRAY, ['!table', '!table', '!table']),
  ...never('include/lb_flow_claim.h', 'false', ARRAY, ['count', 'home']),
  ...never('include/lb_flow_claim.h', 'true', ARRAY, ['!flow', '!set', '!count', '!table', '!set']),
  ...never('include/lb_frame_direct.h', 'true', ARRAY, ['!room']),
  ...never('include/lb_hot.h', 'false', ARRAY, ['line', '*kind']),
  ...never('include/lb_hot.h', 'true', ARRAY, ['!kind', '!flow', '!epoch', '!line']),
  ...never('include/lb_maps.h', 'false', ARRAY, ['count']),
  ...never('include/lb_nat.h', 'false', ARRAY, ['epoch']),
  ...never('include/lb_nat.h', 'true', ARRAY, ['!head', '!flow']),
  ...never('include/lb_news.h', 'true', ARRAY, ['!told']),
  ...never('include/lb_open.h', 'true', ARRAY, ['!name', '!name']),
  ...never('include/lb_open.h', 'false', ARRAY, ['holder']),
  ...never('include/lb_outside.h', 'true', ARRAY, ['!room']),
  ...never('include/lb_outside.h', 'false', ARRAY, ['room', 'room', 'room']),
  ...never('include/lb_socket_memory.h', 'false', ARRAY, ['place', 'place', 'place', 'place']),
  ...never('include/lb_tell.h', 'true', ARRAY, ['!room', '!room', '!room']),
  ...never('include/lb_towards.h', 'true', ARRAY, ['!to']),
  ...never('lb_flow.bpf.c', 'true', ARRAY, ['!set', '!set', '!set', '!table']),
  ...never('lb_node.bpf.c', 'true', ARRAY, ['!flow']),
  ...never('lb_xdp.bpf.c', 'true', ARRAY, ['!flow', '!flow']),
  ...never('lb_xdp.bpf.c', 'false', ARRAY, ['room', 'flow', 'epoch', 'epoch']),

  // What was read before.
  ...never('include/lb_answer.h', 'true', READ, [LOAD('p->l4', 'old')]),
  ...never('include/lb_forward.h', 'true', READ, [
    LOAD('ETH_HLEN + 7', 'hops', '1'),
    LOAD('ETH_HLEN + 8', 'old', '2'),
  ]),
  ...never('include/lb_frame.h', 'true', READ, ['transport + 8 > end', 'transport + 20 > end']),
  ...never('include/lb_frame.h', 'false', READ, ['data + ETH_HLEN <= (void *)(long)ctx->data_end']),
  ...never('include/lb_frame_answer.h', 'true', READ, [
    'transport + 20 > end',
    'data + ETH_HLEN + size > (void *)(long)ctx->data_end',
    'data + ETH_HLEN + kept > (void *)(long)ctx->data_end',
    'data + ETH_HLEN + kept > (void *)(long)ctx->data_end',
  ]),
  ...never('include/lb_frame_direct.h', 'true', READ, [
    '(void *)(inner + 1) > end',
    '(void *)(inner + 1) > end',
  ]),
  ...never('include/lb_option.h', 'true', READ, [
    '!lb_may_have_option(p)',
    LOAD('ETH_HLEN + 6', 'next', '1'),
    LOAD('ETH_HLEN', 'old'),
    LOAD('ETH_HLEN', 'old'),
    LOAD('ETH_HLEN + sizeof(struct iphdr)', 'option'),
    LOAD('ETH_HLEN + 4', 'head'),
    LOAD('ETH_HLEN + 6', 'option.next', '1'),
    LOAD('ETH_HLEN + sizeof(struct ipv6hdr)', 'next', '1'),
    'words < 5',
  ]),
  ...never('include/lb_packet.h', 'true', READ, ['bpf_skb_load_bytes(skb, 0, macs, sizeof(macs))']),
  ...never('include/lb_tell.h', 'true', READ, ['bpf_skb_load_bytes(skb, 6, mac, sizeof(mac))']),

  // Writing.
  ...never('include/lb_answer.h', 'true', MEMORY, [
    ...['failed', 'failed'],
    ...Array<string>(2).fill('bpf_skb_change_tail(skb, ETH_HLEN + kept, 0)'),
    ...Array<string>(2).fill('bpf_skb_adjust_room(skb, sizeof(head), BPF_ADJ_ROOM_MAC, 0)'),
    ...Array<string>(2).fill('bpf_skb_store_bytes(skb, ETH_HLEN, &head, sizeof(head), BPF_F_RECOMPUTE_CSUM)'),
  ]),
  ...never(
    'include/lb_direct.h',
    'true',
    MEMORY,
    Array<string>(2).fill('bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof(outer), BPF_F_RECOMPUTE_CSUM)'),
  ),
  ...never('include/lb_direct.h', 'true', MEMORY, ['lb_give(skb, p, flow)']),
  ...never('include/lb_forward.h', 'true', MEMORY, [
    'bpf_skb_store_bytes(skb, ETH_HLEN + 7, &hops, 1, BPF_F_RECOMPUTE_CSUM)',
    'bpf_l3_csum_replace(skb, LB_IP4_CHECKSUM_AT, old, new, 2)',
    'bpf_skb_store_bytes(skb, ETH_HLEN + 8, &new, 2, 0)',
    'bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0)',
    'lb_rewrite(skb, p, true, to->source, to->source_port)',
    'lb_rewrite(skb, p, false, to->target, to->target_port)',
    'rewrite_embedded(skb, p, e, true, inner->source, inner->source_port)',
    'rewrite_embedded(skb, p, e, false, inner->target, inner->target_port)',
    'rewrite_outer(skb, p, true, from)',
    'rewrite_outer(skb, p, false, to)',
  ]),
  ...never('include/lb_option.h', 'true', MEMORY, [
    'bpf_l3_csum_replace(skb, LB_IP4_CHECKSUM_AT, 0, bpf_csum_diff(from, 16, to, 16, 0), 0)',
    'bpf_skb_store_bytes(skb, ETH_HLEN, &head, sizeof(head), 0)',
    'bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(struct iphdr), option, sizeof(*option), 0)',
    'lb_option_write4(skb, old, head, &option, &nothing)',
    'bpf_skb_store_bytes(skb, ETH_HLEN + 4, &head, sizeof(head), BPF_F_RECOMPUTE_CSUM)',
    'bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr), &option, sizeof(option), BPF_F_RECOMPUTE_CSUM)',
  ]),
  ...never('include/lb_packet.h', 'true', MEMORY, [
    'failed',
    'bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), 0)',
  ]),
  ...never('include/lb_tell.h', 'true', MEMORY, [
    'lb_rewrite(skb, p, false, flow->backend, flow->backend_port)',
  ]),
  ...never('include/lb_translate.h', 'true', MEMORY, [
    ...['failed', 'failed'],
    'rewrite_embedded(skb, p, &e, false, e.packet.target, lb_port_by(e.packet.target_port, lb_flow_way(flow)))',
    'rewrite_embedded(skb, p, &e, true, flow->backend, flow->backend_port)',
    'rewrite_outer(skb, p, false, flow->backend)',
    'rewrite_embedded(skb, p, &e, true, e.packet.source, flow->client_port)',
    'rewrite_embedded(skb, p, &e, false, flow->vip, flow->vip_port)',
    'rewrite_outer(skb, p, true, flow->vip)',
    'lb_rewrite(skb, p, false, flow->backend, flow->backend_port)',
    'lb_rewrite(skb, &p, true, flow->vip, flow->vip_port)',
    'lb_rewrite(skb, &p, false, p.target, flow->client_port)',
  ]),
  ...never('lb_flow.bpf.c', 'true', MEMORY, [
    'bpf_skb_store_bytes(skb, 0, &sweep, sizeof(sweep), 0)',
    'bpf_skb_store_bytes(skb, 0, &edit, sizeof(edit), 0)',
  ]),
  ...never('lb_node.bpf.c', 'true', MEMORY, ['lb_give(skb, p, flow)']),
  ...never('lb_pod.bpf.c', 'true', MEMORY, [
    'lb_rewrite(skb, p, false, flow->backend, flow->backend_port)',
    'lb_rewrite(skb, p, true, hairpin, port)',
    'lb_swap_macs(skb)',
    'lb_rewrite(skb, p, true, p->source, port)',
    'lb_rewrite(skb, p, true, flow->vip, flow->vip_port)',
    'lb_rewrite(skb, p, false, flow->client, flow->client_port)',
    'lb_swap_macs(skb)',
  ]),

  // Room in XDP.
  ...never('include/lb_frame_answer.h', 'true', DRIVER, [
    'bpf_xdp_adjust_tail(ctx, ETH_HLEN + kept - length)',
    'bpf_xdp_adjust_head(ctx, -(int)size)',
    ...['failed', 'failed'],
  ]),
  ...never('include/lb_frame_direct.h', 'true', DRIVER, [
    'bpf_xdp_adjust_head(ctx, p->ip4 ? -(int)sizeof(struct iphdr) : -(int)sizeof(struct ipv6hdr))',
  ]),
  ...never('include/lb_said.h', 'false', DRIVER, ['(void *)(word + 1) <= (void *)(long)ctx->data']),
  ...never('lb_xdp.bpf.c', 'true', DRIVER, [
    'bpf_xdp_adjust_meta(ctx, -(int)sizeof(__u32))',
    'rewrite_packet(ctx, p, &way, true, true)',
    '!may_say(ctx)',
    '!has_room(ctx)',
    'p->ip4 ? rewrite_packet(ctx, p, &way, false, true) : rewrite_packet(ctx, p, &way, false, false)',
    'p->ip4 ? rewrite_packet(ctx, p, &way, true, true) : lb_xdp_rewrite6(ctx, p, number, from_client)',
  ]),

  // Two CPUs.
  ...never('include/lb_flow_claim.h', 'true', RACE, [
    '__sync_val_compare_and_swap(&set->tag[slot], old, tag) != old',
  ]),
  ...never('include/lb_flow_claim.h', 'false', RACE, ['there', 'tag']),
  ...never('lb_flow.bpf.c', 'false', RACE, ['__sync_val_compare_and_swap(&set->tag[slot], tag, 0) == tag']),

  // Bounds, other kernels, benchmarks.
  ...never('include/lb_flow_table.h', 'false', BOUND, ['level < LB_FLOW_LEVELS']),
  ...never('include/lb_answer.h', 'true', BOUND, ['kept > most', 'kept < sizeof(struct iphdr)']),
  ...never('include/lb_open.h', 'true', BOUND, ['!choice->backend']),
  ...never('lb_flow.bpf.c', 'false', BOUND, ['level < LB_FLOW_LEVELS']),
  ...never('lb_flow.bpf.c', 'true', BOUND, ['slot >= LB_FLOW_SLOTS']),
  ...never('lb_flow.bpf.c', 'true', RACE, ['!tag']),
  ...never('include/lb_nat.h', 'true', RACE, [
    '(word & LB_NAT_STATE) != LB_NAT_USED',
    '!lb_nat_is_client(flow, p)',
  ]),
  ...never('include/lb_socket_memory.h', 'true', RACE, ['!peers']),
  ...never('lb_xdp.bpf.c', 'false', BOUND, ['kind', 'lb_is_ip4(backend->address)']),
  ...never('include/lb_hot.h', 'true', JUST_NOW, ['!lb_hop_is_fresh(hop)']),
  ...never('include/lb_socket_memory.h', 'true', SOCKET, ['!sk']),
  ...never('lb_socket.bpf.c', 'true', BOUND, ['!backend']),
  ...never('include/lb_hop.h', 'true', OLD_KERNEL, ['fib->mtu_result == 1']),
  ...never('include/lb_direct.h', 'false', OLD_KERNEL, ['to->hop.mtu']),
  ...never('include/lb_forward.h', 'false', OLD_KERNEL, ['hop->mtu']),
  ...never('include/lb_frame_direct.h', 'false', OLD_KERNEL, ['to->hop.mtu']),
  ...never('include/lb_tell.h', 'false', OLD_KERNEL, ['room->hop.mtu']),
  ...never('lb_xdp.bpf.c', 'false', OLD_KERNEL, ['hop->mtu', 'kind->hop.mtu']),
  ...never('lb_xdp.bpf.c', 'true', OLD_KERNEL, ['!room->hop.mtu']),
  ...never('include/lb_said.h', 'true', FOREIGN, ['(*word ^ lb_said_word(0)) > LB_SAID_KIND']),
  ...never('lb_socket.bpf.c', 'false', OLD_COOKIE, ['lb_node_netns']),
  ...never('lb_socket.bpf.c', 'false', OLD_ERRORS, ['lb_sets_errors']),
  ...never('lb_socket.bpf.c', 'true', SUBFLOW, ['protocol == IPPROTO_MPTCP_']),
  ...never('include/lb_translate.h', 'false', CHANCE, ['!(flow->flags & LB_FLOW_OPTION)']),
  ...never('include/lb_nat_claim.h', 'true', NO_FURTHER, ['!lb_nat_more_base']),
  ...never('lb_xdp.bpf.c', 'false', NO_FURTHER, ['lb_nat_more_base']),
  ...never('lb_xdp.bpf.c', 'false', BENCHMARK, ['lb_xdp_counts', 'lb_xdp_counts', 'lb_xdp_counts']),

  // The table of flows to backends elsewhere.
  ...never('include/lb_nat_claim.h', 'false', ARRAY, ['head', 'table', 'head', 'flow', 'head']),
  ...never('include/lb_nat_claim.h', 'true', ARRAY, [
    '!flow',
    '!flow',
    '!head',
    '!base',
    '!head',
    '!home',
    '!head',
    '!head',
    '!home',
    '!flow',
    '!count',
  ]),
  ...never('include/lb_nat_claim.h', 'true', ARGUMENT, ['!wish', '!wish', '!p', '!wish', '!p', '!wish']),
  ...never('include/lb_nat_claim.h', 'true', RACE, [
    '(word & LB_NAT_STATE) != LB_NAT_USED',
    '(there & LB_NAT_STATE) == LB_NAT_USED',
    'number < mine',
    'lb_nat_clashes(head, wish, set, word, mine)',
    'lb_nat_clashes_in(wish, place, word, mine)',
    'lb_nat_clashes_in(wish, place + level * LB_NAT_PLACES, word, mine)',
    '!lb_nat_seize(place, number, old, word)',
    'lb_nat_clashes_any(wish, place, word, number)',
    '__sync_val_compare_and_swap(&head->word[slot], seen >> 32, LB_NAT_PENDING | word) != (__u32)(seen >> 32)',
    'lb_nat_clashes(head, wish, place, word, number)',
    '*(volatile __u32 *)&head->tried >> LB_NAT_ALL_TRIES',
  ]),
  ...never('include/lb_nat_claim.h', 'false', ARGUMENT, ['wish', 'wish']),
  ...never('include/lb_nat_claim.h', 'false', RACE, [
    '!lb_nat_has(flow, wish, there)',
    '(there & LB_NAT_STATE) == LB_NAT_USED',
    'number < mine',
  ]),
  ...never('include/lb_nat_claim.h', 'false', BOUND, ['level <= LB_NAT_LEVELS']),
  ...never('include/lb_nat_claim.h', 'false', OTHER_CPU, ['lb_stores_in_order']),
  ...never('include/lb_nat_find.h', 'false', ARRAY, ['more', 'flow', 'flow']),
  ...never('include/lb_nat_find.h', 'false', ARGUMENT, ['p']),
  ...never('include/lb_nat_find.h', 'true', ARGUMENT, ['!p', '!p', '!p']),
  ...never('include/lb_nat_find.h', 'true', ARRAY, ['!home', '!head', '!head']),
  ...never('include/lb_nat_find.h', 'false', BOUND, ['try < LB_NAT_ALL_TRIES']),
  ...never('include/lb_outside.h', 'false', ARRAY, ['room']),
  ...never('lb_flow.bpf.c', 'true', ARRAY, ['!head', '!flow', '!head']),
  ...never('lb_flow.bpf.c', 'true', BOUND, ['slot >= LB_NAT_SLOTS']),
  ...never('lb_flow.bpf.c', 'true', RACE, ['!(word & LB_NAT_STATE)', '(word & LB_NAT_STATE) != LB_NAT_USED']),
  ...never('lb_flow.bpf.c', 'false', RACE, [
    '__sync_val_compare_and_swap(&head->word[slot], word, 0) == word',
  ]),
  ...never('lb_flow.bpf.c', 'true', MEMORY, [
    'bpf_skb_load_bytes(skb, 0, &sweep, sizeof(sweep))',
    'bpf_skb_store_bytes(skb, 0, &sweep, sizeof(sweep), 0)',
  ]),
  ...never('lb_node.bpf.c', 'true', ARRAY, ['!room']),
];
