// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * Services for clients outside, in the driver of the interface where their packets come in:
 *
 *     backend elsewhere:  client ──► [lb_xdp] ──► out of the interface towards the backend
 *                         client ◄── [lb_xdp] ◄── backend
 *     backend here:       client ──► [lb_xdp: target becomes the backend] ──► lb_from_outside ──► stack ──► pod
 *
 * It decides by the same steps as lb_from_outside (lb_outside.h) on the same maps, so a flow may change between the two
 * at any packet. Fragments, ICMP, options, packets without hops left or too large for the way, those whose checksum
 * their sender left to the network card, and neighbours that are not known: all that it passes as it is, and tc does it.
 *
 * What goes to a backend here is never sent to its link directly: the stack's rules have to see it, for NetworkPolicy
 * and masquerading.
 */
#include "lb_frame_answer.h"
#include "lb_frame_direct.h"
#include "lb_hot.h"
#include "lb_outside.h"
#include "lb_said.h"

/* Whether packets are counted for their backends. */
const volatile bool lb_xdp_counts = true;

/* Gives a packet to its backend, which is on this node. The stack brings it there. A function for the sake of the stack. */
__noinline int lb_xdp_near(struct xdp_md *ctx, const struct lb_packet *p, const struct lb_flow *flow)
{
	struct way way;

	if (!p || !flow)
		return XDP_PASS;
	way = (struct way){ p->source, flow->backend, lb_port_by(p->source_port, lb_flow_way(flow)),
			    flow->backend_port };
	if (p->ip4 ? rewrite_packet(ctx, p, &way, false, true) : rewrite_packet(ctx, p, &way, false, false))
		return XDP_PASS;
	lb_say(ctx, flow->flags & LB_FLOW_MASQUERADE ? LB_SAID_MASQUERADE : LB_SAID_DONE);
	return XDP_PASS;
}

/* Whether the driver has room for a word to tc. */
static __always_inline bool has_room(struct xdp_md *ctx)
{
	return (void *)(long)ctx->data_meta <= (void *)(long)ctx->data;
}

/* Makes that room. */
static __always_inline bool may_say(struct xdp_md *ctx)
{
	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(__u32)))
		return false;
	lb_say(ctx, LB_SAID_NOTHING);
	return true;
}

/* A packet of no flow of lb_nat_flows. Returns an action of XDP, REFUSED plus the reason, or TAKE_NAT. */
__noinline int lb_xdp_new(struct xdp_md *ctx, const struct lb_packet *p)
{
	struct lb_flow *flow;
	int verdict = DROP;
	bool opens;

	/* While flows change hands, tc decides. What can't be told to it, or be answered here, is left to it whole. */
	if (!p || lb_hold() || !in_one_part(ctx, p))
		return XDP_PASS;
	opens = opens_connection(p);
	if (opens || p->protocol == IPPROTO_UDP)
		lb_nat_expect(p);
	flow = lb_flow_known(p, opens, true, &verdict);
	if (flow && (flow->flags & LB_FLOW_DIRECT)) {
		int action = lb_xdp_direct(ctx, p, flow);

		if (action != XDP_PASS)
			lb_flow_track(flow, p, true);
		return action;
	}
	if (!has_room(ctx))
		return XDP_PASS;
	if (flow) {
		lb_flow_track(flow, p, true);
	} else {
		flow = lb_flow_opened(ctx, ctx->ingress_ifindex, p, opens, &verdict);
		if (flow)
			lb_nat_not_wanted();
		if (flow && (flow->flags & LB_FLOW_DIRECT))
			return lb_xdp_direct(ctx, p, flow);
		if (!flow && verdict != NEXT)
			return verdict >= REFUSED ? verdict : XDP_DROP;
	}
	/* Without the word tc finds the flow that there is now. */
	if (!may_say(ctx))
		return XDP_PASS;
	if (flow)
		return lb_xdp_near(ctx, p, flow);
	/* Answers come to ports of the range; one to a port of an earlier range goes by tc. */
	if (!lb_nat_find_answer(p))
		lb_say(ctx, LB_SAID_DONE);
	return XDP_PASS;
}

