/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * How backends on other nodes are reached, remembered for about a second by each CPU, so that new flows do not ask the
 * kernel's routes one by one (a quarter of a microsecond each).
 */
#ifndef LB_TOWARDS_H
#define LB_TOWARDS_H

#include "lb_hop.h"

#define LB_TOWARDS 1024

/* A cache line. */
struct lb_towards {
	__be32 backend[4];
	__be32 source[4]; /* address of this node that the backend answers to */
	struct lb_hop hop;
	__u32 enters; /* interface by which packets come in */
	__u32 flags; /* enum lb_interface_flag, of the one by which they leave */
	__u32 route; /* enum lb_route */
};

/* hash of a backend's address % entries -> how it is reached; programs, each for itself. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LB_TOWARDS);
	__type(key, __u32);
	__type(value, struct lb_towards);
} lb_ways SEC(".maps");

/*
 * NULL where there is no way, or no address for the interface that it leaves by. While the neighbour is not known, `fib`
 * holds the next hop.
 */
static __always_inline struct lb_towards *lb_towards(void *ctx, __u32 ifindex, const struct lb_packet *p,
						     const __be32 *backend, struct bpf_fib_lookup *fib)
{
	__u32 place = (backend[3] ^ backend[2]) * 2654435761U >> 22;
	struct lb_interface *link;
	struct lb_towards *to;
	__u32 leaves;

	to = bpf_map_lookup_elem(&lb_ways, &place);
	if (!to)
		return NULL;
	if (lb_hop_is_fresh(&to->hop) && to->enters == ifindex && lb_same_address(to->backend, backend))
		return to;
	to->hop.ifindex = 0;
	lb_fib_question(fib, p, p->source, backend, ifindex);
	to->route = lb_route_to(ctx, fib, &to->hop);
	if (to->route == LB_ROUTE_NONE)
		return NULL;
	leaves = fib->ifindex;
	link = bpf_map_lookup_elem(&lb_interfaces, &leaves);
	if (!link || !lb_is_address(p->ip4 ? link->source4 : link->source6)) {
		to->hop.ifindex = 0;
		return NULL;
	}
	if (p->ip4)
		lb_copy_address(to->source, link->source4);
	else
		lb_copy_address(to->source, link->source6);
	lb_copy_address(to->backend, backend);
	to->enters = ifindex;
	to->flags = link->flags;
	return to;
}

#endif
