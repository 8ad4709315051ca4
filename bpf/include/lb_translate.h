/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* The steps of translating a packet that pod links and node interfaces share. */
#ifndef LB_TRANSLATE_H
#define LB_TRANSLATE_H

#include "lb_answer.h"
#include "lb_open.h"

static __always_inline int turn_back(struct __sk_buff *skb)
{
	return bpf_redirect(skb->ifindex, 0);
}

/* Tells the sender that nobody is there. */
static __always_inline int refuse(struct __sk_buff *skb, const struct lb_packet *p, __u32 reason)
{
	int failed;

	if (p->fragment == LB_LATER_FRAGMENT)
		return dropped(LB_DROP_FRAGMENT);
	if (p->protocol == IPPROTO_TCP) {
		if (p->tcp_flags & LB_TCP_RST)
			return dropped(LB_REJECT_NO_FLOW);
		/* Many segments in one: the sender repeats them one by one and gets its answer then. */
		if (skb->gso_size)
			return dropped(reason);
		failed = lb_answer_reset(skb, p);
	} else {
		failed = lb_answer_icmp(skb, p, LB_PORT_UNREACHABLE, 0);
	}
	if (failed)
		return dropped(LB_DROP_REWRITE);
	lb_count(reason);
	return turn_back(skb);
}

/*
 * Whether nobody but us serves an address of a Service range: what is of no Service does not go on then. Rare, and a
 * function for the sake of the programs' size.
 */
static __noinline bool lb_answers_for(const struct lb_packet *p)
{
	struct lb_endpoint to;

	lb_endpoint_of(&to, p->target, 0, 0);
	return lb_why_no_frontend(&to) != LB_NONE;
}

/* A packet that ends within its headers: no Service's, and nothing that may leave the node for a Service range. */
static __always_inline int cut_short(const struct lb_packet *p)
{
	return lb_answers_for(p) ? dropped(LB_DROP_MALFORMED) : NEXT;
}

static __always_inline bool is_icmp_error(const struct lb_packet *p)
{
	__u8 type = bpf_ntohs(p->source_port) >> 8;

	if (!p->ip4)
		return type < 128;
	return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

static __always_inline int parse_embedded(struct __sk_buff *skb, const struct lb_packet *p, struct embedded *e)
{
	struct lb_fragment_ports ports;

	e->at = p->l4 + 8;
	e->packet.ip4 = p->ip4;
	if (p->ip4) {
		struct iphdr ip;

		/* A later fragment has no ports to go by. */
		if (bpf_skb_load_bytes(skb, e->at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5 ||
		    (ip.frag_off & bpf_htons(0x1fff)))
			return -1;
		lb_map_ip4(e->packet.source, ip.saddr);
		lb_map_ip4(e->packet.target, ip.daddr);
		e->packet.protocol = ip.protocol;
		e->packet.l4 = e->at + ip.ihl * 4;
	} else {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, e->at, &ip, sizeof(ip)) || ip.version != 6)
			return -1;
		__builtin_memcpy(e->packet.source, &ip.saddr, 16);
		__builtin_memcpy(e->packet.target, &ip.daddr, 16);
		e->packet.protocol = ip.nexthdr;
		e->packet.l4 = e->at + sizeof(ip);
	}
	if (e->packet.protocol != IPPROTO_TCP && e->packet.protocol != IPPROTO_UDP)
		return -1;
	if (bpf_skb_load_bytes(skb, e->packet.l4, &ports, sizeof(ports)))
		return -1;
	e->packet.source_port = ports.source;
	e->packet.target_port = ports.target;
	return 0;
}

/*
 * Replaces an address and port of the embedded packet. The embedded IPv4 header's checksum takes up what its address
 * changes, so that the ICMP checksum sees the port only; in IPv6 it sees both.
 */
static __always_inline int rewrite_embedded(struct __sk_buff *skb, const struct lb_packet *p, const struct embedded *e,
					    bool source, const __be32 *address, __be16 port)
{
	const __be32 *old = source ? e->packet.source : e->packet.target;
	__be16 old_port = source ? e->packet.source_port : e->packet.target_port;
	__u32 sum_at = p->l4 + 2;
	long failed = 0;

	if (p->ip4) {
		__be32 from = old[3], to = address[3];

		failed |= bpf_l3_csum_replace(skb, e->at + 10, from, to, 4);
		failed |= bpf_skb_store_bytes(skb, e->at + (source ? 12 : 16), &to, 4, 0);
	} else {
		__be32 from[4], to[4];

		lb_copy_address(from, old);
		lb_copy_address(to, address);
		failed |= bpf_l4_csum_replace(skb, sum_at, 0, bpf_csum_diff(from, 16, to, 16, 0), 0);
		failed |= bpf_skb_store_bytes(skb, e->at + (source ? 8 : 24), to, 16, 0);
	}
	failed |= bpf_l4_csum_replace(skb, sum_at, old_port, port, 2);
	failed |= bpf_skb_store_bytes(skb, e->packet.l4 + (source ? 0 : 2), &port, 2, 0);
	return failed ? -1 : 0;
}

