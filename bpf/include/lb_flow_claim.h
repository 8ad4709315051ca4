/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Places of the table of flows (lb_flow_table.h): which one a new flow gets, and how one is given back. */
#ifndef LB_FLOW_CLAIM_H
#define LB_FLOW_CLAIM_H

#include "lb_flow_table.h"

/* A power of two less one. */
const volatile __u32 lb_flow_step = 1023;

/*
 * How little is lost when a place is taken in a hurry, because all others are in use: 0 for nothing doing. A handshake
 * that is not complete goes first, however young: its client repeats itself. A question that was answered once has
 * its answer by then; one that was not has time to get it.
 */
__noinline __u32 lb_flow_worthless(__u32 number, __u32 now)
{
	struct lb_flow *flow = lb_flow_at(number);
	__u32 idle;

	if (!flow)
		return 0;
	idle = now - flow->seen;

	/* Being filled, or emptied. */
	if (!(flow->flags & LB_FLOW_USED))
		return idle > 60 * lb_hz;
	if (lb_flow_gone(flow, now) || (lb_flow_over(flow) && idle > 2 * lb_hz))
		return 0xffffffff;
	if (flow->flags & LB_FLOW_CONFIRMED || lb_flow_over(flow))
		return 0;
	if (!(flow->flags & LB_FLOW_UDP))
		return 0x80000000 + (idle >> 1);
	return idle > (flow->flags & LB_FLOW_REPLIED ? 3 : 15) * lb_hz ? idle >> 1 : 0;
}

/* Takes a free place of a set, or with `hurry` the least worth. Returns the number of the flow plus 1, 0 for none. */
__noinline __u32 lb_flow_take(__u32 place, __u32 tag, bool hurry)
{
	struct lb_flow_set *set = lb_flow_set_at(place);
	__u32 now = bpf_jiffies64(), best = 0, old = 0, slot = LB_FLOW_SLOTS;

	if (!set)
		return 0;
	for (__u32 at = 0; at < LB_FLOW_SLOTS; at++) {
		__u32 there = set->tag[at], rank;

		if (!hurry) {
			if (there)
				continue;
			slot = at;
			break;
		}
		rank = there ? lb_flow_worthless(place * LB_FLOW_SLOTS + at, now) : 0xffffffff;
		if (rank > best) {
			best = rank;
			old = there;
			slot = at;
		}
	}
	if (slot >= LB_FLOW_SLOTS)
		return 0;
	if (__sync_val_compare_and_swap(&set->tag[slot], old, tag) != old)
		return 0;
	/* While it is filled, nobody may take it for an other one. */
	set->flow[slot].flags = 0;
	set->flow[slot].seen = now;
	return place * LB_FLOW_SLOTS + slot + 1;
}

static __always_inline void lb_flow_count_use(__u32 use)
{
	__u64 *count = bpf_map_lookup_elem(&lb_flow_use, &use);

	if (count)
		*count += 1;
}

/*
 * So nobody has to look at the table while nothing happens. Who does not read yet is woken once: the kernel wakes for
 * the first record only that a reader has not had, and a full ring takes no more.
 */
static __always_inline void lb_flow_count_taken(void)
{
	__u32 use = LB_FLOW_TAKEN, word = LB_NEWS_TAKEN;
	__u64 *count = bpf_map_lookup_elem(&lb_flow_use, &use);

	if (!count)
		return;
	*count += 1;
	if (!(*count & lb_flow_step))
		bpf_ringbuf_output(&lb_flow_news, &word, sizeof(word), 0);
}

/* A place for a new flow of this client. Returns its number plus 1; 0 when there is none. */
__noinline __u32 lb_flow_claim(const struct lb_flow_name *name)
{
	struct lb_flow_table *table = lb_flow_table_now();
	struct lb_flow_set *home;
	__u32 tag, mask;

	if (!name || !table)
		return 0;
	tag = lb_flow_tag(table->seed, name);
	mask = table->mask;
	for (__u32 try = 0; try < 2 * LB_FLOW_TRIES; try++) {
		__u32 nth = try % LB_FLOW_TRIES;
		__u32 number = lb_flow_take(lb_flow_nth(tag, nth) & mask, tag, try >= LB_FLOW_TRIES);

		if (!number) {
			if (!try)
				lb_flow_count_use(LB_FLOW_CROWDED);
			continue;
		}
		if (nth) {
			home = lb_flow_set_at(tag & ~LB_FLOW_TAG & mask);
			if (home && !(home->tried >> nth & 1))
				__sync_fetch_and_or(&home->tried, 1U << nth);
		}
		lb_flow_count_taken();
		return number;
	}
	return 0;
}

/* Gives a place back. */
static __always_inline void lb_flow_drop(__u32 number)
{
	struct lb_flow_set *set = lb_flow_set_at(number / LB_FLOW_SLOTS);
	__u32 slot = number % LB_FLOW_SLOTS, tag;

	if (!set)
		return;
	tag = set->tag[slot];
	set->flow[slot].flags = 0;
	if (tag)
		__sync_val_compare_and_swap(&set->tag[slot], tag, 0);
}

#endif
