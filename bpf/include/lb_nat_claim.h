/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * A place for a new flow to a backend elsewhere: a port of this node that no other flow has towards that backend. Nearly
 * always that is the first one that the client's address and port hash to, in level 0, and one function does it
 * (lb_nat_claim); where ports get few, or places at a port, another one looks at all that there is (lb_nat_claim_any).
 */
#ifndef LB_NAT_CLAIM_H
#define LB_NAT_CLAIM_H

#include "lb_nat_find.h"

#define LB_NAT_CROWDED 8 /* who needed more tries than these says so */

/*
 * Has the lines fetched that a new flow of this packet is going to need, while there is other work: they are some of very
 * many that nobody has used for a while.
 */
static __always_inline void lb_nat_fetch(const struct lb_packet *p)
{
	struct lb_nat_way way = lb_nat_way_of(p);
	struct lb_nat_head *head = bpf_map_lookup_elem(&lb_nat_heads, &way.first);

#pragma clang loop unroll(disable)
	for (__u32 slot = 0; slot < LB_NAT_SLOTS && head; slot++) {
		__u32 number = way.first * LB_NAT_SLOTS + slot;
		struct lb_nat_flow *flow = bpf_map_lookup_elem(&lb_nat_flows, &number);

		if (!flow)
			break;
		(void)*(volatile __u32 *)&flow->seen;
		(void)*(volatile __u16 *)&flow->flags;
		if (!(head->word[slot] & LB_NAT_STATE))
			break;
	}
}

/* What a new flow is made of beside the packet. */
struct lb_nat_wish {
	__be32 backend[4];
	__be32 source[4];
	__u32 backend_id;
	__u32 service;
	__be16 backend_port;
	__u8 protocol;
	__u8 pad;
};

/* Whether new flows may lie in a set. */
static __always_inline bool lb_nat_is_open(__u32 set)
{
	struct lb_nat_table *table;
	__u32 only = 0;

	if (set <= lb_nat_mask)
		return true;
	table = bpf_map_lookup_elem(&lb_nat_table, &only);
	return table && set - lb_nat_mask - 1 < table->open;
}

/*
 * Whether a further port may be taken. They are low enough to be those of Services, whose addresses may be this node's
 * (externalIPs, or where a load balancer has none of its own): the backend's node would take an answer to one for a new
 * client's packet. Servers of this node are no matter: who answers one of them is no backend that answers us.
 */
__noinline bool lb_nat_may(const struct lb_nat_wish *wish, __u32 port)
{
	struct lb_endpoint to;

	if (!wish || !lb_nat_more_base)
		return false;
	lb_endpoint_of(&to, wish->source, bpf_htons(port), wish->protocol);
	return !lb_frontend_of(&to);
}

#define LB_NAT_NONE LB_NAT_SLOTS /* no place */
#define LB_NAT_HELD (LB_NAT_SLOTS + 1) /* the port has a flow to this backend */
#define LB_NAT_SAME 16 /* the place is that of a flow to this backend which is gone */

/*
 * Whether a flow has the backend that is wished. Words alone do not tell: of 32 backends in one network two have the same
 * one in each third table. Of a place that is being filled nothing else is known.
 */
static __always_inline bool lb_nat_has(const struct lb_nat_flow *flow, const struct lb_nat_wish *wish, __u32 word)
{
	__u32 other = (flow->backend_port ^ wish->backend_port) | (flow->protocol ^ wish->protocol);

	for (int i = 0; i < 4; i++)
		other |= flow->backend[i] ^ wish->backend[i];
	return (word & LB_NAT_STATE) != LB_NAT_USED || !other;
}

