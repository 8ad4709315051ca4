/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * What becomes of a packet from outside: it goes on in a flow, opens one, or gets a verdict. One meaning for tc and XDP:
 * `ctx` is either's, for a look at the routes, and no packet is read or changed here.
 */
#ifndef LB_OUTSIDE_H
#define LB_OUTSIDE_H

#include "lb_hop.h"
#include "lb_open.h"

#define NODE_LINK 0 /* place of all node interfaces in lb_links */
#define NO_FLOW 0x7fffffff /* a verdict: try something else */

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
 * A new flow to a backend elsewhere: finds an address and a port of this node for it. Number plus 1, or 0 with the
 * verdict in `verdict`, which is NO_FLOW where that is not possible.
 */
static __always_inline __u32 lb_nat_new(void *ctx, __u32 ifindex, const struct lb_packet *p,
					const struct choice *choice, int *verdict)
{
	const struct lb_backend *backend = choice->backend;
	__u32 number, leaves, only = 0;
	struct lb_interface *link;
	struct lb_nat_room *room;
	struct lb_nat_wish *wish;

	*verdict = NO_FLOW;
	room = bpf_map_lookup_elem(&lb_nat_rooms, &only);
	if (!lb_nat_base || !room)
		return 0;
	wish = &room->wish;
	lb_fib_question(&room->fib, p, p->source, backend->address, ifindex);
	if (lb_route_to(ctx, &room->fib, &room->hop) == LB_ROUTE_NONE)
		return 0;
	leaves = room->fib.ifindex;
	link = bpf_map_lookup_elem(&lb_interfaces, &leaves);
	if (!link)
		return 0;
	if (p->ip4)
		lb_copy_address(wish->source, link->source4);
	else
		lb_copy_address(wish->source, link->source6);
	if (!lb_is_address(wish->source))
		return 0;
	lb_copy_address(wish->backend, backend->address);
	wish->backend_port = backend->port;
	wish->backend_id = choice->id;
	wish->service = choice->frontend->service;
	wish->protocol = p->protocol;
	number = lb_nat_open(p, wish);
	if (number)
		lb_count(LB_FORWARD_NAT);
	else
		*verdict = dropped(LB_DROP_NAT_FULL);
	return number;
}

/*
 * A packet that is in no flow of lb_nat_flows: the flow of lb_flows that it goes on in or opens. NULL with the number
 * plus 1 of a new one of lb_nat_flows in `number`, or with the verdict in `verdict`.
 */
static __always_inline struct lb_flow *lb_flow_outside(void *ctx, __u32 ifindex, const struct lb_packet *p, bool opens,
						       __u32 *number, int *verdict)
{
	struct lb_flows *flows = NULL;
	struct choice choice = {};
	struct lb_endpoint client;
	struct lb_flow *flow;

	*number = 0;
	lb_endpoint_of(&client, p->source, p->source_port, p->protocol);
	if (lb_has_flows(NODE_LINK))
		flows = bpf_map_lookup_elem(&lb_flows, &client);
	flow = flows ? lb_flow_to(flows, p->target, p->target_port) : NULL;
	if (flow && lb_flow_goes_on(flow, opens, p->protocol)) {
		*verdict = lb_handed();
		if (*verdict)
			return NULL;
		lb_flow_track(flow, p, true);
		return flow;
	}
	choose_backend(p, opens, true, &choice, verdict);
	if (!choice.backend) {
		forget_direct(flows, p, &choice, opens);
		return NULL;
	}
	if (!(choice.backend->flags & LB_B_NEAR) && !(choice.frontend->flags & LB_F_OUTSIDE_KEEP) &&
	    !is_direct(choice.frontend)) {
		*number = lb_nat_new(ctx, ifindex, p, &choice, verdict);
		if (*number || *verdict != NO_FLOW)
			return NULL;
	}
	return keep_flow(p, &client, flows, &choice, true, NODE_LINK, verdict);
}

#endif
