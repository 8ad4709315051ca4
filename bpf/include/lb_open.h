/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Opening a flow: may this client come, which backend does it get, what is remembered. Reads no packet and changes
 * none, so tc and XDP share it.
 */
#ifndef LB_OPEN_H
#define LB_OPEN_H

#include "lb_passed.h"

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

/* Whether this packet opens a TCP connection. */
static __always_inline bool opens_connection(const struct lb_packet *p)
{
	return p->protocol == IPPROTO_TCP &&
	       (p->tcp_flags & (LB_TCP_SYN | LB_TCP_ACK | LB_TCP_RST)) == LB_TCP_SYN;
}

/* A packet to an address of a Service range that no frontend answers. */
static __always_inline int no_frontend(const struct lb_packet *p)
{
	struct lb_endpoint to;
	__u32 reason;

	lb_endpoint_of(&to, p->target, p->target_port, p->protocol);
	reason = lb_why_no_frontend(&to);
	if (reason == LB_NONE || lb_hold() >= LB_HOLD_PASS)
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
	__u32 hold;

	choice->backend = NULL;
	lb_endpoint_of(&to, p->target, p->target_port, p->protocol);
	frontend = lb_frontend_of(&to);
	choice->frontend = frontend;
	if (!frontend) {
		*verdict = no_frontend(p);
		return;
	}
	hold = lb_hold();
	if (hold >= LB_HOLD_PASS || (!opens && lb_is_passed(p))) {
		*verdict = NEXT;
		return;
	}
	table = lb_table_of(frontend, outside);
	if (p->protocol == IPPROTO_TCP && !opens && hold) {
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
	/* Later fragments of a packet that another node translated are to the backend, and belong to the flow. */
	if (!choice->frontend && flows && p->fragment != LB_LATER_FRAGMENT && (opens || p->protocol == IPPROTO_UDP))
		forget_flow(flows, p, p->target, p->target_port);
}

#define LB_KIND_LOAD_BALANCER (2 << LB_F_KIND_SHIFT)

/* 0 ClusterIP, 1 NodePort, 2 LoadBalancer, 3 ExternalIP, 4 HostPort. */
static __always_inline __u32 lb_kind_of(const struct lb_frontend *frontend)
{
	return frontend->flags >> LB_F_KIND_SHIFT & 15;
}

/*
 * Whether answers go to clients directly. Where the backend's node is not told, it has to come to the same choice by
 * itself: so it must know the address (a nodePort's is another node's) and decide by the hash of the flow alone.
 */
static __always_inline bool is_direct(const struct lb_frontend *frontend)
{
	__u32 kind = lb_kind_of(frontend);

	if (!(frontend->flags & LB_F_DSR) || kind == 0 || kind > 3)
		return false;
	return (frontend->flags & LB_F_DSR_OPTION) ||
	       ((frontend->flags & LB_F_OUTSIDE_HASH) && !frontend->affinity_s && kind >= 2);
}

/* Flags of flows of such a frontend to other nodes. A flow keeps its way when the frontend changes it. */
static __always_inline __u16 way_of_direct(const struct lb_frontend *frontend)
{
	return frontend->flags & LB_F_DSR_OPTION ? LB_FLOW_DIRECT | LB_FLOW_OPTION : LB_FLOW_DIRECT;
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
			flow->flags = LB_FLOW_USED | (backend->flags & LB_B_NEAR ? 0 : way_of_direct(choice->frontend));
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

#endif
