/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Direct server return: a client's packet travels as it is, inside another IP packet, to the backend's node, which
 * answers the client as the VIP. IPv4 in IPv4 (RFC 2003) and IPv6 in IPv6 (RFC 2473), made and undone here: no tunnel
 * device is needed.
 *
 *     client ──► [lb_from_outside: wrap] ──► overlay or link ──► [unwrap, target := backend] ──► pod
 *     client ◄──────────────────────────────── [lb_to_outside: source := VIP] ◄──────────────── pod
 *
 * The outer target is the backend, so routes and tunnels lead there. The backend's node looks the Service up by the
 * inner packet and chooses by the same hash from the same table; where it does not come to the backend named outside,
 * the packet is dropped, so that nobody reaches by such a packet what the Service would not give.
 */
#ifndef LB_DIRECT_H
#define LB_DIRECT_H

#include "lb_forward.h"
#include "lb_outer.h"
#include "lb_outside.h"

static __always_inline int lb_wrap4(struct __sk_buff *skb, __be32 source, __be32 target, __be16 fragment, __u32 length)
{
	struct iphdr outer;

	/* Segments keep their size: whether they fit with their new header was judged before. */
	if (bpf_skb_adjust_room(skb, sizeof(outer), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_FIXED_GSO))
		return -1;
	outer = lb_outer4(source, target, fragment, length);
	return bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof(outer), BPF_F_RECOMPUTE_CSUM) ? -1 : 0;
}

static __always_inline int lb_wrap6(struct __sk_buff *skb, const __be32 *source, const __be32 *target, __u32 length)
{
	struct ipv6hdr outer;

	if (bpf_skb_adjust_room(skb, sizeof(outer), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 | BPF_F_ADJ_ROOM_FIXED_GSO))
		return -1;
	outer = lb_outer6(source, target, length);
	return bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof(outer), BPF_F_RECOMPUTE_CSUM) ? -1 : 0;
}

/* Sends a client's packet to its backend's node. */
__noinline int lb_direct_send(struct __sk_buff *skb, const struct lb_packet *p, const struct lb_flow *flow)
{
	struct lb_nat_room *room;
	struct lb_towards *to;
	__be16 fragment = 0;
	__u32 only = 0, length;

	room = bpf_map_lookup_elem(&lb_nat_rooms, &only);
	if (!p || !flow || !room)
		return DROP;
	to = lb_towards(skb, skb->ifindex, p, flow->backend, &room->fib);
	if (!to)
		return dropped(LB_DROP_NO_ROUTE);
	if (to->route == LB_ROUTE_FOUND && to->hop.mtu && lb_wire_length(skb, p) + lb_wrapping(p) > to->hop.mtu &&
	    (lb_may_not_fragment(skb, p) || !(to->flags & LB_I_OVERLAY)))
		return TOO_BIG + to->hop.mtu - lb_wrapping(p);
	if (lb_age(skb, p))
		return EXPIRED;
	/* A short frame may have padding behind the packet. */
	length = skb->gso_size ? skb->len - ETH_HLEN : p->l4 - ETH_HLEN + p->payload;
	if (p->ip4) {
		bpf_skb_load_bytes(skb, ETH_HLEN + 6, &fragment, 2);
		if (lb_wrap4(skb, to->source[3], flow->backend[3], fragment, length))
			return dropped(LB_DROP_REWRITE);
	} else if (lb_wrap6(skb, to->source, flow->backend, length)) {
		return dropped(LB_DROP_REWRITE);
	}
	return lb_leave(skb, &to->hop, &room->fib, to->route);
}

/* Whether a packet without ports carries one of the same family. */
static __always_inline bool lb_is_wrapped(const struct lb_packet *p)
{
	return p->fragment == LB_WHOLE && p->protocol == (p->ip4 ? IPPROTO_IPIP : IPPROTO_IPV6) &&
	       p->l4 == ETH_HLEN + lb_wrapping(p);
}

