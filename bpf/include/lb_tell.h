/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Direct server return without another packet around: the target becomes the backend, and an option in the header
 * (lb_option.h) tells the backend's node which VIP it has to answer as.
 *
 *     client ──► [target := backend, option] ──► overlay or link ──► [take the option, remember] ──► pod
 *     client ◄──────────────────────────────── [lb_to_outside: source := VIP] ◄──────────────────── pod
 *
 * Only what opens a TCP connection has to carry it, and is small; a datagram does each time, for nobody knows which one
 * is the first to arrive. The client's second packet, and then one about every second, carries it where it fits: so a
 * node that forgot the flow is told again, and so is one that gets a connection's packets by another node now. A TCP
 * connection has the whole MTU, which it has not inside another packet.
 *
 * An option is believed when a peer put it there: on a tunnel, where only peers send, or when the frame comes from
 * the MAC address of the node that it names, on the link where that node is a neighbour. All others are dropped, also
 * those of pods, so that no node passes on what it did not say itself.
 */
#ifndef LB_TELL_H
#define LB_TELL_H

#include "lb_forward.h"
#include "lb_option.h"

struct lb_address {
	__be32 word[4];
};

/* address of another node -> 1; the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct lb_address);
	__type(value, __u32);
} lb_peers SEC(".maps");

enum lb_tell {
	LB_TELL_NOT,
	LB_TELL_IF_IT_FITS,
	LB_TELL,
};

/* Whether a packet tells the backend's node, and notes it. */
static __always_inline enum lb_tell lb_tells(const struct lb_packet *p, struct lb_flow *flow)
{
	__u16 tick = 1 + (bpf_jiffies64() >> lb_tick_shift) % 31;

	if (p->fragment == LB_LATER_FRAGMENT)
		return LB_TELL_NOT;
	if (p->protocol == IPPROTO_UDP || opens_connection(p))
		return LB_TELL;
	if (flow->flags >> LB_FLOW_TOLD_SHIFT == tick)
		return LB_TELL_NOT;
	flow->flags = (flow->flags & ((1 << LB_FLOW_TOLD_SHIFT) - 1)) | tick << LB_FLOW_TOLD_SHIFT;
	return LB_TELL_IF_IT_FITS;
}

/* Sends a client's packet to its backend. */
__noinline int lb_tell_send(struct __sk_buff *skb, const struct lb_packet *p, struct lb_flow *flow)
{
	__u32 ifindex = 0, wire, more = 0;
	enum lb_tell tell;
	struct lb_interface *link;
	struct lb_nat_room *room;
	struct lb_told told;
	enum lb_route route;

	room = bpf_map_lookup_elem(&lb_nat_rooms, &ifindex);
	if (!p || !flow || !room)
		return DROP;
	lb_fib_question(&room->fib, p, p->source, flow->backend, skb->ifindex);
	route = lb_route_to(skb, &room->fib, &room->hop);
	ifindex = room->fib.ifindex;
	link = bpf_map_lookup_elem(&lb_interfaces, &ifindex);
	if (route == LB_ROUTE_NONE || !link)
		return dropped(LB_DROP_NO_ROUTE);
	if (p->ip4)
		lb_copy_address(told.node, link->source4);
	else
		lb_copy_address(told.node, link->source6);
	if (!lb_is_address(told.node))
		return dropped(LB_DROP_NO_ROUTE);
	tell = lb_tells(p, flow);
	if (tell != LB_TELL_NOT)
		more = lb_option_size(p->ip4);
	/* Full of other options. */
	if (tell == LB_TELL_IF_IT_FITS && p->ip4 && p->l4 > ETH_HLEN + 60 - sizeof(struct lb_option4))
		more = 0;
	wire = lb_wire_length(skb, p);
	if (route == LB_ROUTE_FOUND && room->hop.mtu && wire + more > room->hop.mtu) {
		if (tell == LB_TELL_IF_IT_FITS)
			more = 0;
		if (wire + more > room->hop.mtu &&
		    (lb_may_not_fragment(skb, p) || !(link->flags & LB_I_OVERLAY)))
			return TOO_BIG + room->hop.mtu - more;
	}
	if (lb_age(skb, p))
		return EXPIRED;
	if (lb_rewrite(skb, p, false, flow->backend, flow->backend_port))
		return dropped(LB_DROP_REWRITE);
	if (more) {
		lb_copy_address(told.vip, p->target);
		told.port = p->target_port;
		if (p->ip4 ? lb_option_put4(skb, &told) : lb_option_put6(skb, &told))
			return dropped(LB_DROP_REWRITE);
	}
	return lb_leave(skb, &room->hop, &room->fib, route);
}

