/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Sending a client's packet inside another one to its backend's node, in XDP: what lb_direct.h does in tc. */
#ifndef LB_FRAME_DIRECT_H
#define LB_FRAME_DIRECT_H

#include "lb_frame.h"
#include "lb_outer.h"
#include "lb_towards.h"

/* Puts an outer header on and sends the packet. */
static __always_inline int wrap(struct xdp_md *ctx, const struct lb_packet *p, const struct lb_towards *to,
				const __be32 *backend)
{
	void *data, *end;

	if (bpf_xdp_adjust_head(ctx, p->ip4 ? -(int)sizeof(struct iphdr) : -(int)sizeof(struct ipv6hdr)))
		return XDP_PASS;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (p->ip4) {
		struct iphdr *outer = data + ETH_HLEN, *inner = outer + 1;
		__u16 hops;

		if ((void *)(inner + 1) > end)
			return XDP_ABORTED;
		hops = *(__u16 *)&inner->ttl;
		inner->check = changed(inner->check, hops, (__u16)(hops - 1));
		inner->ttl--;
		*outer = lb_outer4(to->source[3], backend[3], inner->frag_off, p->l4 - ETH_HLEN + p->payload);
	} else {
		struct ipv6hdr *outer = data + ETH_HLEN, *inner = outer + 1;

		if ((void *)(inner + 1) > end)
			return XDP_ABORTED;
		inner->hop_limit--;
		*outer = lb_outer6(to->source, backend, p->l4 - ETH_HLEN + p->payload);
	}
	__builtin_memcpy(data, to->hop.macs, 2 * ETH_ALEN);
	((struct ethhdr *)data)->h_proto = p->ip4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	return leave(ctx, &to->hop);
}

/* Sends a packet of a flow to its backend's node. XDP_PASS: by a way that is not known, or too narrow, tc does it. */
__noinline int lb_xdp_direct(struct xdp_md *ctx, const struct lb_packet *p, const struct lb_flow *flow)
{
	struct lb_nat_room *room;
	struct lb_towards *to;
	__u32 only = 0;

	/* Telling by an option is tc's. */
	if (!p || !flow || (flow->flags & LB_FLOW_OPTION))
		return XDP_PASS;
	room = bpf_map_lookup_elem(&lb_nat_rooms, &only);
	if (!room)
		return XDP_PASS;
	to = lb_towards(ctx, ctx->ingress_ifindex, p, flow->backend, &room->fib);
	if (!to || to->route != LB_ROUTE_FOUND || !(to->hop.tick & LB_HOP_XDP) ||
	    (to->hop.mtu && p->l4 - ETH_HLEN + p->payload + lb_wrapping(p) > to->hop.mtu))
		return XDP_PASS;
	return wrap(ctx, p, to, flow->backend);
}

#endif
