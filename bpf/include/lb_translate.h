/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* The steps of translating a packet that pod links and node interfaces share. */
#ifndef LB_TRANSLATE_H
#define LB_TRANSLATE_H

#include "lb_answer.h"
#include "lb_flow.h"

#define NEXT -1 /* TCX_NEXT: other programs, then the stack */
#define DROP 2 /* TCX_DROP */
/* Answered at the end, in one place: */
#define REFUSED 0x1000 /* plus the reason */
#define EXPIRED 0x2000 /* its hops are used up */
#define TOO_BIG 0x10000 /* plus the MTU */

/* Key of lb_source_ranges: who may use a load balancer address. */
struct lb_source {
	__u32 prefix; /* bits that count: 32 for the service, 96 more for IPv4 */
	__u32 service;
	__be32 address[4];
};

/* source network of a service -> 1; the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct lb_source);
	__type(value, __u32);
} lb_source_ranges SEC(".maps");

static __always_inline bool lb_source_allowed(__u32 service, const __be32 *address)
{
	struct lb_source source = { .prefix = 160, .service = service };

	lb_copy_address(source.address, address);
	return bpf_map_lookup_elem(&lb_source_ranges, &source) != NULL;
}

static __always_inline __u32 lb_mix(__u32 hash, __u32 word)
{
	word *= 0xcc9e2d51;
	word = (word << 15) | (word >> 17);
	hash ^= word * 0x1b873593;
	return ((hash << 13) | (hash >> 19)) * 5 + 0xe6546b64;
}

/*
 * The same number on every node for packets of one flow. With affinity the source port does not count, so that a
 * client comes to one backend wherever it enters.
 */
static __always_inline __u32 lb_flow_hash(const struct lb_packet *p, bool affinity)
{
	__u32 hash = p->protocol;

	for (int i = 0; i < 4; i++)
		hash = lb_mix(lb_mix(hash, p->source[i]), p->target[i]);
	hash = lb_mix(hash, affinity ? p->target_port : (__u32)p->source_port << 16 | p->target_port);
	hash ^= hash >> 16;
	hash *= 0x85ebca6b;
	hash ^= hash >> 13;
	hash *= 0xc2b2ae35;
	return hash ^ hash >> 16;
}

static __always_inline int dropped(__u32 reason)
{
	lb_count(reason);
	return DROP;
}

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

/* A packet that ends within its headers: no Service's, and nothing that may leave the node for a Service range. */
static __always_inline int cut_short(const struct lb_packet *p)
{
	return lb_in_service_range(p->target) ? dropped(LB_DROP_MALFORMED) : NEXT;
}

/* A packet to an address of a Service range that no frontend answers. */
static __always_inline int no_frontend(const struct lb_packet *p)
{
	struct lb_endpoint to;
	__u32 reason;

	lb_endpoint_of(&to, p->target, p->target_port, p->protocol);
	reason = lb_why_no_frontend(&to);
	if (reason == LB_NONE)
		return NEXT;
	return reason == LB_REJECT_UNKNOWN_PORT ? REFUSED + LB_REJECT_UNKNOWN_PORT : dropped(reason);
}

/*
 * The client uses its port for a backend directly, or through another VIP, which it used through a VIP before: what
 * the backend answers from here on is not to be shown as that VIP's. An open connection is left alone.
 */
static __always_inline void forget_flow(struct lb_flows *flows, const struct lb_packet *p, const __be32 *backend,
					__be16 port)
{
	struct lb_flow *flow = lb_flow_with(flows, backend, port, LB_FLOW_USED, LB_FLOW_USED);

	if (flow && (p->protocol == IPPROTO_UDP || lb_flow_over(flow)))
		flow->flags = 0;
}

/* A backend for a new flow. */
struct choice {
	struct lb_frontend *frontend;
	struct lb_backend *backend;
	__u32 id;
};