/* Replaces the source or target address of an ICMP error itself. */
static __always_inline int rewrite_outer(struct __sk_buff *skb, const struct lb_packet *p, bool source,
					 const __be32 *address)
{
	const __be32 *old = source ? p->source : p->target;
	long failed = 0;

	if (p->ip4) {
		__be32 from = old[3], to = address[3];

		failed |= bpf_l3_csum_replace(skb, LB_IP4_CHECKSUM_AT, from, to, 4);
		failed |= bpf_skb_store_bytes(skb, ETH_HLEN + (source ? 12 : 16), &to, 4, 0);
	} else {
		__be32 from[4], to[4];

		lb_copy_address(from, old);
		lb_copy_address(to, address);
		failed |= bpf_l4_csum_replace(skb, p->l4 + 2, 0, bpf_csum_diff(from, 16, to, 16, 0), BPF_F_PSEUDO_HDR);
		failed |= bpf_skb_store_bytes(skb, ETH_HLEN + (source ? 8 : 24), to, 16, BPF_F_RECOMPUTE_CSUM);
	}
	return failed ? -1 : 0;
}

/* The client complains about a packet that it believes to come from the VIP. */
static __always_inline int icmp_to_backend(struct __sk_buff *skb, const struct lb_packet *p)
{
	struct embedded e = {};
	struct lb_flow *flow;
	__u32 number;

	if (!is_icmp_error(p))
		return no_frontend(p);
	if (lb_hold() >= LB_HOLD_KNOWN)
		return NEXT;
	if (parse_embedded(skb, p, &e))
		return lb_answers_for(p) ? dropped(LB_DROP_ICMP) : NEXT;
	number = lb_flow_seen(&e.packet, LB_SEEN_SHOWN, NODE_LINK);
	flow = number ? lb_flow_at(number - 1) : NULL;
	if (!flow)
		return lb_answers_for(p) ? dropped(LB_DROP_ICMP) : NEXT;
	if (lb_flow_way(flow) && !(flow->flags & LB_FLOW_OPTION) &&
	    rewrite_embedded(skb, p, &e, false, e.packet.target, lb_port_by(e.packet.target_port, lb_flow_way(flow))))
		return dropped(LB_DROP_REWRITE);
	if (rewrite_embedded(skb, p, &e, true, flow->backend, flow->backend_port) ||
	    rewrite_outer(skb, p, false, flow->backend))
		return dropped(LB_DROP_REWRITE);
	return NEXT;
}

/* Somebody complains about a packet that the client believes to have sent to the VIP. */
static __always_inline int icmp_to_client(struct __sk_buff *skb, const struct lb_packet *p, __u32 link)
{
	struct embedded e = {};
	struct lb_flow *flow;
	__u32 number;

	if (!is_icmp_error(p) || lb_hold() >= LB_HOLD_KNOWN || parse_embedded(skb, p, &e))
		return NEXT;
	number = lb_flow_seen(&e.packet, LB_SEEN_SENT, link);
	flow = number ? lb_flow_at(number - 1) : NULL;
	if (!flow)
		return NEXT;
	if (flow->client_port != e.packet.source_port &&
	    rewrite_embedded(skb, p, &e, true, e.packet.source, flow->client_port))
		return dropped(LB_DROP_REWRITE);
	if (rewrite_embedded(skb, p, &e, false, flow->vip, flow->vip_port))
		return dropped(LB_DROP_REWRITE);
	if (lb_same_address(p->source, flow->backend) && rewrite_outer(skb, p, true, flow->vip))
		return dropped(LB_DROP_REWRITE);
	return NEXT;
}

/* A client's packet becomes one to its backend. */
static __always_inline int lb_give(struct __sk_buff *skb, const struct lb_packet *p, const struct lb_flow *flow)
{
	__be16 port = lb_port_by(p->source_port, lb_flow_way(flow));

	if (lb_rewrite(skb, p, false, flow->backend, flow->backend_port))
		return -1;
	return port != p->source_port ? lb_rewrite(skb, p, true, p->source, port) : 0;
}

/* The answer of a backend becomes the answer of the VIP. */
static __always_inline int to_client(struct __sk_buff *skb, __u32 link)
{
	struct lb_packet p = {};
	struct lb_flow *flow;
	__u32 number;
	int handed;

	if (!lb_has_flows(link) || lb_parse(skb, &p) != LB_PARSED)
		return NEXT;
	if (lb_is_icmp(&p))
		return icmp_to_client(skb, &p, link);
	number = lb_flow_seen(&p, LB_SEEN_ANSWER, link);
	flow = number ? lb_flow_at(number - 1) : NULL;
	if (!flow)
		return NEXT;
	handed = lb_handed();
	if (handed)
		return handed;
	lb_flow_track(flow, &p, false);
	if (lb_rewrite(skb, &p, true, flow->vip, flow->vip_port))
		return dropped(LB_DROP_REWRITE);
	if (flow->client_port != p.target_port && lb_rewrite(skb, &p, false, p.target, flow->client_port))
		return dropped(LB_DROP_REWRITE);
	return NEXT;
}

/* The flow of a packet from a pod: known, or opened now. NULL with the verdict where there is none. */
static __always_inline struct lb_flow *flow_of(const struct lb_packet *p, __u32 link, int *verdict)
{
	bool opens = opens_connection(p);
	struct lb_flow *flow;
	__u32 number;

	/* Most packets: a connection that is open, at a link where none was ever translated. */
	if (p->protocol == IPPROTO_TCP && !opens && !lb_has_flows(link) && !lb_in_service_range(p->target)) {
		*verdict = NEXT;
		return NULL;
	}

	number = lb_has_flows(link) ? lb_flow_to(p) : 0;
	flow = number ? lb_flow_at(number - 1) : NULL;
	if (!flow || !lb_flow_goes_on(flow, opens, p->protocol))
		return open_flow(p, opens, false, link, verdict);
	*verdict = lb_handed();
	if (*verdict)
		return NULL;
	lb_flow_track(flow, p, true);
	return flow;
}

#endif