/* Looks for a place in a set: which one in the low half, and its word in the high one. */
static __always_inline __u64 lb_nat_look_in(const struct lb_nat_head *head, const struct lb_nat_wish *wish, __u32 set,
					    __u32 word, __u32 now, bool hurry)
{
	__u32 old = 0, free = LB_NAT_NONE;

	for (__u32 slot = 0; slot < LB_NAT_SLOTS; slot++) {
		__u32 there = head->word[slot];
		struct lb_nat_flow *flow;
		bool same, gone;

		if (!(there & LB_NAT_STATE)) {
			if (free == LB_NAT_NONE) {
				free = slot;
				old = there;
			}
			continue;
		}
		same = ((there ^ word) & LB_NAT_BACK) == 0;
		/* Not looked at without need: each flow is two cache lines that nobody has used for a while. */
		if (!same && free != LB_NAT_NONE)
			continue;
		flow = lb_nat_flow_at(set * LB_NAT_SLOTS + slot);
		if (!flow)
			return LB_NAT_HELD;
		if (same && !lb_nat_has(flow, wish, there)) {
			if (free != LB_NAT_NONE)
				continue;
			same = false;
		}
		gone = (there & LB_NAT_STATE) == LB_NAT_USED && lb_nat_gone(flow, now, hurry);
		if (same)
			return gone ? (__u64)there << 32 | LB_NAT_SAME | slot : LB_NAT_HELD;
		if (!gone)
			continue;
		free = slot;
		old = there;
	}
	return (__u64)old << 32 | free;
}

__noinline __u64 lb_nat_look(const struct lb_nat_wish *wish, __u32 set, __u32 word, bool hurry)
{
	const struct lb_nat_head *head = lb_nat_head_at(set);

	return wish && head ? lb_nat_look_in(head, wish, set, word, bpf_jiffies64(), hurry) : LB_NAT_NONE;
}

/* Whether somebody else in a set holds, or is about to take, the port towards the same backend, and goes first. */
static __always_inline bool lb_nat_clashes(const struct lb_nat_head *head, const struct lb_nat_wish *wish, __u32 set,
					   __u32 word, __u32 mine)
{
	for (__u32 slot = 0; slot < LB_NAT_SLOTS; slot++) {
		__u32 there = head->word[slot], number = set * LB_NAT_SLOTS + slot;
		struct lb_nat_flow *flow;

		if (number == mine || !(there & LB_NAT_STATE) || ((there ^ word) & LB_NAT_BACK))
			continue;
		flow = lb_nat_flow_at(number);
		if (flow && !lb_nat_has(flow, wish, there))
			continue;
		if ((there & LB_NAT_STATE) == LB_NAT_USED || number < mine)
			return true;
	}
	return false;
}

__noinline bool lb_nat_clashes_in(const struct lb_nat_wish *wish, __u32 set, __u32 word, __u32 mine)
{
	const struct lb_nat_head *head = lb_nat_head_at(set);

	return wish && head && lb_nat_clashes(head, wish, set, word, mine);
}

/* The same in all levels of a port. */
__noinline bool lb_nat_clashes_any(const struct lb_nat_wish *wish, __u32 place, __u32 word, __u32 mine)
{
	const struct lb_nat_head *head = lb_nat_head_at(place);
	__u32 levels;

	if (!wish || !head || lb_nat_clashes_in(wish, place, word, mine))
		return true;
	levels = *(const volatile __u32 *)&head->tried >> LB_NAT_ALL_TRIES;
	for (__u32 level = 1; level <= LB_NAT_LEVELS; level++)
		if ((levels >> (level - 1) & 1) && lb_nat_clashes_in(wish, place + level * LB_NAT_PLACES, word, mine))
			return true;
	return false;
}

/* Makes a place in any level one's own: its word, if it is still the old one. */
__noinline bool lb_nat_seize(__u32 place, __u32 number, __u32 old, __u32 word)
{
	struct lb_nat_head *base = lb_nat_head_at(place), *head = lb_nat_head_at(number / LB_NAT_SLOTS);
	__u32 slot = number % LB_NAT_SLOTS, level = number / LB_NAT_SLOTS / LB_NAT_PLACES;

	if (!base || !head)
		return false;
	/* Before the place is taken: who looks at the port afterwards looks there, too. */
	if (level && level <= LB_NAT_LEVELS && !(base->tried >> (LB_NAT_ALL_TRIES - 1 + level) & 1))
		__sync_fetch_and_or(&base->tried, 1U << (LB_NAT_ALL_TRIES - 1 + level));
	return __sync_val_compare_and_swap(&head->word[slot], old, LB_NAT_PENDING | word) == old;
}

