// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * Services at the link of a pod, for packets that no socket hook rewrote: raw sockets, processes outside the node's
 * cgroup, connections that are older than the hooks. Attached to the host side of the link:
 *
 *   lb_from_pod  tcx ingress   pod -> VIP       target becomes a backend; refused packets are answered here;
 *                              what has a source that is not the pod's is dropped
 *   lb_to_pod    tcx egress    backend -> pod   source becomes the VIP again
 *
 * A pod that is its own backend can't get packets from its own address: its source becomes the hairpin address,
 * and packet and answer are turned around at the link.
 */
#include "lb_source.h"
#include "lb_translate.h"
#include "lb_option.h"

/* Addresses that stand for "this pod itself" inside the pod; never seen outside of the link. 169.254.112.111, 100::706f. */
const volatile __be32 lb_hairpin4[4] = { 0, 0, 0xffff0000, 0x6f70fea9 };
const volatile __be32 lb_hairpin6[4] = { 0x0001, 0, 0, 0x6f700000 };

/* Read by nobody: keeps the structures in this object's BTF, where a test compares them with user space's. */
const volatile struct lb_layout {
	struct lb_endpoint endpoint;
	struct lb_frontend frontend;
	struct lb_line line;
	struct lb_backend backend;
	struct lb_socket_place place;
	struct lb_peers peers;
	struct lb_flow flow;
	struct lb_flow_set flows;
	struct lb_flow_table flow_table;
	struct lb_client client;
	struct lb_affinity affinity;
	struct lb_range range;
	struct lb_config config;
	struct lb_count count;
	struct lb_passed_key passed_key;
	struct lb_passed passed;
	struct lb_pod_source source;
} lb_layout = {};

/* Its place in lb_links; the one of node interfaces is not a pod's. */
static __always_inline __u32 link_of(const struct __sk_buff *skb)
{
	__u32 link = skb->ifindex & (LB_LINKS - 1);

	return link == NODE_LINK ? LB_LINKS - 1 : link;
}

static __always_inline void hairpin_address(const struct lb_packet *p, __be32 *address)
{
	for (int i = 0; i < 4; i++)
		address[i] = p->ip4 ? lb_hairpin4[i] : lb_hairpin6[i];
}

/* Sends a packet of a known flow to its backend. */
static __always_inline int to_backend(struct __sk_buff *skb, const struct lb_packet *p, const struct lb_flow *flow)
{
	__be16 port = lb_port_by(p->source_port, lb_flow_way(flow));

	if (lb_rewrite(skb, p, false, flow->backend, flow->backend_port))
		return dropped(LB_DROP_REWRITE);
	if (flow->flags & LB_FLOW_HAIRPIN) {
		__be32 hairpin[4];

		hairpin_address(p, hairpin);
		if (lb_rewrite(skb, p, true, hairpin, port) || lb_swap_macs(skb))
			return dropped(LB_DROP_REWRITE);
		return turn_back(skb);
	}
	if (port != p->source_port && lb_rewrite(skb, p, true, p->source, port))
		return dropped(LB_DROP_REWRITE);
	return NEXT;
}

/* The answer of a pod to itself. */
static __always_inline int hairpin_back(struct __sk_buff *skb, const struct lb_packet *p)
{
	__u32 number = lb_flow_seen(p, LB_SEEN_OWN_ANSWER, link_of(skb));
	struct lb_flow *flow = number ? lb_flow_at(number - 1) : NULL;
	int handed = lb_handed();

	if (handed)
		return handed;
	if (!flow)
		return lb_is_passed(p) ? NEXT : dropped(LB_REJECT_NO_FLOW);
	lb_flow_track(flow, p, false);
	if (lb_rewrite(skb, p, true, flow->vip, flow->vip_port) ||
	    lb_rewrite(skb, p, false, flow->client, flow->client_port) || lb_swap_macs(skb))
		return dropped(LB_DROP_REWRITE);
	return turn_back(skb);
}

static __always_inline int from_pod(struct __sk_buff *skb, const struct lb_packet *p)
{
	struct lb_flow *flow;
	__be32 hairpin[4];
	int verdict = DROP;

	hairpin_address(p, hairpin);
	if (lb_same_address(p->target, hairpin))
		return hairpin_back(skb, p);
	flow = flow_of(p, link_of(skb), &verdict);
	return flow ? to_backend(skb, p, flow) : verdict;
}

SEC("tcx/ingress")
int lb_from_pod(struct __sk_buff *skb)
{
	struct lb_packet p = {};
	struct lb_told told;
	int verdict = NEXT;
	int parsed = lb_parse(skb, &p);

	/* First of all, so that nobody's address is used for anything by somebody else. */
	if (parsed != LB_PARSED_OTHER && !lb_is_own_source(skb->ifindex, &p))
		return dropped(LB_DROP_SPOOFED);
	/* What nodes tell each other, no pod says. */
	if (lb_may_have_option(&p) && lb_option_read(skb, &p, &told))
		return dropped(LB_DROP_OPTION);
	switch (parsed) {
	case LB_PARSED:
		verdict = lb_is_icmp(&p) ? icmp_to_backend(skb, &p) : from_pod(skb, &p);
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
int lb_to_pod(struct __sk_buff *skb)
{
	return to_client(skb, link_of(skb));
}

char _license[] SEC("license") = "Dual BSD/GPL";