static __always_inline bool lb_is_peer(const __be32 *address)
{
	struct lb_address key;

	lb_copy_address(key.word, address);
	return bpf_map_lookup_elem(&lb_peers, &key) != NULL;
}

/* Whether a frame comes from this peer: it is a neighbour on this link, and the frame has its MAC address. */
static __always_inline bool lb_is_from_peer(struct __sk_buff *skb, const struct lb_packet *p, const __be32 *node)
{
	__u8 mac[6];
	__be32 next[4], any[4] = {};
	struct lb_nat_room *room;
	__u32 only = 0;

	room = bpf_map_lookup_elem(&lb_nat_rooms, &only);
	if (!room || !lb_is_peer(node) || bpf_skb_load_bytes(skb, 6, mac, sizeof(mac)))
		return false;
	lb_fib_question(&room->fib, p, any, node, skb->ifindex);
	if (lb_route_to(skb, &room->fib, &room->hop) != LB_ROUTE_FOUND || room->hop.ifindex != skb->ifindex)
		return false;
	/* Behind a router the MAC address says nothing. */
	if (p->ip4)
		lb_map_ip4(next, room->fib.ipv4_dst);
	else
		__builtin_memcpy(next, room->fib.ipv6_dst, sizeof(next));
	if (!lb_same_address(next, node))
		return false;
	for (int i = 0; i < 6; i++)
		if (room->hop.macs[i] != mac[i])
			return false;
	return true;
}

/* Whether some Service answers clients outside as this: one that is known here, or a nodePort of another node. */
static __always_inline bool lb_may_answer_as(const struct lb_told *told, __u8 protocol)
{
	struct lb_frontend *frontend;
	struct lb_endpoint to;

	lb_endpoint_of(&to, told->vip, told->port, protocol);
	frontend = lb_frontend_of(&to);
	return frontend ? lb_kind_of(frontend) != 0 : lb_is_peer(told->vip);
}

/* Remembers as whom a backend of this node has to answer. NULL with the verdict where nobody may say so. */
static __always_inline struct lb_flow *lb_believe(struct lb_packet *p, const struct lb_told *told, int *verdict)
{
	bool opens = opens_connection(p);
	struct choice choice = {};
	struct lb_nat_room *room;
	struct lb_flow *flow;
	__u32 number = 0;

	room = bpf_map_lookup_elem(&lb_nat_rooms, &number);
	if (!room)
		return NULL;
	choice.frontend = &room->frontend;
	choice.backend = &room->backend;
	choice.frontend->flags = LB_F_DSR | LB_F_DSR_OPTION | LB_KIND_LOAD_BALANCER;
	choice.backend->flags = LB_B_USED | LB_B_NEAR;
	lb_copy_address(choice.backend->address, p->target);
	choice.backend->port = p->target_port;
	/* From here on it is what the client sent: the stack has no room for another one. */
	lb_copy_address(p->target, told->vip);
	p->target_port = told->port;
	number = lb_has_flows(NODE_LINK) ? lb_flow_to(p) : 0;
	flow = number ? lb_flow_at(number - 1) : NULL;
	if (flow && !(flow->flags & LB_FLOW_DIRECT) && !(opens && lb_flow_over(flow)) &&
	    flow->backend_port == choice.backend->port && lb_same_address(flow->backend, choice.backend->address)) {
		lb_flow_track(flow, p, true);
		return flow;
	}
	if (!lb_may_answer_as(told, p->protocol)) {
		*verdict = dropped(LB_DROP_DIRECT);
		return NULL;
	}
	return keep_flow(p, &choice, true, NODE_LINK, verdict);
}

/* A packet that a node told something about. NO_FLOW: there is nothing in it. `whole`: its ports are known. */
__noinline int lb_tell_take(struct __sk_buff *skb, struct lb_packet *p, bool whole, bool by_tunnel)
{
	struct lb_told told = {};
	int verdict = DROP;

	if (!p || !lb_option_read(skb, p, &told))
		return NO_FLOW;
	if (!whole || (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP) || p->fragment == LB_LATER_FRAGMENT ||
	    (!by_tunnel && !lb_is_from_peer(skb, p, told.node)))
		return dropped(LB_DROP_OPTION);
	if (!lb_believe(p, &told, &verdict))
		return verdict;
	if (p->ip4 ? lb_option_take4(skb) : lb_option_take6(skb))
		return dropped(LB_DROP_REWRITE);
	return NEXT;
}

#endif