static __always_inline struct way way_of(const struct lb_nat_flow *flow, bool from_client)
{
	if (from_client)
		return (struct way){ flow->source, flow->backend, flow->nat_port, flow->backend_port };
	return (struct way){ flow->vip, flow->client, flow->vip_port, flow->client_port };
}

/* Finds where packets of a flow leave. A function by itself: once a second, and it takes much of the stack. */
__noinline int lb_xdp_route(struct xdp_md *ctx, const struct lb_packet *p, __u32 number, bool from_client)
{
	struct lb_nat_flow *flow = lb_nat_flow_at(number);
	struct bpf_fib_lookup fib;
	struct way way;

	if (!p || !flow)
		return LB_ROUTE_NONE;
	way = way_of(flow, from_client);
	lb_fib_question(&fib, p, way.source, way.target, ctx->ingress_ifindex);
	return lb_route_to(ctx, &fib, from_client ? &flow->to_backend : &flow->to_client);
}

/* A function by itself, for its addresses take much of the stack. */
__noinline int lb_xdp_rewrite6(struct xdp_md *ctx, const struct lb_packet *p, __u32 number, bool from_client)
{
	struct lb_nat_flow *flow = lb_nat_flow_at(number);
	struct way way;

	if (!p || !flow)
		return -1;
	way = way_of(flow, from_client);
	return rewrite_packet(ctx, p, &way, true, false);
}

/* Changes a packet of a flow and sends it, if that can be done here. */
static __always_inline int send(struct xdp_md *ctx, const struct lb_packet *p, __u32 number, struct lb_nat_flow *flow,
				bool from_client)
{
	struct lb_hop *hop = from_client ? &flow->to_backend : &flow->to_client;
	struct way way = way_of(flow, from_client);

	if (!lb_hop_is_fresh(hop) && lb_xdp_route(ctx, p, number, from_client) != LB_ROUTE_FOUND)
		return XDP_PASS;
	if (!(hop->tick & LB_HOP_XDP) || (hop->mtu && p->l4 - ETH_HLEN + p->payload > hop->mtu))
		return XDP_PASS;
	if (p->ip4 ? rewrite_packet(ctx, p, &way, true, true) : lb_xdp_rewrite6(ctx, p, number, from_client))
		return XDP_PASS;
	lb_nat_track(flow, p->tcp_flags, from_client);
	if (lb_xdp_counts)
		lb_nat_count(flow, p->payload);
	set_macs(ctx, hop->macs);
	return leave(ctx, hop);
}

/* The same of a flow that this CPU knows. XDP_PASS, with nothing changed: the table is to be asked. */
static __always_inline int send_hot(struct xdp_md *ctx, const struct lb_packet *p, const struct lb_hot *hot,
				    const struct lb_hot_kind *kind)
{
	bool answers = hot->kind & LB_HOT_ANSWER;
	const struct lb_backend *backend = NULL;
	__be32 source[4], target[4];
	struct way way;

	if (kind->hop.mtu && p->l4 - ETH_HLEN + p->payload > kind->hop.mtu)
		return XDP_PASS;
	if ((lb_xdp_counts && lb_count_packets) || (!answers && p->protocol == IPPROTO_UDP)) {
		backend = lb_backend_of(kind->backend_id);
		if (backend && !((backend->flags & LB_B_USED) && backend->port == kind->backend_port &&
				 backend->address[3] == kind->backend && lb_is_ip4(backend->address)))
			backend = NULL;
		if (!backend && !answers && p->protocol == IPPROTO_UDP)
			return XDP_PASS;
	}
	source[3] = answers ? kind->vip : kind->source;
	target[3] = answers ? hot->client : kind->backend;
	way = (struct way){ source, target, answers ? kind->vip_port : hot->nat_port,
			    answers ? hot->client_port : kind->backend_port };
	if (rewrite_packet(ctx, p, &way, true, true))
		return XDP_PASS;
	if (lb_xdp_counts && lb_count_packets && backend)
		lb_count_packet(kind->backend_id, p->payload);
	set_macs(ctx, kind->hop.macs);
	return leave(ctx, &kind->hop);
}

