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
__noinline int lb_flow_forget(const struct lb_packet *p)
{
	struct lb_flow_name name;
	struct lb_flow *flow;
	__u32 number;

	if (!p)
		return 0;
	lb_flow_name_of(&name, p->source, p->source_port, p->target, p->target_port, p->protocol);
	name.is_backend = true;
	name.mask |= LB_FLOW_WAYS;
	number = lb_flow_find(&name);
	flow = number ? lb_flow_at(number - 1) : NULL;
	if (flow && (p->protocol == IPPROTO_UDP || lb_flow_over(flow)))
		lb_flow_drop(number - 1);
	return 0;
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
	/* One after the other: the stack has no room for both. */
	union {
		struct lb_endpoint to;
		struct lb_client sticky;
	} key;
	struct lb_frontend *frontend;
	struct lb_table table;
	__u32 hold;

	choice->backend = NULL;
	lb_endpoint_of(&key.to, p->target, p->target_port, p->protocol);
	frontend = lb_frontend_of(&key.to);
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
	lb_copy_address(key.sticky.address, p->source);
	key.sticky.service = frontend->service;
	key.sticky.kind = 0;
	choice->id = lb_choose(frontend, &table, &key.sticky,
			       table.hash ? lb_flow_hash(p, frontend->affinity_s) : bpf_get_prandom_u32(),
			       &choice->backend);
	if (!choice->id || !choice->backend) {
		choice->backend = NULL;
		*verdict = dropped(LB_DROP_NO_BACKEND);
	}
}