/* Writes a flow into a place that was seized, and shows it to everybody. */
static __always_inline void lb_nat_fill(struct lb_nat_flow *flow, struct lb_nat_head *home, __u32 *there, __u32 word,
					const struct lb_packet *p, const struct lb_nat_wish *wish, __u32 try, __u32 port,
					__u32 now)
{
	lb_copy_address(flow->client, p->source);
	lb_copy_address(flow->vip, p->target);
	lb_copy_address(flow->backend, wish->backend);
	lb_copy_address(flow->source, wish->source);
	flow->client_port = p->source_port;
	flow->vip_port = p->target_port;
	flow->backend_port = wish->backend_port;
	flow->nat_port = bpf_htons(port);
	flow->backend_id = wish->backend_id;
	flow->service = wish->service;
	flow->protocol = wish->protocol;
	flow->flags = 0;
	flow->seen = now;
	flow->to_backend.ifindex = 0;
	flow->to_client.ifindex = 0;
	if (try)
		__sync_fetch_and_or(&home->tried, 1U << try);
	/* A locked operation would wait until both lines of the flow have come. */
	asm volatile("" ::: "memory");
	if (lb_stores_in_order)
		*(volatile __u32 *)there = LB_NAT_USED | word;
	else
		__sync_val_compare_and_swap(there, LB_NAT_PENDING | word, LB_NAT_USED | word);
}

/*
 * Takes a place at one port, if the port is free towards the backend. Two CPUs may try at once: a place belongs to
 * who changes its word, and of two that claim the same port for one backend the lower place stays. Returns the number
 * of the flow plus 1; 0 when the port is taken or full.
 */
__noinline __u32 lb_nat_claim_any(const struct lb_packet *p, const struct lb_nat_wish *wish, __u32 try, bool hurry)
{
	__u32 word, place, port, levels, number = 0, old = 0;
	struct lb_nat_head *head, *home;
	struct lb_nat_flow *flow;
	struct lb_nat_way way;
	bool found = false;

	if (!p || !wish)
		return 0;
	way = lb_nat_way_of(p);
	place = lb_nat_place(&way, try);
	head = lb_nat_head_at(place);
	home = bpf_map_lookup_elem(&lb_nat_heads, &way.first);
	if (!head || !home || !lb_nat_is_open(place))
		return 0;
	if (try < LB_NAT_TRIES) {
		port = lb_nat_base + ((place - lb_nat_base) & lb_nat_mask);
	} else {
		port = lb_nat_more_base + ((place - lb_nat_mask - 1 - lb_nat_more_base) & LB_NAT_MORE_MASK);
		if (!lb_nat_may(wish, port))
			return 0;
	}
	word = way.front | lb_nat_back(wish->backend, wish->backend_port, wish->protocol);
	levels = head->tried >> LB_NAT_ALL_TRIES << 1 | 1;
	for (__u32 level = 0; level <= LB_NAT_LEVELS; level++) {
		__u32 set = place + level * LB_NAT_PLACES, slot;
		__u64 seen;

		/* A level without flows of this port is looked at for a place only, by who has none yet. */
		if (!(levels >> level & 1) && (found || !lb_nat_is_open(set)))
			continue;
		seen = lb_nat_look(wish, set, word, hurry);
		slot = (__u32)seen;
		if (slot == LB_NAT_HELD)
			return 0;
		if (slot & LB_NAT_SAME || (slot < LB_NAT_SLOTS && !found && lb_nat_is_open(set))) {
			found = true;
			number = set * LB_NAT_SLOTS + slot % LB_NAT_SLOTS;
			old = seen >> 32;
		}
		if (slot & LB_NAT_SAME)
			break;
	}
	flow = found ? lb_nat_flow_at(number) : NULL;
	head = found ? lb_nat_head_at(number / LB_NAT_SLOTS) : NULL;
	if (!flow || !head || !lb_nat_seize(place, number, old, word))
		return 0;
	if (lb_nat_clashes_any(wish, place, word, number)) {
		head->word[number % LB_NAT_SLOTS] = 0;
		return 0;
	}
	lb_nat_fill(flow, home, &head->word[number % LB_NAT_SLOTS], word, p, wish, try, port, bpf_jiffies64());
	return number + 1;
}

