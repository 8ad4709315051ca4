// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * Services at an interface of the node, for clients outside: nodePorts, load balancer addresses, external IPs, and
 * ClusterIPs that somebody routes here.
 *
 *   lb_from_outside  tcx ingress   client -> VIP       target becomes a backend
 *   lb_to_outside    tcx egress    backend -> client   source becomes the VIP again
 *
 *     client ──► [lb_from_outside] ──► routing ──► masquerade if marked ──► overlay or pod link
 *     client ◄── [lb_to_outside]  ◄── routing ◄── masquerade undone     ◄──
 *
 * Between the two, conntrack sees one flow from client to backend. A backend elsewhere must answer through this
 * node: its packets are marked, and the rules of this node masquerade what is marked.
 */
#include "lb_translate.h"

#define NODE_LINK 0 /* place in lb_links */

/* Bit of the packet mark that asks for masquerading. */
const volatile __u32 lb_masquerade_mark = 0x20000;

static __always_inline int from_outside(struct __sk_buff *skb, const struct lb_packet *p)
{
	int verdict = DROP;
	struct lb_flow *flow = flow_of(p, true, NODE_LINK, &verdict);

	if (!flow)
		return verdict;
	if (lb_rewrite(skb, p, false, flow->backend, flow->backend_port))
		return dropped(LB_DROP_REWRITE);
	if (flow->flags & LB_FLOW_MASQUERADE)
		skb->mark |= lb_masquerade_mark;
	return NEXT;
}

SEC("tcx/ingress")
int lb_from_outside(struct __sk_buff *skb)
{
	struct lb_packet p = {};
	int verdict = NEXT;

	switch (lb_parse(skb, &p)) {
	case LB_PARSED:
		verdict = lb_is_icmp(&p) ? icmp_to_backend(skb, &p) : from_outside(skb, &p);
		break;
	case LB_PARSED_NO_PORTS:
		verdict = no_frontend(&p);
		break;
	case LB_PARSED_CUT:
		verdict = cut_short(&p);
		break;
	default:
		break;
	}
	return verdict >= REFUSED ? refuse(skb, &p, verdict - REFUSED) : verdict;
}

SEC("tcx/egress")
int lb_to_outside(struct __sk_buff *skb)
{
	return to_client(skb, NODE_LINK);
}

char _license[] SEC("license") = "Dual BSD/GPL";
