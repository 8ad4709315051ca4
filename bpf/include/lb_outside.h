/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * What becomes of a packet from outside: it goes on in a flow, opens one, or gets a verdict. One meaning for tc and XDP:
 * `ctx` is either's, for a look at the routes, and no packet is read or changed here.
 */
#ifndef LB_OUTSIDE_H
#define LB_OUTSIDE_H

#include "lb_open.h"
#include "lb_towards.h"

#define NO_FLOW 0x7fffffff /* a verdict: try something else */
#define TAKE_NAT 0x7ffffffe /* a verdict: open a flow to a backend elsewhere */

/* Number plus 1 of the flow to or from a backend elsewhere that a packet goes on in; 0 for none. */
static __always_inline __u32 lb_nat_known(const struct lb_packet *p, bool opens, bool *from_client)
{
	struct lb_nat_flow *flow;
	__u32 number;

	*from_client = true;
	number = lb_nat_find(p);
	flow = number ? lb_nat_flow_at(number - 1) : NULL;
	if (flow) {
		if (!lb_nat_goes_on(flow, opens)) {
			lb_nat_free(number - 1, p);
			return 0;
		}
		lb_nat_track(flow, p->tcp_flags, true);
		return number;
	}
	*from_client = false;
	number = lb_nat_find_answer(p);
	flow = number ? lb_nat_flow_at(number - 1) : NULL;
	if (!flow)
		return 0;
	lb_nat_track(flow, p->tcp_flags, false);
	return number;
}

/*
 * A new flow to a backend elsewhere: finds an address of this node for it and leaves what it is to be in lb_nat_rooms,
 * for lb_nat_take(). False where that is not possible.
 */
static __always_inline bool lb_nat_wanted(void *ctx, __u32 ifindex, const struct lb_packet *p,
					  const struct choice *choice)
{
	const struct lb_backend *backend = choice->backend;
	struct lb_nat_room *room;
	struct lb_nat_wish *wish;
	struct lb_towards *to;
	__u32 only = 0;

	room = bpf_map_lookup_elem(&lb_nat_rooms, &only);
	if (!lb_nat_base || !room)
		return false;
	to = lb_towards(ctx, ifindex, p, backend->address, &room->fib);
	if (!to)
		return false;
	room->hop = to->hop;
	wish = &room->wish;
	lb_copy_address(wish->source, to->source);
	lb_copy_address(wish->backend, backend->address);
	wish->backend_port = backend->port;
	wish->backend_id = choice->id;
	wish->service = choice->frontend->service;
	wish->protocol = p->protocol;
	return true;
}

/* The flow that is opened now lies elsewhere. */
static __always_inline void lb_nat_not_wanted(void)
{
	struct lb_nat_room *room;
	__u32 only = 0;

	room = bpf_map_lookup_elem(&lb_nat_rooms, &only);
	if (room)
		room->wish.protocol = 0;
}

/* Gets ready for a new flow, which is likely to be of the kind of the one before. */
static __always_inline void lb_nat_expect(const struct lb_packet *p)
{
	struct lb_nat_room *room;
	__u32 only = 0;

	room = bpf_map_lookup_elem(&lb_nat_rooms, &only);
	if (room && room->wish.protocol)
		lb_nat_fetch(p);
}

/* Takes a place for the flow that lb_nat_wanted() left. Number plus 1; 0 where there is none, which is counted. */
static __always_inline __u32 lb_nat_take(const struct lb_packet *p)
{
	struct lb_nat_flow *flow;
	struct lb_nat_room *room;
	__u32 number, only = 0;

	room = bpf_map_lookup_elem(&lb_nat_rooms, &only);
	number = room ? lb_nat_open(p, &room->wish) : 0;
	flow = number ? lb_nat_flow_at(number - 1) : NULL;
	if (!flow) {
		lb_count(LB_DROP_NAT_FULL);
		if (room) {
			lb_count_refused(room->wish.service);
			lb_flow_tell_refused(LB_NEWS_REFUSED_NAT, room->wish.service);
		}
		return 0;
	}
	flow->to_backend = room->hop;
	lb_nat_track(flow, p->tcp_flags, true);
	lb_count(LB_FORWARD_NAT);
	return number;
}

/*
 * The flow of lb_flows that a packet goes on in; whoever sends the packet notes it there. NULL with NO_FLOW in `verdict`
 * for none, or with another verdict while flows change hands.
 */
static __always_inline struct lb_flow *lb_flow_known(const struct lb_packet *p, bool opens, bool soon,
						     int *verdict)
{
	struct lb_flow *flow;
	__u32 number;

	*verdict = NO_FLOW;
	number = !lb_has_flows(NODE_LINK) ? 0 : soon ? lb_flow_to_soon(p) : lb_flow_to(p);
	flow = number ? lb_flow_at(number - 1) : NULL;
	if (!flow || !lb_flow_goes_on(flow, opens, p->protocol))
		return NULL;
	*verdict = lb_handed();
	return *verdict ? NULL : flow;
}

/*
 * The flow of lb_flows that a packet opens which goes on in none. NULL with the verdict in `verdict`; TAKE_NAT stands for
 * lb_nat_take().
 */
static __always_inline struct lb_flow *lb_flow_opened(void *ctx, __u32 ifindex, const struct lb_packet *p, bool opens,
						      int *verdict)
{
	struct choice choice = {};

	choose_backend(p, opens, true, &choice, verdict);
	if (!choice.backend) {
		forget_direct(p, &choice, opens, NODE_LINK);
		return NULL;
	}
	if (!(choice.backend->flags & LB_B_NEAR) && !(choice.frontend->flags & LB_F_OUTSIDE_KEEP) &&
	    !is_direct(choice.frontend) && lb_nat_wanted(ctx, ifindex, p, &choice)) {
		*verdict = TAKE_NAT;
		return NULL;
	}
	return keep_flow(p, &choice, true, NODE_LINK, verdict);
}

#endif
