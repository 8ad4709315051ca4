/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Forwarding between clients outside and backends on other nodes, in tc: both addresses are changed and the packet
 * leaves at once. The stack of this node sees none of it: a packet from one of its own addresses would be a martian
 * to it, and conntrack would mix up two flows of one client port to one backend.
 */
#ifndef LB_FORWARD_H
#define LB_FORWARD_H

#include "lb_hop.h"
#include "lb_translate.h"

/* What a packet becomes. */
struct lb_change {
	const __be32 *source;
	const __be32 *target;
	__be16 source_port;
	__be16 target_port;
};

static __always_inline struct lb_change lb_to_backend(const struct lb_nat_flow *flow)
{
	return (struct lb_change){ flow->source, flow->backend, flow->nat_port, flow->backend_port };
}

static __always_inline struct lb_change lb_to_client(const struct lb_nat_flow *flow)
{
	return (struct lb_change){ flow->vip, flow->client, flow->vip_port, flow->client_port };
}

/* Length of the largest packet on the wire, from the IP header on. */
static __always_inline __u32 lb_wire_length(struct __sk_buff *skb, const struct lb_packet *p)
{
	__u32 headers = p->l4 - ETH_HLEN;
	__u8 offset = 0;

	if (!skb->gso_size)
		return headers + p->payload;
	if (p->protocol != IPPROTO_TCP)
		return headers + 8 + skb->gso_size;
	bpf_skb_load_bytes(skb, p->l4 + 12, &offset, 1);
	return headers + (offset >> 4) * 4 + skb->gso_size;
}

static __always_inline bool lb_may_not_fragment(struct __sk_buff *skb, const struct lb_packet *p)
{
	__be16 fragment = 0;

	if (!p->ip4)
		return true;
	bpf_skb_load_bytes(skb, ETH_HLEN + 6, &fragment, 2);
	return fragment & bpf_htons(0x4000);
}

/* One hop less to live. */
static __always_inline int lb_age(struct __sk_buff *skb, const struct lb_packet *p)
{
	__be16 old, new;
	__u8 hops;

	if (!p->ip4) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + 7, &hops, 1) || hops <= 1)
			return -1;
		hops--;
		return bpf_skb_store_bytes(skb, ETH_HLEN + 7, &hops, 1, BPF_F_RECOMPUTE_CSUM) ? -1 : 0;
	}
	if (bpf_skb_load_bytes(skb, ETH_HLEN + 8, &old, 2) || bpf_ntohs(old) >> 8 <= 1)
		return -1;
	new = old - bpf_htons(0x100);
	if (bpf_l3_csum_replace(skb, LB_IP4_CHECKSUM_AT, old, new, 2))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN + 8, &new, 2, 0) ? -1 : 0;
}

/* Sends the packet on by a complete hop, or has the kernel find the neighbour first. */
static __always_inline int lb_leave(struct __sk_buff *skb, const struct lb_hop *hop,
				    const struct bpf_fib_lookup *fib, enum lb_route route)
{
	struct bpf_redir_neigh next = {};

	if (route == LB_ROUTE_FOUND) {
		__u8 macs[12];

		__builtin_memcpy(macs, hop->macs, sizeof(macs));
		if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
			return dropped(LB_DROP_REWRITE);
		return bpf_redirect(hop->ifindex, 0);
	}
	next.nh_family = fib->family;
	if (fib->family == LB_AF_INET)
		next.ipv4_nh = fib->ipv4_dst;
	else
		lb_copy_address((__be32 *)next.ipv6_nh, (const __be32 *)fib->ipv6_dst);
	return bpf_redirect_neigh(fib->ifindex, &next, sizeof(next), 0);
}

/* Changes a packet of a flow and sends it on. `hop` is the flow's own, of this direction. */
static __always_inline int lb_forward(struct __sk_buff *skb, const struct lb_packet *p,
				      const struct lb_change *to, struct lb_hop *hop)
{
	enum lb_route route = LB_ROUTE_FOUND;
	struct bpf_fib_lookup fib;

	if (!lb_hop_is_fresh(hop)) {
		lb_fib_question(&fib, p, to->source, to->target, skb->ifindex);
		route = lb_route_to(skb, &fib, hop);
		if (route == LB_ROUTE_NONE)
			return dropped(LB_DROP_NO_ROUTE);
	}
	if (route == LB_ROUTE_FOUND && hop->mtu && lb_wire_length(skb, p) > hop->mtu) {
		__u32 ifindex = hop->ifindex;
		struct lb_interface *link = bpf_map_lookup_elem(&lb_interfaces, &ifindex);

		/* A tunnel fragments outside; elsewhere the sender is told, who need not have asked for it. */
		if (lb_may_not_fragment(skb, p) || !link || !(link->flags & LB_I_OVERLAY))
			return TOO_BIG + hop->mtu;
	}
	if (lb_age(skb, p))
		return EXPIRED;
	if (lb_rewrite(skb, p, true, to->source, to->source_port) ||
	    lb_rewrite(skb, p, false, to->target, to->target_port))
		return dropped(LB_DROP_REWRITE);
	return lb_leave(skb, hop, &fib, route);
}

/*
 * An ICMP error about a packet of a translated flow: the packet in it becomes what its sender sent, and the error goes
 * to that sender, from whom it believes to talk to where that one itself complains.
 */
static __always_inline int lb_forward_error(struct __sk_buff *skb, const struct lb_packet *p, const struct embedded *e,
					    const struct lb_change *inner, const __be32 *from, const __be32 *to,
					    struct lb_nat_room *room)
{
	struct bpf_fib_lookup *fib = &room->fib;
	struct lb_hop *hop = &room->hop;
	enum lb_route route;

	__builtin_memset(hop, 0, sizeof(*hop));
	lb_fib_question(fib, p, from, to, skb->ifindex);
	route = lb_route_to(skb, fib, hop);
	if (route == LB_ROUTE_NONE)
		return dropped(LB_DROP_NO_ROUTE);
	if (lb_age(skb, p))
		return dropped(LB_DROP_HOP_LIMIT);
	if (rewrite_embedded(skb, p, e, true, inner->source, inner->source_port) ||
	    rewrite_embedded(skb, p, e, false, inner->target, inner->target_port) ||
	    rewrite_outer(skb, p, true, from) || rewrite_outer(skb, p, false, to))
		return dropped(LB_DROP_REWRITE);
	return lb_leave(skb, hop, fib, route);
}

#endif
