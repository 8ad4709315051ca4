/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Translated flows. One entry knows both directions, so they can't be given up apart:
 *
 *     pod 10.244.1.5:40000 -> 10.96.0.10:80      found by the client 10.244.1.5:40000 and the VIP
 *     pod 10.244.1.5:40000 <- 10.244.2.2:8080    found by the same client and the backend
 *
 * A client may use one port for several VIPs, as these differ. Where they lead to one backend, all would be one
 * connection to it, and to conntrack on the way. So the second one gets another port there, which says by itself whose
 * it is: the three highest bits are others (its way, 1 to 7), so that the client's own one is among seven.
 *
 *     pod :40000 -> 10.96.0.11:80    way 1     :48192 -> 10.244.2.2:8080
 *
 * Clients outside have it like pods, but for direct return: there other nodes know nothing of ways.
 */
#ifndef LB_FLOW_H
#define LB_FLOW_H

#include "lb_flow_claim.h"

/*
 * interface % 4096 -> whether flows were ever translated there; programs. Where sockets do all the work, which is
 * nearly everywhere, packets that are not new pay for this lookup and for no other. Place 0 is for all node
 * interfaces: an answer may leave by another one than its question came in.
 */
#define LB_LINKS 4096
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LB_LINKS);
	__type(key, __u32);
	__type(value, __u32);
} lb_links SEC(".maps");

static __always_inline bool lb_has_flows(__u32 link)
{
	__u32 *used = bpf_map_lookup_elem(&lb_links, &link);

	return used && *used;
}

#define LB_WAYS 8

#define LB_LINK_FLOWS 1
#define LB_LINK_ALL_WAYS 2 /* of an earlier version, which did not say which */
#define LB_LINK_WAY 1 /* shift of the bit of each way that some flow had */

/* The ways other than 0 by which flows went, a bit each. */
static __always_inline __u32 lb_ways_of(__u32 link)
{
	__u32 *used = bpf_map_lookup_elem(&lb_links, &link);
	__u32 all = (1 << LB_WAYS) - 2;

	if (!used)
		return 0;
	return *used & LB_LINK_ALL_WAYS ? all : *used >> LB_LINK_WAY & all;
}

static __always_inline void lb_set_has_flows(__u32 link, __u32 way)
{
	__u32 *used = bpf_map_lookup_elem(&lb_links, &link);
	__u32 now = way ? LB_LINK_FLOWS | 1 << (way + LB_LINK_WAY) : LB_LINK_FLOWS;

	if (used && (*used & now) != now)
		*used |= now;
}

/* The port of a client that a backend sees, and back. */
static __always_inline __be16 lb_port_by(__be16 port, __u32 way)
{
	return port ^ bpf_htons(way << 13);
}

static __always_inline __u32 lb_flow_way(const struct lb_flow *flow)
{
	return (flow->flags & LB_FLOW_WAYS) >> LB_FLOW_WAY_SHIFT;
}

static __always_inline void lb_endpoint_of(struct lb_endpoint *endpoint, const __be32 *address, __be16 port,
					   __u8 protocol)
{
	lb_copy_address(endpoint->address, address);
	endpoint->port = port;
	endpoint->protocol = protocol;
	endpoint->pad = 0;
}

static __always_inline void lb_flow_name_of(struct lb_flow_name *name, const __be32 *client, __be16 client_port,
					    const __be32 *peer, __be16 peer_port, __u8 protocol)
{
	lb_copy_address(name->client, client);
	lb_copy_address(name->peer, peer);
	name->client_port = client_port;
	name->peer_port = peer_port;
	name->protocol = protocol;
	name->is_backend = false;
	name->mask = LB_FLOW_USED | LB_FLOW_UDP;
	name->flags = LB_FLOW_USED | (protocol == IPPROTO_UDP ? LB_FLOW_UDP : 0);
	name->last = false;
}

/* Number plus 1 of the flow of a client's packet to a frontend; 0 for none. A function for the sake of the stack. */
__noinline __u32 lb_flow_to(const struct lb_packet *p)
{
	struct lb_flow_name name;

	if (!p)
		return 0;
	lb_flow_name_of(&name, p->source, p->source_port, p->target, p->target_port, p->protocol);
	return lb_flow_find(&name);
}

/* As lb_flow_to(), a call and a return less. */
__noinline __u32 lb_flow_to_soon(const struct lb_packet *p)
{
	struct lb_flow_name name;

	if (!p)
		return 0;
	lb_flow_name_of(&name, p->source, p->source_port, p->target, p->target_port, p->protocol);
	return lb_flow_find_here(&name);
}

/*
 * The flow whose backend sees this port of a client, by one of these ways; 0 for none. Searches without lb_flow_find(),
 * for the sake of the stack.
 */
