/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* What becomes of a flow to a backend elsewhere: whether a packet goes on in it, what it says about it, and its end. */
#ifndef LB_NAT_H
#define LB_NAT_H

#include "lb_nat_claim.h"

struct lb_nat_epoch {
	__u32 freed; /* how often a place was given away before its time */
	__u32 kept; /* stamp of the last entry in lb_hot_lines: without this one, there are none that are good */
};

/* The only value: what makes entries of lb_hot_lines bad, see lb_hot.h; programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lb_nat_epoch);
} lb_nat_epoch SEC(".maps");

static __always_inline struct lb_nat_epoch *lb_nat_epoch_now(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&lb_nat_epoch, &only);
}

/* Gives the place of a client's flow back at once. */
static __always_inline void lb_nat_free(__u32 number, const struct lb_packet *p)
{
	struct lb_nat_head *head = lb_nat_head_at(number / LB_NAT_SLOTS);
	struct lb_nat_flow *flow = lb_nat_flow_at(number);
	__u32 slot = number % LB_NAT_SLOTS, word, seen;
	struct lb_nat_epoch *epoch = lb_nat_epoch_now();

	if (!head || !flow)
		return;
	word = head->word[slot];
	/* Not if it has passed to another flow meanwhile. */
	if ((word & LB_NAT_STATE) != LB_NAT_USED || !lb_nat_is_client(flow, p))
		return;
	seen = flow->seen;
	__sync_val_compare_and_swap(&head->word[slot], word, 0);
	if (epoch && (__u32)bpf_jiffies64() - seen <= LB_NAT_HURRY_S * lb_hz)
		__sync_fetch_and_add(&epoch->freed, 1);
}

/* Counts a packet for its backend. */
static __always_inline void lb_nat_count(const struct lb_nat_flow *flow, __u32 bytes)
{
	const struct lb_backend *backend;

	if (!lb_count_packets)
		return;
	backend = lb_backend_of(flow->backend_id);
	/* A flow may be older than what its backend's id stands for now. */
	if (backend && lb_is_backend(backend, flow->backend, flow->backend_port))
		lb_count_packet(flow->backend_id, bytes);
}

/* Notes what a packet says about its flow. */
static __always_inline void lb_nat_track(struct lb_nat_flow *flow, __u8 tcp_flags, bool from_client)
{
	__u32 now = bpf_jiffies64();
	__u16 flags = flow->flags;

	if (!from_client)
		flags |= LB_NAT_REPLIED;
	else if ((flags & LB_NAT_REPLIED) && (tcp_flags & (LB_TCP_SYN | LB_TCP_ACK)) == LB_TCP_ACK)
		flags |= LB_NAT_CONFIRMED;
	if (tcp_flags & LB_TCP_RST)
		flags |= LB_NAT_RESET;
	if (tcp_flags & LB_TCP_FIN)
		flags |= from_client ? LB_NAT_FIN_CLIENT : LB_NAT_FIN_BACKEND;
	/* Cache lines that do not change are not written; what becomes of a flow is a matter of seconds. */
	if (flags != flow->flags)
		flow->flags = flags;
	if (now - flow->seen > lb_hz / 8)
		flow->seen = now;
}

/* Whether a packet of the client goes on in this flow, as lb_flow_goes_on() has it. */
static __always_inline bool lb_nat_goes_on(const struct lb_nat_flow *flow, bool opens)
{
	struct lb_backend *backend;

	if (flow->protocol == IPPROTO_TCP && !opens)
		return true;
	if (lb_nat_over(flow))
		return false;
	backend = lb_backend_of(flow->backend_id);
	if (!backend || !lb_is_backend(backend, flow->backend, flow->backend_port))
		return false;
	return flow->protocol != IPPROTO_TCP || (backend->flags & (LB_B_CLUSTER | LB_B_LOCAL));
}

#endif
