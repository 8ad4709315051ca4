// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * Services at an interface of the node, for clients outside: nodePorts, load balancer addresses, external IPs, and
 * ClusterIPs that somebody routes here.
 *
 *   lb_from_outside  tcx ingress   client -> VIP       target becomes a backend
 *                                  backend -> node     an answer from another node goes on to its client
 *   lb_to_outside    tcx egress    backend -> client   source becomes the VIP again
 *   lb_from_overlay  tcx ingress of a tunnel           answers from other nodes
 *
 *     backend here:       client ──► [lb_from_outside] ──► routing ──► pod link
 *                         client ◄── [lb_to_outside]  ◄── routing ◄──
 *     backend elsewhere:  client ──► [lb_from_outside] ────────────► overlay or the interface that it came by
 *                         client ◄──────────────── [lb_from_overlay] ◄──
 *
 * A backend here sees the client, by another port where it has that client's port already (lb_flow.h). One elsewhere must answer through this node: lb_nat.h. Where that has no address for
 * an interface, packets are marked, and the rules of this node masquerade what is marked.
 */
#include "lb_direct.h"
#include "lb_said.h"
#include "lb_tell.h"

/* Read by nobody: keeps the structures in this object's BTF, as in lb_pod.bpf.c. */
const volatile struct lb_node_layout {
	struct lb_source source;
	struct lb_nat_flow flow;
	struct lb_interface interface;
} lb_node_layout = {};

/*
 * Sends a packet of a flow on. This and others are functions by themselves: they share the stack, and the verifier
 * walks through them once.
 */
__noinline int lb_nat_send(struct __sk_buff *skb, const struct lb_packet *p, __u32 number, bool from_client)
{
	struct lb_nat_flow *flow = lb_nat_flow_at(number);
	struct lb_change change;

	if (!p || !flow)
		return DROP;
	lb_nat_count(flow, p->payload);
	change = from_client ? lb_to_backend(flow) : lb_to_client(flow);
	return lb_forward(skb, p, &change, from_client ? &flow->to_backend : &flow->to_client);
}

/* Bit of the packet mark that asks for masquerading. */
const volatile __u32 lb_masquerade_mark = 0x20000;

/* Opens the flow that lb_outside() left to be opened. */
__noinline int lb_nat_begin(struct __sk_buff *skb, const struct lb_packet *p)
{
	__u32 number = p ? lb_nat_take(p) : 0;

	return number ? lb_nat_send(skb, p, number - 1, true) : DROP;
}

/* TAKE_NAT: lb_nat_begin() is to go on. */
__noinline int lb_outside(struct __sk_buff *skb, const struct lb_packet *p)
{
	bool opens, from_client;
	struct lb_flow *flow;
	int verdict = DROP;
	__u32 number;

	if (!p)
		return DROP;
	opens = opens_connection(p);
	number = lb_nat_known(p, opens, &from_client);
	if (number) {
		verdict = lb_handed();
		return verdict ? verdict : lb_nat_send(skb, p, number - 1, from_client);
	}
	flow = lb_flow_known(p, opens, false, &verdict);
	if (flow)
		lb_flow_track(flow, p, true);
	else if (verdict == NO_FLOW)
		flow = lb_flow_opened(skb, skb->ifindex, p, opens, &verdict);
	if (!flow)
		return verdict;
	if (flow->flags & LB_FLOW_DIRECT)
		return flow->flags & LB_FLOW_OPTION ? lb_tell_send(skb, p, flow) : lb_direct_send(skb, p, flow);
	if (lb_give(skb, p, flow))
		return dropped(LB_DROP_REWRITE);
	if (flow->flags & LB_FLOW_MASQUERADE)
		skb->mark |= lb_masquerade_mark;
	return NEXT;
}

/* An ICMP error about a packet of a flow with a backend elsewhere. */
__noinline int lb_icmp_nat(struct __sk_buff *skb, const struct lb_packet *p)
{
	struct lb_packet *turned;
	struct lb_nat_flow *flow;
	struct lb_nat_room *room;
	struct lb_change inner;
	struct embedded *e;
	__u32 number = 0;

	room = bpf_map_lookup_elem(&lb_nat_rooms, &number);
	if (!p || !room || !is_icmp_error(p) || lb_hold() >= LB_HOLD_KNOWN)
		return NO_FLOW;
	e = &room->about;
	__builtin_memset(e, 0, sizeof(*e));
	if (parse_embedded(skb, p, e))
		return NO_FLOW;
	/* As its answer would look, so that the same searches find the flow. */
	turned = &room->turned;
	lb_copy_address(turned->source, e->packet.target);
	lb_copy_address(turned->target, e->packet.source);
	turned->source_port = e->packet.target_port;
	turned->target_port = e->packet.source_port;
	turned->protocol = e->packet.protocol;
	number = lb_nat_find_answer(turned);
	flow = number ? lb_nat_flow_at(number - 1) : NULL;
	if (flow) {
		/* About what this node sent to the backend: the client shall know. */
		inner = (struct lb_change){ flow->client, flow->vip, flow->client_port, flow->vip_port };
		return lb_forward_error(skb, p, e, &inner,
					lb_same_address(p->source, flow->backend) ? flow->vip : p->source,
					flow->client, room);
	}
	number = lb_nat_find(turned);
	flow = number ? lb_nat_flow_at(number - 1) : NULL;
	if (!flow)
		return NO_FLOW;
	/* About what this node sent to the client: the backend shall know. */
	inner = (struct lb_change){ flow->backend, flow->source, flow->backend_port, flow->nat_port };
	return lb_forward_error(skb, p, e, &inner, flow->source, flow->backend, room);
}