#define LB_NAT_ELSEWHERE 0xffffffff /* the port has, or may have, flows in other levels */

/* The same for a port of the range while all its flows lie in level 0, as nearly always: in one function, see above. */
__noinline __u32 lb_nat_claim(const struct lb_packet *p, const struct lb_nat_wish *wish, __u32 try, bool hurry)
{
	__u32 now = bpf_jiffies64(), word, place, slot, number;
	struct lb_nat_head *head, *home;
	struct lb_nat_flow *flow;
	struct lb_nat_way way;
	__u64 seen;

	if (!p || !wish || try >= LB_NAT_TRIES)
		return LB_NAT_ELSEWHERE;
	way = lb_nat_way_of(p);
	place = lb_nat_place(&way, try);
	word = way.front | lb_nat_back(wish->backend, wish->backend_port, wish->protocol);
	head = bpf_map_lookup_elem(&lb_nat_heads, &place);
	home = bpf_map_lookup_elem(&lb_nat_heads, &way.first);
	if (!head || !home)
		return 0;
	if (head->tried >> LB_NAT_ALL_TRIES)
		return LB_NAT_ELSEWHERE;
	seen = lb_nat_look_in(head, wish, place, word, now, hurry);
	slot = (__u32)seen;
	if (slot == LB_NAT_HELD)
		return 0;
	if (slot == LB_NAT_NONE)
		return lb_nat_is_open(place + LB_NAT_PLACES) ? LB_NAT_ELSEWHERE : 0;
	slot %= LB_NAT_SLOTS;
	number = place * LB_NAT_SLOTS + slot;
	flow = bpf_map_lookup_elem(&lb_nat_flows, &number);
	if (!flow ||
	    __sync_val_compare_and_swap(&head->word[slot], seen >> 32, LB_NAT_PENDING | word) != (__u32)(seen >> 32))
		return 0;
	if (lb_nat_clashes(head, wish, place, word, number) ||
	    *(volatile __u32 *)&head->tried >> LB_NAT_ALL_TRIES) {
		head->word[slot] = 0;
		return 0;
	}
	lb_nat_fill(flow, home, &head->word[slot], word, p, wish, try,
		    lb_nat_base + ((place - lb_nat_base) & lb_nat_mask), now);
	return number + 1;
}

/* So nobody has to look at the table while nothing happens: a word each `step` + 1 times, see lb_flow_count_taken(). */
static __always_inline void lb_nat_count_use(__u32 use, __u32 step)
{
	__u64 *count = bpf_map_lookup_elem(&lb_nat_use, &use);
	__u32 word = LB_NEWS_TAKEN;

	if (!count)
		return;
	*count += 1;
	if (!(*count & step))
		bpf_ringbuf_output(&lb_flow_news, &word, sizeof(word), 0);
}

/* Takes a place for a new flow. Returns its number plus 1; 0 when all its ports are taken. */
static __always_inline __u32 lb_nat_open(const struct lb_packet *p, const struct lb_nat_wish *wish)
{
	__u32 number = 0, try;

	for (try = 0; try < 2 * LB_NAT_ALL_TRIES && !number; try++) {
		number = lb_nat_claim(p, wish, try % LB_NAT_ALL_TRIES, try >= LB_NAT_ALL_TRIES);
		if (number == LB_NAT_ELSEWHERE)
			number = lb_nat_claim_any(p, wish, try % LB_NAT_ALL_TRIES, try >= LB_NAT_ALL_TRIES);
	}
	if (number)
		lb_nat_count_use(LB_NAT_TAKEN, lb_nat_step);
	if (try > LB_NAT_CROWDED)
		lb_nat_count_use(LB_NAT_CROWD, LB_NAT_CROWD_STEP);
	return number;
}

#endif