/* Whether XDP can send the packet of the flow that lb_nat_wanted() left. */
static __always_inline bool nat_goes(const struct lb_packet *p)
{
	struct lb_nat_room *room;
	__u32 only = 0;

	room = bpf_map_lookup_elem(&lb_nat_rooms, &only);
	return room && room->hop.ifindex && (room->hop.tick & LB_HOP_XDP) &&
	       (!room->hop.mtu || p->l4 - ETH_HLEN + p->payload <= room->hop.mtu);
}

static __always_inline int forward(struct xdp_md *ctx)
{
	struct lb_packet p = {};
	struct lb_hot_kind *kind = NULL;
	struct lb_nat_flow *flow;
	struct lb_nat_epoch *epoch;
	struct lb_hot *hot;
	__u32 found, stamp = 0;
	bool from_client;
	int sent;

	if (!read_packet(ctx, &p))
		return XDP_PASS;
	if (lb_hot_may(&p)) {
		epoch = lb_nat_epoch_now();
		stamp = epoch ? lb_hot_stamp(epoch) : 0;
		hot = epoch && epoch->kept == stamp ? lb_hot_find(&p, stamp, &kind) : NULL;
		sent = hot && kind && lb_hold() < LB_HOLD_KNOWN ? send_hot(ctx, &p, hot, kind) : XDP_PASS;
		if (sent != XDP_PASS)
			return sent;
	}
	found = bpf_ntohs(p.target_port) - lb_nat_base <= lb_nat_mask ? lb_nat_find_answer(&p) : 0;
	from_client = !found;
	if (!found) {
		found = lb_nat_find_soon(&p);
		flow = found ? lb_nat_flow_at(found - 1) : NULL;
		if (flow && !lb_nat_goes_on(flow, opens_connection(&p))) {
			lb_nat_free(found - 1, &p);
			found = 0;
		} else if (!found && lb_nat_more_base &&
			   bpf_ntohs(p.target_port) - lb_nat_more_base <= LB_NAT_MORE_MASK) {
			/* Ports of Services are among the further ones, so clients go first. */
			found = lb_nat_find_answer(&p);
			from_client = !found;
		}
	}
	if (!found) {
		int action = lb_xdp_new(ctx, &p);

		if (action == TAKE_NAT) {
			/* Else tc opens it: not both, for a backend that has just gone is chosen anew each time. */
			if (!nat_goes(&p))
				return XDP_PASS;
			found = lb_nat_take(&p);
			if (!found)
				return XDP_DROP;
		} else if (action >= REFUSED) {
			return lb_xdp_refuse(ctx, &p, action - REFUSED);
		} else {
			return action;
		}
	}
	flow = lb_nat_flow_at(found - 1);
	if (lb_hold() >= LB_HOLD_KNOWN)
		return XDP_PASS;
	sent = flow ? send(ctx, &p, found - 1, flow, from_client) : XDP_PASS;
	if (sent != XDP_PASS && lb_hot_may(&p))
		lb_hot_keep(&p, found - 1, stamp, !from_client);
	return sent;
}

/* Packets in several parts, as drivers make them of large frames, are taken, too. */
SEC("xdp.frags")
int lb_xdp(struct xdp_md *ctx)
{
	return forward(ctx);
}

/*
 * For generic mode. There a program that takes several parts gets a copied packet, behind which tc sees packets without
 * their Ethernet header (seen on Linux 6.18: skb_cow_data_for_xdp() leaves mac_len 0).
 */
SEC("xdp")
int lb_xdp_generic(struct xdp_md *ctx)
{
	return forward(ctx);
}

char _license[] SEC("license") = "Dual BSD/GPL";