/* The client speaks to no frontend, perhaps to a backend directly. */
static __always_inline void forget_direct(const struct lb_packet *p, const struct choice *choice, bool opens,
					  __u32 link)
{
	/* Later fragments of a packet that another node translated are to the backend, and belong to the flow. */
	if (!choice->frontend && p->fragment != LB_LATER_FRAGMENT && (opens || p->protocol == IPPROTO_UDP) &&
	    lb_has_flows(link))
		lb_flow_forget(p);
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

/* Room for a name where a flow is opened: the stack has none left there. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lb_flow_name);
} lb_flow_names SEC(".maps");

/*
 * The place for a flow with direct return, which has no ways: that of the same VIP, or another one. Where this client
 * has an open connection to the same backend, it is noted which one came later.
 */
__noinline __u32 lb_flow_open(const struct lb_packet *p, const struct lb_backend *backend)
{
	__u32 number = 0, order = 0;
	struct lb_flow_name *name;
	struct lb_flow *flow;
	bool known;

	name = bpf_map_lookup_elem(&lb_flow_names, &number);
	if (!p || !backend || !name)
		return 0;
	lb_flow_name_of(name, p->source, p->source_port, backend->address, backend->port, p->protocol);
	name->is_backend = true;
	name->mask |= LB_FLOW_WAYS;
	known = lb_flow_has_client(name);
	number = known ? lb_flow_find(name) : 0;
	flow = number ? lb_flow_at(number - 1) : NULL;
	if (flow && (p->protocol == IPPROTO_UDP || lb_flow_over(flow)))
		lb_flow_drop(number - 1);
	if (flow) {
		name->last = true;
		number = lb_flow_find(name);
		flow = number ? lb_flow_at(number - 1) : NULL;
		if (flow && !(lb_same_address(flow->vip, p->target) && flow->vip_port == p->target_port))
			order = lb_flow_order(number - 1) + 1;
	}
	lb_copy_address(name->peer, p->target);
	name->peer_port = p->target_port;
	name->is_backend = name->last = false;
	name->mask &= ~LB_FLOW_WAYS;
	number = known ? lb_flow_find(name) : 0;
	if (!number)
		number = lb_flow_claim(name);
	if (number)
		lb_flow_set_order(number - 1, order > LB_FLOW_LAST_ORDER ? LB_FLOW_LAST_ORDER : order);
	return number;
}

/* No port below this is given to a client that did not take it: they mean something to some servers. */
#define LB_LEAST_PORT 1024
#define LB_FLOW_WAY_ORDER 128

/*
 * The place for a flow, with its way above it: the first by which the backend sees a port that no other open
 * flow of this client has there. 0 where all ways are taken; of datagrams the last one is taken over then.
 */
__noinline __u64 lb_flow_open_way(const struct lb_packet *p, const struct lb_backend *backend, __u32 link)
{
	__u32 own, number = 0, way = 0, ways = lb_ways_of(link);
	struct lb_flow_name *name;

	name = bpf_map_lookup_elem(&lb_flow_names, &number);
	if (!p || !backend || !name)
		return 0;
	lb_flow_name_of(name, p->source, p->source_port, p->target, p->target_port, p->protocol);
	own = lb_flow_find(name);
	for (; way < LB_WAYS; way++) {
		__be16 port = lb_port_by(p->source_port, way);
		struct lb_flow *holder;

		if (way && bpf_ntohs(port) < LB_LEAST_PORT)
			continue;
		lb_flow_name_of(name, p->source, port, backend->address, backend->port, p->protocol);
		name->is_backend = true;
		name->mask |= LB_FLOW_WAYS;
		number = lb_flow_find(name);
		/* A link without ways has none of its flows at another port than its own. */
		if (!number && ways)
			number = lb_flow_by_port(name, ways);
		if (!number || number == own)
			break;
		holder = lb_flow_at(number - 1);
		if (holder && !lb_flow_over(holder) && !(p->protocol == IPPROTO_UDP && way == LB_WAYS - 1))
			continue;
		lb_flow_drop(number - 1);
		break;
	}
	if (way >= LB_WAYS)
		return 0;
	lb_flow_name_of(name, p->source, p->source_port, p->target, p->target_port, p->protocol);
	number = own ? own : lb_flow_claim(name);
	if (!number)
		return 0;
	/* Whoever does not ask for a way finds the flow without one first. */
	lb_flow_set_order(number - 1, way ? LB_FLOW_WAY_ORDER + way : 0);
	return number | (__u64)way << 32;
}

/* Remembers a choice. Returns the flow, or NULL with the verdict in `verdict`. */
static __always_inline struct lb_flow *keep_flow(const struct lb_packet *p, const struct choice *choice, bool outside,
						 __u32 link, int *verdict)
{
	const struct lb_backend *backend = choice->backend;
	__u16 flags = LB_FLOW_USED;
	struct lb_flow *flow;
	__u32 number, way = 0;

	/* With direct return another node may get the next packet, and would show the backend the client's own port. */
	if (outside && is_direct(choice->frontend)) {
		number = lb_flow_open(p, backend);
	} else {
		__u64 place = lb_flow_open_way(p, backend, link);

		number = place;
		way = place >> 32;
		flags |= (way << LB_FLOW_WAY_SHIFT) & LB_FLOW_WAYS;
	}
	flow = number ? lb_flow_at(number - 1) : NULL;
	if (!flow) {
		lb_count_refused(choice->frontend->service);
		lb_flow_tell_refused(LB_NEWS_REFUSED, choice->frontend->service);
		*verdict = dropped(LB_DROP_FLOWS_FULL);
		return NULL;
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
	flow->seen = bpf_jiffies64();
	if (!outside && lb_same_address(backend->address, p->source)) {
		flags |= LB_FLOW_HAIRPIN;
		lb_count(LB_FORWARD_HAIRPIN);
	} else {
		if (outside && !(choice->frontend->flags & LB_F_OUTSIDE_KEEP))
			flags |= LB_FLOW_MASQUERADE;
		/* With direct return the backend's node shows it the client. */
		if (outside && is_direct(choice->frontend))
			flags = LB_FLOW_USED | (backend->flags & LB_B_NEAR ? 0 : way_of_direct(choice->frontend));
		lb_count(flags & LB_FLOW_DIRECT ? LB_FORWARD_DIRECT : LB_FORWARD_FLOW);
	}
	/* Where the hash decides, the first packet may be the last one. */
	if (p->tcp_flags & LB_TCP_RST)
		flags |= LB_FLOW_RESET;
	if (p->tcp_flags & LB_TCP_FIN)
		flags |= LB_FLOW_FIN_CLIENT;
	flow->flags = flags | (p->protocol == IPPROTO_UDP ? LB_FLOW_UDP : 0);
	if (lb_count_packets)
		lb_count_packet(choice->id, p->payload);
	lb_set_has_flows(link, way);
	return flow;
}

/* Chooses a backend and remembers it. Returns the flow, or NULL with the verdict in `verdict`. */
static __always_inline struct lb_flow *open_flow(const struct lb_packet *p, bool opens, bool outside, __u32 link,
						 int *verdict)
{
	struct choice choice = {};

	choose_backend(p, opens, outside, &choice, verdict);
	if (!choice.backend) {
		forget_direct(p, &choice, opens, link);
		return NULL;
	}
	return keep_flow(p, &choice, outside, link, verdict);
}

#endif