__noinline __u32 lb_flow_by_port(struct lb_flow_name *name, __u32 ways)
{
	struct lb_flow_table *table = lb_flow_table_now();
	__u32 number = 0;
	__be16 port;
	__u16 flags;

	if (!name || !table)
		return 0;
	port = name->client_port;
	flags = name->flags & ~LB_FLOW_WAYS;
	name->mask |= LB_FLOW_WAYS;
	for (__u32 way = 0; way < LB_WAYS && !number; way++) {
		if (!(ways >> way & 1))
			continue;
		name->client_port = lb_port_by(port, way);
		name->flags = flags | way << LB_FLOW_WAY_SHIFT;
		number = lb_flow_search(name, lb_flow_tag(table->seed, name));
	}
	name->client_port = port;
	return number;
}

#define NODE_LINK 0 /* all node interfaces together: an answer may leave by another one than its question came in */

/* What a packet is that belongs to a flow but is not from its client to its frontend. */
enum lb_seen {
	LB_SEEN_ANSWER, /* from the backend to the client */
	LB_SEEN_OWN_ANSWER, /* the same, of a client that is its own backend */
	LB_SEEN_SENT, /* quoted in an ICMP error: from the client to the backend */
	LB_SEEN_SHOWN, /* quoted in an ICMP error: from the frontend to the client */
};

/* Number plus 1 of its flow; 0 for none. A function for the sake of the stack. */
__noinline __u32 lb_flow_seen(const struct lb_packet *p, __u32 what, __u32 link)
{
	struct lb_flow_name name;
	__u32 number, ways;

	if (!p)
		return 0;
	if (what == LB_SEEN_ANSWER || what == LB_SEEN_SHOWN)
		lb_flow_name_of(&name, p->target, p->target_port, p->source, p->source_port, p->protocol);
	else if (what == LB_SEEN_OWN_ANSWER)
		lb_flow_name_of(&name, p->source, p->target_port, p->source, p->source_port, p->protocol);
	else
		lb_flow_name_of(&name, p->source, p->source_port, p->target, p->target_port, p->protocol);
	if (what == LB_SEEN_SHOWN)
		return lb_flow_find(&name);
	name.is_backend = true;
	name.mask |= LB_FLOW_HAIRPIN | LB_FLOW_WAYS;
	if (what == LB_SEEN_OWN_ANSWER)
		name.flags |= LB_FLOW_HAIRPIN;
	number = lb_flow_find(&name);
	if (number)
		return number;
	ways = lb_ways_of(link);
	return ways ? lb_flow_by_port(&name, ways) : 0;
}

/*
 * Whether a packet goes on in a flow that is known. An open TCP connection keeps its backend whatever happens to
 * the Service. A SYN goes to the backend of the SYN before, and datagrams to theirs, while it serves.
 */
static __always_inline bool lb_flow_goes_on(const struct lb_flow *flow, bool opens, __u8 protocol)
{
	struct lb_backend *backend;

	if (protocol == IPPROTO_TCP && !opens)
		return true;
	if (lb_flow_over(flow))
		return false;
	backend = lb_backend_of(flow->backend_id);
	if (!backend || !lb_is_backend(backend, flow->backend, flow->backend_port))
		return false;
	return protocol != IPPROTO_TCP || (backend->flags & (LB_B_CLUSTER | LB_B_LOCAL));
}

static __always_inline void lb_flow_track(struct lb_flow *flow, const struct lb_packet *p, bool from_client)
{
	__u32 now = bpf_jiffies64();
	__u16 flags = flow->flags;

	if (!from_client)
		flags |= LB_FLOW_REPLIED;
	/*
	 * Answers that go back directly are not seen here. What XDP opens and leaves to tc is the same packet there: a
	 * client that goes on does so later.
	 */
	else if (((flags & LB_FLOW_REPLIED) || ((flags & LB_FLOW_DIRECT) && now != flow->seen)) &&
		 (p->protocol == IPPROTO_UDP || (p->tcp_flags & (LB_TCP_SYN | LB_TCP_ACK)) == LB_TCP_ACK))
		flags |= LB_FLOW_CONFIRMED;
	if (p->tcp_flags & LB_TCP_RST)
		flags |= LB_FLOW_RESET;
	if (p->tcp_flags & LB_TCP_FIN)
		flags |= from_client ? LB_FLOW_FIN_CLIENT : LB_FLOW_FIN_BACKEND;
	/* Cache lines that do not change are not written. */
	if (flags != flow->flags)
		flow->flags = flags;
	if (now != flow->seen)
		flow->seen = now;
	if (lb_count_packets) {
		const struct lb_backend *backend = lb_backend_of(flow->backend_id);

		/* A flow may be older than what its backend's id stands for now. */
		if (backend && lb_is_backend(backend, flow->backend, flow->backend_port))
			lb_count_packet(flow->backend_id, p->payload);
	}
}

#endif