/* Sends what is to be answered back to its sender. */
__noinline int lb_answered(struct __sk_buff *skb, const struct lb_packet *p, int verdict)
{
	__u32 reason, complaint, mtu = 0;

	if (!p || verdict < REFUSED)
		return verdict;
	if (verdict < EXPIRED)
		return refuse(skb, p, verdict - REFUSED);
	if (verdict < TOO_BIG) {
		complaint = LB_HOPS_USED_UP;
		reason = LB_DROP_HOP_LIMIT;
	} else {
		complaint = LB_TOO_BIG;
		mtu = verdict - TOO_BIG;
		reason = LB_REJECT_TOO_BIG;
	}
	if (p->fragment == LB_LATER_FRAGMENT)
		return dropped(reason);
	if (lb_answer_icmp(skb, p, complaint, mtu))
		return dropped(LB_DROP_REWRITE);
	lb_count(reason);
	return turn_back(skb);
}

__noinline int lb_read(struct __sk_buff *skb, struct lb_packet *p)
{
	return p ? lb_parse(skb, p) : LB_PARSED_OTHER;
}

__noinline int lb_icmp_outside(struct __sk_buff *skb, const struct lb_packet *p)
{
	return p ? icmp_to_backend(skb, p) : DROP;
}

/* A packet inside another one from a node that took it from its client; `p` becomes it. NO_FLOW: no such packet. */
static __always_inline int lb_wrapped(struct __sk_buff *skb, struct lb_packet *p)
{
	struct lb_packet outer = *p;

	if (!lb_is_wrapped(p) || !lb_unwrap(skb, p))
		return NO_FLOW;
	__builtin_memset(p, 0, sizeof(*p));
	if (lb_read(skb, p) != LB_PARSED)
		return dropped(LB_DROP_DIRECT);
	return lb_direct_take(skb, p, &outer);
}

SEC("tcx/ingress")
int lb_from_outside(struct __sk_buff *skb)
{
	struct lb_packet p = {};
	int verdict = NEXT;
	int parsed;

	switch (lb_said(skb)) {
	case LB_SAID_MASQUERADE:
		skb->mark |= lb_masquerade_mark;
		return NEXT;
	case LB_SAID_DONE:
		return NEXT;
	default:
		break;
	}
	parsed = lb_read(skb, &p);
	if (lb_may_have_option(&p)) {
		verdict = lb_tell_take(skb, &p, parsed == LB_PARSED, false);
		if (verdict != NO_FLOW)
			return verdict;
		verdict = NEXT;
	}
	switch (parsed) {
	case LB_PARSED:
		if (!lb_is_icmp(&p)) {
			verdict = lb_outside(skb, &p);
			if (verdict == TAKE_NAT)
				verdict = lb_nat_begin(skb, &p);
		} else {
			verdict = lb_icmp_nat(skb, &p);
			if (verdict == NO_FLOW)
				verdict = lb_icmp_outside(skb, &p);
		}
		break;
	case LB_PARSED_NO_PORTS:
		verdict = lb_wrapped(skb, &p);
		if (verdict == NO_FLOW)
			verdict = no_frontend(&p);
		break;
	case LB_PARSED_CUT:
		verdict = cut_short(&p);
		break;
	default:
		break;
	}
	return lb_answered(skb, &p, verdict);
}

SEC("tcx/egress")
int lb_to_outside(struct __sk_buff *skb)
{
	return to_client(skb, NODE_LINK);
}

/* A tunnel between nodes: pods' packets pass, answers to this node's flows go on to their clients. */
SEC("tcx/ingress")
int lb_from_overlay(struct __sk_buff *skb)
{
	struct lb_packet p = {};
	struct lb_nat_flow *flow;
	__u32 number;
	int verdict;
	int parsed = lb_read(skb, &p);

	if (lb_may_have_option(&p)) {
		verdict = lb_tell_take(skb, &p, parsed == LB_PARSED, true);
		if (verdict != NO_FLOW)
			return verdict;
	}
	switch (parsed) {
	case LB_PARSED:
		break;
	case LB_PARSED_NO_PORTS:
		verdict = lb_wrapped(skb, &p);
		return verdict == NO_FLOW ? NEXT : lb_answered(skb, &p, verdict);
	default:
		return NEXT;
	}
	if (lb_is_icmp(&p)) {
		verdict = lb_icmp_nat(skb, &p);
		return verdict == NO_FLOW ? NEXT : verdict;
	}
	number = lb_nat_find_answer(&p);
	flow = number ? lb_nat_flow_at(number - 1) : NULL;
	if (!flow)
		return NEXT;
	verdict = lb_handed();
	if (verdict)
		return verdict;
	lb_nat_track(flow, p.tcp_flags, false);
	verdict = lb_nat_send(skb, &p, number - 1, false);
	return lb_answered(skb, &p, verdict);
}

char _license[] SEC("license") = "Dual BSD/GPL";
