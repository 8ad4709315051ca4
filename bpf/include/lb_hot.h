/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * What a CPU knows of flows to and from backends elsewhere, in front of lb_nat_flows. When flows are many, what a packet
 * costs is the memory that it touches: of the table three cache lines of 192 bytes, of which few are in the CPU's own
 * cache, here one that has four flows. What flows have in common (VIP, backend, way) lies apart, once:
 *
 *     address and port of client, port of node, kind, stamp | ... | ... | ...     a line: 16 bytes each
 *     kind: VIP, backend, address of this node, hop                               a line each, few
 *
 * Entries are compared whole, and are good for the stamp with which they were written. It is another one every second, so
 * that the table hears of flows that are in use and no hop is older than it may be; and when a place of the table is given
 * away before its time. Nothing else takes a place so soon: see lb_nat_gone(). A kind is not written over by
 * another one while its stamp is the present one, so no entry ever finds another kind than it was written with.
 *
 * Here are only packets that do not change what is known of their flow. IPv4: an entry of IPv6 would take three times the
 * memory, which is what this is to save.
 */
#ifndef LB_HOT_H
#define LB_HOT_H

#include "lb_nat.h"

#define LB_HOT_WAYS 4

/* Lines of a CPU, a power of two, less one; 0: none of all this. */
const volatile __u32 lb_hot_mask = 1;
/* Kinds of a CPU, likewise. */
const volatile __u32 lb_hot_kind_mask = 1;

struct lb_hot {
	__be32 client;
	__be16 client_port;
	__be16 nat_port;
	__u32 kind; /* index into lb_hot_kinds, and LB_HOT_ANSWER */
	__u32 stamp;
};

#define LB_HOT_ANSWER 0x80000000 /* from the backend */

struct lb_hot_line {
	struct lb_hot flow[LB_HOT_WAYS];
};

struct lb_hot_kind {
	__be32 vip;
	__be32 backend;
	__be32 source;
	__be16 vip_port;
	__be16 backend_port;
	__u32 backend_id;
	__u32 stamp;
	struct lb_hop hop;
	__u8 protocol;
	__u8 answers;
	__u8 spare[18];
};

/* hash % lines -> flows; programs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lb_hot_line);
} lb_hot_lines SEC(".maps");

/* hash % kinds, or the one beside it -> kind; programs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lb_hot_kind);
} lb_hot_kinds SEC(".maps");

/* Both parts of it only grow, so it never comes back to what it was. */
static __always_inline __u32 lb_hot_stamp(const struct lb_nat_epoch *epoch)
{
	return (bpf_jiffies64() >> lb_tick_shift) + *(volatile __u32 *)&epoch->freed;
}

/* Whether a packet's flow may be here. */
static __always_inline bool lb_hot_may(const struct lb_packet *p)
{
	return lb_hot_mask && p->ip4 &&
	       (p->protocol != IPPROTO_TCP ||
		(p->tcp_flags & (LB_TCP_SYN | LB_TCP_FIN | LB_TCP_RST | LB_TCP_ACK)) == LB_TCP_ACK);
}

static __always_inline struct lb_hot_line *lb_hot_line_of(const struct lb_packet *p)
{
	__u64 hash;
	__u32 at;

	hash = lb_nat_mix(lb_nat_seed ^ p->target[3],
			  (__u64)p->source[3] << 32 | (__u32)p->source_port << 16 | p->target_port);
	at = hash & lb_hot_mask;
	return bpf_map_lookup_elem(&lb_hot_lines, &at);
}

/* Whether the other end and all that flows of a kind share are the packet's, too. */
static __always_inline bool lb_hot_kind_of_packet(const struct lb_hot_kind *kind, const struct lb_packet *p, bool answers)
{
	if (kind->protocol != p->protocol)
		return false;
	if (answers)
		return kind->backend_port == p->source_port && kind->backend == p->source[3] &&
		       kind->source == p->target[3];
	return kind->vip_port == p->target_port && kind->vip == p->target[3];
}

static __always_inline struct lb_hot_kind *lb_hot_kind_at(__u32 kind)
{
	__u32 at = kind & lb_hot_kind_mask;

	return bpf_map_lookup_elem(&lb_hot_kinds, &at);
}

