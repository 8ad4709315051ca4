// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * The agent's hands in the tables of flows, by test runs: what changes places while packets come has to be done as the
 * packet programs do it. Never attached. What is asked stands in the packet, and the answer too.
 */
#include "include/lb_nat_find.h"

/* Asked of lb_flow_sweep: a chunk. Answered: what is in it. */
struct lb_flow_sweep {
	__u32 chunk;
	__u32 used; /* places in use */
	__u32 confirmed; /* flows whose client is no forged source */
	__u32 datagrams; /* flows of UDP that are not confirmed */
	__u32 freed; /* places given back just now */
	__u32 unsettled; /* sets with flows in the sets that they were split from */
};

enum lb_flow_task {
	LB_FLOW_SHOW, /* the flow to this frontend; flags 0 for none */
	LB_FLOW_PUT, /* this flow, beside others or into the one with the same frontend and backend */
	LB_FLOW_CUT, /* the flow to this frontend goes */
};

struct lb_flow_edit {
	__u32 task;
	__u32 done;
	__u32 now; /* jiffies */
	__u32 pad;
	struct lb_flow flow;
};

/* Asked of lb_nat_sweep: from which set on it is to look at LB_CHUNK sets. Answered: what is in them. */
struct lb_nat_sweep {
	__u32 first;
	__u32 sets; /* that there are; none beyond them is looked at */
	__u32 levels; /* beyond the first one, that ports may go on to name as having flows in */
	__u32 used; /* places in use */
	__u32 confirmed; /* flows of TCP whose client is no forged source, and that are not over */
	__u32 datagrams; /* flows of UDP */
	__u32 freed; /* places given back just now */
	__u32 pad;
};

/* Read by nobody: keeps the structures in this object's BTF, as in lb_pod.bpf.c. */
const volatile struct lb_flow_layout {
	struct lb_flow_sweep sweep;
	struct lb_flow_edit edit;
	struct lb_nat_sweep nat_sweep;
	struct lb_nat_set nat_set;
	struct lb_nat_table nat_table;
} lb_flow_layout = {};

/*
 * Whether a set holds flows that belong to another one that was split from it, or to one that was split from that since:
 * a search for these goes on no further than to a set that is settled. Also which tries it names.
 */
__noinline __u32 lb_flow_holds(__u32 parent, __u32 place)
{
	struct lb_flow_set *set = lb_flow_set_at(parent);
	__u32 bits = lb_flow_bits(place);

	if (!set)
		return 0;
	for (__u32 slot = 0; slot < LB_FLOW_SLOTS; slot++) {
		__u32 tag = set->tag[slot];

		for (__u32 try = 0; tag && try < LB_FLOW_TRIES; try++)
			if ((lb_flow_nth(tag, try) & bits) == place)
				return 0x80000000;
	}
	return set->tried;
}

/* Notes when a set has nothing left in those that it was split from. Returns whether it has. */
static __always_inline bool lb_flow_settle(struct lb_flow_set *set, const struct lb_flow_table *table, __u32 place)
{
	__u32 parent = place, tried = 0;

	if (set->settled || place < table->first)
		return false;
	for (__u32 level = 0; level < LB_FLOW_LEVELS; level++) {
		parent = lb_flow_parent(parent);
		tried |= lb_flow_holds(parent, place);
		if (parent < table->first)
			break;
	}
	if (tried & 0x80000000)
		return true;
	if (tried & ~set->tried)
		__sync_fetch_and_or(&set->tried, tried);
	set->settled = 1;
	return false;
}

/*
 * Gives a place back whose flow is gone. Returns a byte each: used, confirmed, datagrams, freed. A function by itself, for
 * the verifier of Linux 6.1 goes on with each sum that a loop can come to, where it knows it.
 */
__noinline __u64 lb_flow_sweep_slot(__u32 place, __u32 slot)
{
	struct lb_flow_set *set = lb_flow_set_at(place);
	__u32 now = bpf_jiffies64(), tag;
	struct lb_flow *flow;

	if (!set || slot >= LB_FLOW_SLOTS)
		return 0;
	flow = &set->flow[slot];
	tag = set->tag[slot];
	if (!tag)
		return 0;
	/* One that is being filled has been so for a moment, but for a program that ended in the middle. */
	if (flow->flags & LB_FLOW_USED ? lb_flow_gone(flow, now) : now - flow->seen > 60 * lb_hz)
		return __sync_val_compare_and_swap(&set->tag[slot], tag, 0) == tag ? 1ULL << 24 : 0;
	if (flow->flags & LB_FLOW_CONFIRMED)
		return 1 + (1ULL << 8);
	return flow->flags & LB_FLOW_UDP ? 1 + (1ULL << 16) : 1;
}

/* The same of a whole set, and whether it is unsettled above that. */
__noinline __u64 lb_flow_sweep_set(__u32 place)
{
	struct lb_flow_table *table = lb_flow_table_now();
	struct lb_flow_set *set = lb_flow_set_at(place);
	__u64 counts = 0;

	if (!set || !table)
		return 0;
	for (__u32 slot = 0; slot < LB_FLOW_SLOTS; slot++)
		if (set->tag[slot])
			counts += lb_flow_sweep_slot(place, slot);
	if (lb_flow_settle(set, table, place))
		counts += 1ULL << 32;
	return counts;
}