/* Chooses a backend. NULL in `choice->backend` with the verdict in `verdict` where there is none. */
static __always_inline void choose_backend(const struct lb_packet *p, bool opens, bool outside, struct choice *choice,
					   int *verdict)
{
	struct lb_client sticky = {};
	struct lb_frontend *frontend;
	struct lb_endpoint to;
	struct lb_table table;

	choice->backend = NULL;
	lb_endpoint_of(&to, p->target, p->target_port, p->protocol);
	frontend = lb_frontend_of(&to);
	choice->frontend = frontend;
	if (!frontend) {
		*verdict = no_frontend(p);
		return;
	}
	table = lb_table_of(frontend, outside);
	if (p->protocol == IPPROTO_TCP && !opens && lb_holding()) {
		*verdict = dropped(LB_DROP_HOLD);
		return;
	}
	/* Where the hash decides, a connection may have begun at another node, which chose the same backend. */
	if (p->protocol == IPPROTO_TCP && !opens && !table.hash) {
		*verdict = REFUSED + LB_REJECT_NO_FLOW;
		return;
	}
	if ((frontend->flags & LB_F_RANGES) && !lb_source_allowed(frontend->service, p->source)) {
		lb_count_refused(frontend->service);
		*verdict = dropped(LB_DROP_SOURCE_RANGE);
		return;
	}
	if (!table.size) {
		lb_count_refused(frontend->service);
		*verdict = table.drop ? dropped(LB_DROP_NO_LOCAL) : REFUSED + LB_REJECT_NO_ENDPOINT;
		return;
	}
	lb_copy_address(sticky.address, p->source);
	sticky.service = frontend->service;
	choice->id = lb_choose(frontend, &table, &sticky,
			       table.hash ? lb_flow_hash(p, frontend->affinity_s) : bpf_get_prandom_u32(),
			       &choice->backend);
	if (!choice->id || !choice->backend) {
		choice->backend = NULL;
		*verdict = dropped(LB_DROP_NO_BACKEND);
	}
}

/* The client speaks to no frontend, perhaps to a backend directly. */
static __always_inline void forget_direct(struct lb_flows *flows, const struct lb_packet *p,
					  const struct choice *choice, bool opens)
{
	if (!choice->frontend && flows && (opens || p->protocol == IPPROTO_UDP))
		forget_flow(flows, p, p->target, p->target_port);
}

/*
 * Whether answers go to clients directly. The backend's node has to come to the same choice by itself, so it must know
 * the address (a nodePort's is another node's) and decide by the hash of the flow alone.
 */
static __always_inline bool is_direct(const struct lb_frontend *frontend)
{
	return (frontend->flags & LB_F_DSR) && (frontend->flags & LB_F_OUTSIDE_HASH) && !frontend->affinity_s &&
	       (frontend->flags >> LB_F_KIND_SHIFT & 3) >= 2;
}

/* Remembers a choice. Returns the flow, or NULL with the verdict in `verdict`. */
static __always_inline struct lb_flow *keep_flow(const struct lb_packet *p, const struct lb_endpoint *client,
						 struct lb_flows *flows, const struct choice *choice, bool outside,
						 __u32 link, int *verdict)
{
	const struct lb_backend *backend = choice->backend;
	struct lb_flows *first = NULL;
	struct lb_flow *flow;
	__u32 now, only = 0;

	now = bpf_jiffies64();
	if (flows) {
		forget_flow(flows, p, backend->address, backend->port);
		flow = lb_flow_place(flows, p->target, p->target_port, now);
	} else {
		first = bpf_map_lookup_elem(&lb_scratch, &only);
		if (!first) {
			*verdict = DROP;
			return NULL;
		}
		flow = &first->flow[0];
	}
	/* While it is filled, nobody may take it for an other one. */
	flow->flags = 0;
	lb_copy_address(flow->vip, p->target);
	lb_copy_address(flow->backend, backend->address);
	lb_copy_address(flow->client, p->source);
	flow->vip_port = p->target_port;
	flow->backend_port = backend->port;
	flow->client_port = p->source_port;
	flow->backend_id = choice->id;
	flow->seen = now;
	if (!outside && lb_same_address(backend->address, p->source)) {
		flow->flags = LB_FLOW_USED | LB_FLOW_HAIRPIN;
		lb_count(LB_FORWARD_HAIRPIN);
	} else {
		flow->flags = LB_FLOW_USED;
		if (outside && !(choice->frontend->flags & LB_F_OUTSIDE_KEEP))
			flow->flags = LB_FLOW_USED | LB_FLOW_MASQUERADE;
		/* With direct return the backend's node shows it the client. */
		if (outside && is_direct(choice->frontend))
			flow->flags = LB_FLOW_USED | (backend->flags & LB_B_NEAR ? 0 : LB_FLOW_DIRECT);
		lb_count(flow->flags & LB_FLOW_DIRECT ? LB_FORWARD_DIRECT : LB_FORWARD_FLOW);
	}
	if (lb_count_packets)
		lb_count_packet(choice->id, p->payload);
	if (first)
		bpf_map_update_elem(&lb_flows, client, first, BPF_ANY);
	lb_set_has_flows(link);
	return flow;
}

/* Chooses a backend and remembers it. Returns the flow, or NULL with the verdict in `verdict`. */
static __always_inline struct lb_flow *open_flow(const struct lb_packet *p, const struct lb_endpoint *client,
						 struct lb_flows *flows, bool opens, bool outside,
						 __u32 link, int *verdict)
{
	struct choice choice = {};

	choose_backend(p, opens, outside, &choice, verdict);
	if (!choice.backend) {
		forget_direct(flows, p, &choice, opens);
		return NULL;
	}
	return keep_flow(p, client, flows, &choice, outside, link, verdict);
}