/* Whether the packet inside is for a Service with direct return. Others' tunnels are left alone. */
static __always_inline bool lb_is_direct(struct __sk_buff *skb, const struct lb_packet *p)
{
	struct lb_fragment_ports ports, *known;
	struct lb_fragment_key key = {};
	struct lb_frontend *frontend;
	struct lb_packet inner = {};
	struct lb_endpoint to;
	__u32 at = p->l4;
	bool later = false;

	if (p->ip4) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
			return false;
		lb_map_ip4(key.source, ip.saddr);
		lb_map_ip4(key.target, ip.daddr);
		key.protocol = ip.protocol;
		key.id = ip.id;
		later = ip.frag_off & bpf_htons(0x1fff);
		at += ip.ihl * 4;
	} else {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version != 6)
			return false;
		__builtin_memcpy(key.source, &ip.saddr, 16);
		__builtin_memcpy(key.target, &ip.daddr, 16);
		key.protocol = ip.nexthdr;
		at += sizeof(ip);
		if (ip.nexthdr == IPPROTO_FRAGMENT) {
			__be16 head[4];

			if (bpf_skb_load_bytes(skb, at, head, sizeof(head)))
				return false;
			key.protocol = ((__u8 *)head)[0];
			later = head[1] & bpf_htons(0xfff8);
			__builtin_memcpy(&key.id, head + 2, 4);
			at += sizeof(head);
		}
	}
	if (key.protocol != IPPROTO_TCP && key.protocol != IPPROTO_UDP)
		return false;
	if (later) {
		known = bpf_map_lookup_elem(&lb_fragments, &key);
		if (!known)
			return false;
		ports = *known;
	} else if (bpf_skb_load_bytes(skb, at, &ports, sizeof(ports))) {
		return false;
	}
	lb_endpoint_of(&to, key.target, ports.target, key.protocol);
	frontend = lb_frontend_of(&to);
	if (frontend && is_direct(frontend))
		return true;
	/* A flow goes on as it began when its Service is served otherwise now. */
	if (!lb_has_flows(NODE_LINK))
		return false;
	lb_copy_address(inner.source, key.source);
	lb_copy_address(inner.target, key.target);
	inner.source_port = ports.source;
	inner.target_port = ports.target;
	inner.protocol = key.protocol;
	return lb_flow_to(&inner);
}

/* Takes the outer header off. False: it is somebody else's. */
__noinline bool lb_unwrap(struct __sk_buff *skb, const struct lb_packet *p)
{
	if (!p || !lb_is_direct(skb, p))
		return false;
	return !bpf_skb_adjust_room(skb, -(__s32)lb_wrapping(p), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
}

/* Gives an unwrapped packet to its backend, which is here; the stack brings it there. */
__noinline int lb_direct_take(struct __sk_buff *skb, const struct lb_packet *p, const struct lb_packet *outer)
{
	struct choice choice = {};
	struct lb_flow *flow;
	int verdict = DROP;
	__u32 number;
	bool opens;

	if (!p || !outer)
		return DROP;
	opens = opens_connection(p);
	number = lb_has_flows(NODE_LINK) ? lb_flow_to(p) : 0;
	flow = number ? lb_flow_at(number - 1) : NULL;
	if (flow && lb_flow_goes_on(flow, opens, p->protocol) && lb_same_address(flow->backend, outer->target)) {
		lb_flow_track(flow, p, true);
	} else {
		choose_backend(p, opens, true, &choice, &verdict);
		if (!choice.backend)
			return verdict;
		if (!(choice.backend->flags & LB_B_NEAR) ||
		    !lb_same_address(choice.backend->address, outer->target))
			return dropped(LB_DROP_DIRECT);
		flow = keep_flow(p, &choice, true, NODE_LINK, &verdict);
		if (!flow)
			return verdict;
	}
	if (flow->flags & LB_FLOW_DIRECT)
		return dropped(LB_DROP_DIRECT);
	return lb_give(skb, p, flow) ? dropped(LB_DROP_REWRITE) : NEXT;
}

#endif