SEC("tcx/ingress")
int lb_flow_sweep(struct __sk_buff *skb)
{
	struct lb_flow_sweep sweep;

	if (bpf_skb_load_bytes(skb, 0, &sweep, sizeof(sweep)))
		return 1;
	sweep.used = sweep.confirmed = sweep.datagrams = sweep.freed = sweep.unsettled = 0;
	for (__u32 at = 0; at < LB_CHUNK; at++) {
		__u64 counts = lb_flow_sweep_set(sweep.chunk * LB_CHUNK + at);

		sweep.used += counts & 0xff;
		sweep.confirmed += counts >> 8 & 0xff;
		sweep.datagrams += counts >> 16 & 0xff;
		sweep.freed += counts >> 24 & 0xff;
		sweep.unsettled += counts >> 32 & 0xff;
	}
	return bpf_skb_store_bytes(skb, 0, &sweep, sizeof(sweep), 0) ? 1 : 0;
}

SEC("tcx/ingress")
int lb_flow_edit(struct __sk_buff *skb)
{
	struct lb_flow_edit edit;
	struct lb_flow_name name;
	struct lb_flow *flow;
	__u32 number;

	if (bpf_skb_load_bytes(skb, 0, &edit, sizeof(edit)))
		return 1;
	lb_flow_name_of(&name, edit.flow.client, edit.flow.client_port, edit.flow.vip, edit.flow.vip_port,
			edit.flow.flags & LB_FLOW_UDP ? IPPROTO_UDP : IPPROTO_TCP);
	number = lb_flow_find(&name);
	flow = number ? lb_flow_at(number - 1) : NULL;
	edit.now = bpf_jiffies64();
	edit.done = flow != NULL;
	if (edit.task == LB_FLOW_SHOW) {
		if (flow)
			edit.flow = *flow;
	} else if (edit.task == LB_FLOW_CUT) {
		if (flow)
			lb_flow_drop(number - 1);
	} else if (flow && flow->backend_port == edit.flow.backend_port &&
		   lb_same_address(flow->backend, edit.flow.backend)) {
		flow->flags |= edit.flow.flags;
	} else {
		number = lb_flow_claim(&name);
		flow = number ? lb_flow_at(number - 1) : NULL;
		edit.done = flow != NULL;
		if (flow) {
			__u16 flags = edit.flow.flags;

			edit.flow.flags = 0;
			*flow = edit.flow;
			flow->flags = flags;
		}
	}
	return bpf_skb_store_bytes(skb, 0, &edit, sizeof(edit), 0) ? 1 : 0;
}

/* As lb_flow_sweep_slot(). One that is being filled may stay so when its program ends in the middle, as it always did. */
__noinline __u64 lb_nat_sweep_slot(__u32 set, __u32 slot)
{
	struct lb_nat_head *head = lb_nat_head_at(set);
	__u32 now = bpf_jiffies64(), word;
	struct lb_nat_flow *flow;

	if (!head || slot >= LB_NAT_SLOTS)
		return 0;
	flow = lb_nat_flow_at(set * LB_NAT_SLOTS + slot);
	word = head->word[slot];
	if (!flow || !(word & LB_NAT_STATE))
		return 0;
	if ((word & LB_NAT_STATE) != LB_NAT_USED)
		return 1;
	if (lb_nat_gone(flow, now, false))
		return __sync_val_compare_and_swap(&head->word[slot], word, 0) == word ? 1ULL << 24 : 1;
	if (flow->protocol != IPPROTO_TCP)
		return 1 + (1ULL << 16);
	return (flow->flags & LB_NAT_CONFIRMED) && !lb_nat_over(flow) ? 1 + (1ULL << 8) : 1;
}

/* The same of a whole set, whose port forgets levels that are to be named no more. */
__noinline __u64 lb_nat_sweep_set(__u32 set, __u32 levels)
{
	struct lb_nat_head *head = lb_nat_head_at(set);
	__u32 kept = (1U << LB_NAT_ALL_TRIES << (levels & 31)) - 1;
	__u64 counts = 0;

	if (!head)
		return 0;
	if (set < LB_NAT_PLACES && levels < LB_NAT_LEVELS && (head->tried & ~kept))
		__sync_fetch_and_and(&head->tried, kept);
	for (__u32 slot = 0; slot < LB_NAT_SLOTS; slot++)
		if (head->word[slot] & LB_NAT_STATE)
			counts += lb_nat_sweep_slot(set, slot);
	return counts;
}

SEC("tcx/ingress")
int lb_nat_sweep(struct __sk_buff *skb)
{
	struct lb_nat_sweep sweep;

	if (bpf_skb_load_bytes(skb, 0, &sweep, sizeof(sweep)))
		return 1;
	sweep.used = sweep.confirmed = sweep.datagrams = sweep.freed = 0;
	for (__u32 at = 0; at < LB_CHUNK; at++) {
		__u64 counts;

		if (sweep.first + at >= sweep.sets)
			break;
		counts = lb_nat_sweep_set(sweep.first + at, sweep.levels);
		sweep.used += counts & 0xff;
		sweep.confirmed += counts >> 8 & 0xff;
		sweep.datagrams += counts >> 16 & 0xff;
		sweep.freed += counts >> 24 & 0xff;
	}
	return bpf_skb_store_bytes(skb, 0, &sweep, sizeof(sweep), 0) ? 1 : 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