static __always_inline bool is_icmp_error(const struct lb_packet *p)
{
	__u8 type = bpf_ntohs(p->source_port) >> 8;

	if (!p->ip4)
		return type < 128;
	return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

/* The packet inside an ICMP error, as far as it names its flow. */
struct embedded {
	struct lb_packet packet;
	__u16 at; /* its IP header, from the Ethernet header on */
};

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
	struct lb_endpoint client;
	struct lb_flows *flows;
	struct lb_flow *flow;
	struct embedded e = {};

	if (!is_icmp_error(p))
		return no_frontend(p);
	if (parse_embedded(skb, p, &e))
		return lb_in_service_range(p->target) ? dropped(LB_DROP_ICMP) : NEXT;
	lb_endpoint_of(&client, e.packet.target, e.packet.target_port, e.packet.protocol);
	flows = bpf_map_lookup_elem(&lb_flows, &client);
	flow = flows ? lb_flow_to(flows, e.packet.source, e.packet.source_port) : NULL;
	if (!flow)
		return lb_in_service_range(p->target) ? dropped(LB_DROP_ICMP) : NEXT;
	if (rewrite_embedded(skb, p, &e, true, flow->backend, flow->backend_port) ||
	    rewrite_outer(skb, p, false, flow->backend))
		return dropped(LB_DROP_REWRITE);
	return NEXT;
}

/* Somebody complains about a packet that the client believes to have sent to the VIP. */
static __always_inline int icmp_to_client(struct __sk_buff *skb, const struct lb_packet *p)
{
	struct lb_endpoint client;
	struct lb_flows *flows;
	struct lb_flow *flow;
	struct embedded e = {};

	if (!is_icmp_error(p) || parse_embedded(skb, p, &e))
		return NEXT;
	lb_endpoint_of(&client, e.packet.source, e.packet.source_port, e.packet.protocol);
	flows = bpf_map_lookup_elem(&lb_flows, &client);
	flow = flows ? lb_flow_from(flows, e.packet.target, e.packet.target_port, 0) : NULL;
	if (!flow)
		return NEXT;
	if (rewrite_embedded(skb, p, &e, false, flow->vip, flow->vip_port))
		return dropped(LB_DROP_REWRITE);
	if (lb_same_address(p->source, flow->backend) && rewrite_outer(skb, p, true, flow->vip))
		return dropped(LB_DROP_REWRITE);
	return NEXT;
}

/* The answer of a backend becomes the answer of the VIP. */
static __always_inline int to_client(struct __sk_buff *skb, __u32 link)
{
	struct lb_packet p = {};
	struct lb_endpoint client;
	struct lb_flows *flows;
	struct lb_flow *flow;

	if (!lb_has_flows(link) || lb_parse(skb, &p) != LB_PARSED)
		return NEXT;
	if (lb_is_icmp(&p))
		return icmp_to_client(skb, &p);
	lb_endpoint_of(&client, p.target, p.target_port, p.protocol);
	flows = bpf_map_lookup_elem(&lb_flows, &client);
	flow = flows ? lb_flow_from(flows, p.source, p.source_port, 0) : NULL;
	if (!flow)
		return NEXT;
	lb_flow_track(flow, &p, false);
	if (lb_rewrite(skb, &p, true, flow->vip, flow->vip_port))
		return dropped(LB_DROP_REWRITE);
	return NEXT;
}

/* Whether this packet opens a TCP connection. */
static __always_inline bool opens_connection(const struct lb_packet *p)
{
	return p->protocol == IPPROTO_TCP &&
	       (p->tcp_flags & (LB_TCP_SYN | LB_TCP_ACK | LB_TCP_RST)) == LB_TCP_SYN;
}

/* The flow of a packet from a client: known, or opened now. NULL with the verdict where there is none. */
static __always_inline struct lb_flow *flow_of(const struct lb_packet *p, bool outside, __u32 link, int *verdict)
{
	bool opens = opens_connection(p);
	struct lb_endpoint client;
	struct lb_flows *flows;
	struct lb_flow *flow;

	/*
	 * Most packets of pods: a connection that is open, at a link where none was ever translated. One from outside
	 * may have begun at another node.
	 */
	if (!outside && p->protocol == IPPROTO_TCP && !opens && !lb_has_flows(link) &&
	    !lb_in_service_range(p->target)) {
		*verdict = NEXT;
		return NULL;
	}

	lb_endpoint_of(&client, p->source, p->source_port, p->protocol);
	flows = lb_has_flows(link) ? bpf_map_lookup_elem(&lb_flows, &client) : NULL;
	flow = flows ? lb_flow_to(flows, p->target, p->target_port) : NULL;
	if (!flow || !lb_flow_goes_on(flow, opens, p->protocol))
		return open_flow(p, &client, flows, opens, outside, link, verdict);
	lb_flow_track(flow, p, true);
	return flow;
}

#endif
