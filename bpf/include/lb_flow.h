/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Translated flows. One entry knows both directions, so they can't be evicted apart:
 *
 *     pod 10.244.1.5:40000 -> 10.96.0.10:80      key is the client 10.244.1.5:40000, the flow is found by its VIP
 *     pod 10.244.1.5:40000 <- 10.244.2.2:8080    the same key, the flow is found by its backend
 */
#ifndef LB_FLOW_H
#define LB_FLOW_H

#include "lb_packet.h"

/* client -> its flows; programs. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct lb_endpoint);
	__type(value, struct lb_flows);
} lb_flows SEC(".maps");

/* Room for a first flow, which is too large for the stack; only flow[0] is ever written. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lb_flows);
} lb_scratch SEC(".maps");

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

static __always_inline void lb_set_has_flows(__u32 link)
{
	__u32 *used = bpf_map_lookup_elem(&lb_links, &link);

	if (used && !*used)
		*used = 1;
}

static __always_inline void lb_endpoint_of(struct lb_endpoint *endpoint, const __be32 *address, __be16 port,
					   __u8 protocol)
{
	lb_copy_address(endpoint->address, address);
	endpoint->port = port;
	endpoint->protocol = protocol;
	endpoint->pad = 0;
}

static __always_inline struct lb_flow *lb_flow_to(struct lb_flows *flows, const __be32 *vip, __be16 port)
{
	for (int i = 0; i < LB_FLOWS; i++) {
		struct lb_flow *flow = &flows->flow[i];

		if ((flow->flags & LB_FLOW_USED) && flow->vip_port == port && lb_same_address(flow->vip, vip))
			return flow;
	}
	return NULL;
}

static __always_inline struct lb_flow *lb_flow_with(struct lb_flows *flows, const __be32 *backend, __be16 port,
						    __u16 mask, __u16 wanted)
{
	for (int i = 0; i < LB_FLOWS; i++) {
		struct lb_flow *flow = &flows->flow[i];

		if ((flow->flags & mask) == wanted &&
		    flow->backend_port == port && lb_same_address(flow->backend, backend))
			return flow;
	}
	return NULL;
}

static __always_inline struct lb_flow *lb_flow_from(struct lb_flows *flows, const __be32 *backend, __be16 port,
						    __u16 hairpin)
{
	return lb_flow_with(flows, backend, port, LB_FLOW_USED | LB_FLOW_HAIRPIN, LB_FLOW_USED | hairpin);
}

static __always_inline bool lb_flow_over(const struct lb_flow *flow)
{
	__u16 both = LB_FLOW_FIN_CLIENT | LB_FLOW_FIN_BACKEND;

	return (flow->flags & LB_FLOW_RESET) || (flow->flags & both) == both;
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

/* The place for a new flow: that of the same VIP, a free one, one that is over, or the one idle for longest. */
static __always_inline struct lb_flow *lb_flow_place(struct lb_flows *flows, const __be32 *vip, __be16 port,
						     __u32 now)
{
	struct lb_flow *best = &flows->flow[0];
	__u32 best_rank = 0;

	for (int i = 0; i < LB_FLOWS; i++) {
		struct lb_flow *flow = &flows->flow[i];
		__u32 rank;

		if (!(flow->flags & LB_FLOW_USED))
			rank = 0xfffffffe;
		else if (flow->vip_port == port && lb_same_address(flow->vip, vip))
			rank = 0xffffffff;
		else if (lb_flow_over(flow))
			rank = 0xfffffffd;
		else
			rank = (now - flow->seen) >> 1;
		if (rank >= best_rank) {
			best_rank = rank;
			best = flow;
		}
	}
	return best;
}

static __always_inline void lb_flow_track(struct lb_flow *flow, const struct lb_packet *p, bool from_client)
{
	__u32 now = bpf_jiffies64();
	__u16 flags = flow->flags;

	if (!from_client)
		flags |= LB_FLOW_REPLIED;
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