/* The flow that a packet belongs to. NULL: the table may know. */
static __always_inline struct lb_hot *lb_hot_find(const struct lb_packet *p, __u32 stamp, struct lb_hot_kind **kind)
{
	struct lb_hot_line *line = lb_hot_line_of(p);

	for (__u32 way = 0; way < LB_HOT_WAYS && line; way++) {
		struct lb_hot *hot = &line->flow[way];

		if (hot->stamp != stamp)
			continue;
		if (hot->kind & LB_HOT_ANSWER ? hot->nat_port != p->target_port :
						hot->client != p->source[3] || hot->client_port != p->source_port)
			continue;
		*kind = lb_hot_kind_at(hot->kind);
		if (*kind && lb_hot_kind_of_packet(*kind, p, hot->kind & LB_HOT_ANSWER))
			return hot;
	}
	return NULL;
}

static __always_inline bool lb_hot_kind_is(const struct lb_hot_kind *kind, const struct lb_nat_flow *flow,
					   const struct lb_hop *hop, bool answers)
{
	const __u32 *x = (const void *)&kind->hop, *y = (const void *)hop;

	return kind->vip == flow->vip[3] && kind->backend == flow->backend[3] && kind->source == flow->source[3] &&
	       kind->vip_port == flow->vip_port && kind->backend_port == flow->backend_port &&
	       kind->backend_id == flow->backend_id && kind->protocol == flow->protocol && kind->answers == answers &&
	       x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3] && x[4] == y[4];
}

/* Number of the flow's kind plus 1; 0 where there is no room for it this second. */
static __always_inline __u32 lb_hot_kind_of(const struct lb_nat_flow *flow, const struct lb_hop *hop, __u32 stamp,
					    bool answers)
{
	__u32 first = lb_nat_mix(lb_nat_mix(flow->vip[3], (__u64)flow->backend_id << 32 | flow->source[3]),
				 (__u64)hop->ifindex << 32 | *(__u32 *)(hop->macs + 2)) + answers;

	for (__u32 try = 0; try < 2; try++) {
		struct lb_hot_kind *kind = lb_hot_kind_at(first ^ try);

		if (!kind)
			return 0;
		if (kind->stamp != stamp) {
			kind->vip = flow->vip[3];
			kind->backend = flow->backend[3];
			kind->source = flow->source[3];
			kind->vip_port = flow->vip_port;
			kind->backend_port = flow->backend_port;
			kind->backend_id = flow->backend_id;
			kind->stamp = stamp;
			kind->hop = *hop;
			kind->protocol = flow->protocol;
			kind->answers = answers;
		}
		if (lb_hot_kind_is(kind, flow, hop, answers))
			return ((first ^ try) & lb_hot_kind_mask) + 1;
	}
	return 0;
}

/* Remembers a flow whose packet was just sent. A function by itself: about once a second for each flow. */
__noinline int lb_hot_keep(const struct lb_packet *p, __u32 number, __u32 stamp, bool answers)
{
	struct lb_nat_flow *flow = lb_nat_flow_at(number);
	struct lb_nat_epoch *epoch = lb_nat_epoch_now();
	struct lb_hot_line *line;
	struct lb_hop *hop;
	__u32 kind, at;

	if (!p || !flow || !epoch)
		return 0;
	/* Until then its packets say something about it, or anybody may have sent them. */
	if (!answers && !(flow->flags & (p->protocol == IPPROTO_TCP ? LB_NAT_CONFIRMED : LB_NAT_REPLIED)))
		return 0;
	hop = answers ? &flow->to_client : &flow->to_backend;
	line = lb_hot_line_of(p);
	if (!line || !lb_hop_is_fresh(hop))
		return 0;
	kind = lb_hot_kind_of(flow, hop, stamp, answers);
	if (!kind)
		return 0;
	/* Where all are in use, any one of them. */
	at = (number ^ flow->seen) & (LB_HOT_WAYS - 1);
	for (__u32 way = 0; way < LB_HOT_WAYS; way++)
		if (line->flow[way].stamp != stamp)
			at = way;
	line->flow[at].client = flow->client[3];
	line->flow[at].client_port = flow->client_port;
	line->flow[at].nat_port = flow->nat_port;
	line->flow[at].kind = (kind - 1) | (answers ? LB_HOT_ANSWER : 0);
	line->flow[at].stamp = stamp;
	if (epoch->kept != stamp)
		epoch->kept = stamp;
	return 1;
}

#endif
