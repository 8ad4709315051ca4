/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Looking for flows in the table of those to backends on other nodes (lb_nat_table.h), from either side. */
#ifndef LB_NAT_FIND_H
#define LB_NAT_FIND_H

#include "lb_nat_table.h"

static __always_inline __u64 lb_nat_mix(__u64 hash, __u64 word)
{
	/* A factor carries upwards only, and neighbouring clients differ in the highest byte: hence two of them. */
	hash = (hash ^ word) * 0x9fb21c651e98df25ULL;
	hash = (hash ^ hash >> 32) * 0xd6e8feb86659fd93ULL;
	return hash ^ hash >> 32;
}

static __always_inline __u64 lb_nat_hash(__u64 hash, const __be32 *address, __be16 port)
{
	hash = lb_nat_mix(hash, (__u64)address[3] << 32 | port);
	/* In IPv4 the rest is always the same. */
	if (!lb_is_ip4(address))
		hash = lb_nat_mix(lb_nat_mix(hash, (__u64)address[0] << 32 | address[1]), address[2]);
	return hash;
}

/* The bits of a word that stand for a backend. */
static __always_inline __u32 lb_nat_back(const __be32 *backend, __be16 port, __u8 protocol)
{
	return lb_nat_hash(lb_nat_seed + protocol, backend, port) >> 20 & LB_NAT_BACK;
}

/* Where flows of a client port may lie. */
struct lb_nat_way {
	__u32 first; /* port % entries */
	__u32 more; /* the first of the further ports, to be cut likewise */
	__u32 step;
	__u32 front; /* the bits of a word that stand for client and VIP */
};

static __always_inline struct lb_nat_way lb_nat_way_of(const struct lb_packet *p)
{
	__u64 client = lb_nat_hash(lb_nat_seed - p->protocol, p->source, p->source_port);
	__u64 whole = lb_nat_hash(client, p->target, p->target_port);
	__u32 port = bpf_ntohs(p->source_port);
	struct lb_nat_way way;

	/* The client's own port where it may be kept. */
	way.first = port - lb_nat_base <= lb_nat_mask ? port : (__u32)client;
	way.first &= lb_nat_mask;
	way.more = (__u32)(client >> 16);
	way.step = (__u32)(client >> 40) | 1;
	way.front = (__u32)(whole >> 20) << 15 & LB_NAT_FRONT;
	return way;
}

/* The further ports, less one: a power of two less one. */
#define LB_NAT_MORE_MASK (lb_nat_mask >> 1)
/* Sets of a level. */
#define LB_NAT_PLACES (lb_nat_mask + 1 + ((lb_nat_mask + 1) >> 1))

/* The set of a port in level 0. */
static __always_inline __u32 lb_nat_place(const struct lb_nat_way *way, __u32 try)
{
	if (try < LB_NAT_TRIES)
		return (way->first + try * way->step) & lb_nat_mask;
	return lb_nat_mask + 1 + ((way->more + try * way->step) & LB_NAT_MORE_MASK);
}

static __always_inline struct lb_nat_set *lb_nat_set_at(__u32 set)
{
	__u32 after = set - lb_nat_mask - 1, chunk = after >> LB_CHUNK_BITS, at = after & (LB_CHUNK - 1);
	void *map = bpf_map_lookup_elem(&lb_nat_more, &chunk);

	return map ? bpf_map_lookup_elem(map, &at) : NULL;
}

static __always_inline struct lb_nat_head *lb_nat_head_at(__u32 set)
{
	struct lb_nat_set *more;

	if (set <= lb_nat_mask)
		return bpf_map_lookup_elem(&lb_nat_heads, &set);
	more = lb_nat_set_at(set);
	return more ? &more->head : NULL;
}

static __always_inline struct lb_nat_flow *lb_nat_flow_at(__u32 number)
{
	struct lb_nat_set *more;

	if (number / LB_NAT_SLOTS <= lb_nat_mask)
		return bpf_map_lookup_elem(&lb_nat_flows, &number);
	more = lb_nat_set_at(number / LB_NAT_SLOTS);
	return more ? &more->flow[number % LB_NAT_SLOTS] : NULL;
}

static __always_inline bool lb_nat_is_client(const struct lb_nat_flow *flow, const struct lb_packet *p)
{
	return flow->client_port == p->source_port && flow->vip_port == p->target_port &&
	       flow->protocol == p->protocol && lb_same_address(flow->client, p->source) &&
	       lb_same_address(flow->vip, p->target);
}

static __always_inline bool lb_nat_is_backend(const struct lb_nat_flow *flow, const struct lb_packet *p)
{
	return flow->backend_port == p->source_port && flow->nat_port == p->target_port &&
	       flow->protocol == p->protocol && lb_same_address(flow->backend, p->source) &&
	       lb_same_address(flow->source, p->target);
}

/*
 * Looks through a set: number of the flow plus 1, 0 for none. `wanted`: its word without the other half. Of the packet's
 * client, or of the backend that answers with it.
 */
static __always_inline __u32 lb_nat_seek(const struct lb_packet *p, __u32 set, const struct lb_nat_head *head,
					 __u32 wanted, bool answers)
{
	__u32 mask = LB_NAT_STATE | (answers ? LB_NAT_BACK : LB_NAT_FRONT);

	for (__u32 slot = 0; slot < LB_NAT_SLOTS; slot++) {
		struct lb_nat_flow *flow;

		if ((head->word[slot] & mask) != wanted)
			continue;
		flow = lb_nat_flow_at(set * LB_NAT_SLOTS + slot);
		if (flow && (answers ? lb_nat_is_backend(flow, p) : lb_nat_is_client(flow, p)))
			return set * LB_NAT_SLOTS + slot + 1;
	}
	return 0;
}

/* The same, of any set: none where it is not there. */
__noinline __u32 lb_nat_seek_in(const struct lb_packet *p, __u32 set, __u32 wanted, bool answers)
{
	const struct lb_nat_head *head = lb_nat_head_at(set);

	return p && head ? lb_nat_seek(p, set, head, wanted, answers) : 0;
}

/*
 * Looks through the levels of a port that have a bit. A function by itself, as others are here, for the
 * verifier walks through each of them once.
 */
__noinline __u32 lb_nat_climb(const struct lb_packet *p, __u32 place, __u32 levels, __u32 wanted, bool answers)
{
	if (!p)
		return 0;
	for (__u32 level = 1; level <= LB_NAT_LEVELS; level++) {
		__u32 number;

		if (!(levels >> (level - 1) & 1))
			continue;
		number = lb_nat_seek_in(p, place + level * LB_NAT_PLACES, wanted, answers);
		if (number)
			return number;
	}
	return 0;
}

/* Number of a client's flow plus 1; 0 for none. */
__noinline __u32 lb_nat_find(const struct lb_packet *p)
{
	struct lb_nat_head *home;
	struct lb_nat_way way;
	__u32 tried;

	if (!p)
		return 0;
	way = lb_nat_way_of(p);
	home = bpf_map_lookup_elem(&lb_nat_heads, &way.first);
	if (!home)
		return 0;
	tried = (home->tried & ((1U << LB_NAT_ALL_TRIES) - 1)) | 1;
	for (__u32 try = 0; try < LB_NAT_ALL_TRIES; try++) {
		struct lb_nat_head *head;
		__u32 place, number;

		if (!(tried >> try & 1))
			continue;
		place = lb_nat_place(&way, try);
		number = lb_nat_seek_in(p, place, LB_NAT_USED | way.front, false);
		if (number)
			return number;
		head = lb_nat_head_at(place);
		if (head && head->tried >> LB_NAT_ALL_TRIES)
			number = lb_nat_climb(p, place, head->tried >> LB_NAT_ALL_TRIES, LB_NAT_USED | way.front,
					      false);
		if (number)
			return number;
		if (tried < 2U << try)
			return 0;
	}
	return 0;
}

/*
 * The same without a call where it lies at the first place, or nowhere, as nearly all do: where the kernel keeps returns
 * from being guessed (SRSO, retbleed), each costs as much as a guess that was wrong.
 */
static __always_inline __u32 lb_nat_find_soon(const struct lb_packet *p)
{
	struct lb_nat_way way = lb_nat_way_of(p);
	struct lb_nat_head *head = bpf_map_lookup_elem(&lb_nat_heads, &way.first);
	__u32 wanted = LB_NAT_USED | way.front, found = LB_NAT_SLOTS, number;
	struct lb_nat_flow *flow;

	if (!head)
		return 0;
	/* Guessed right, the flow is fetched while the line with the words is still on its way. */
	for (__u32 slot = 0; slot < LB_NAT_SLOTS; slot++) {
		if ((head->word[slot] & (LB_NAT_STATE | LB_NAT_FRONT)) == wanted) {
			found = slot;
			break;
		}
	}
	if (found == LB_NAT_SLOTS)
		return head->tried > 1 ? lb_nat_find(p) : 0;
	number = way.first * LB_NAT_SLOTS + found;
	flow = bpf_map_lookup_elem(&lb_nat_flows, &number);
	return flow && lb_nat_is_client(flow, p) ? number + 1 : lb_nat_find(p);
}

/* Number of the flow that a backend answers plus 1; 0 for none. */
__noinline __u32 lb_nat_find_answer(const struct lb_packet *p)
{
	__u32 port, place, wanted, number;
	struct lb_nat_head *head;

	if (!p)
		return 0;
	port = bpf_ntohs(p->target_port);
	wanted = LB_NAT_USED | lb_nat_back(p->source, p->source_port, p->protocol);
	place = port & lb_nat_mask;
	head = bpf_map_lookup_elem(&lb_nat_heads, &place);
	if (!head)
		return 0;
	number = lb_nat_seek(p, place, head, wanted, true);
	if (number)
		return number;
	if (head->tried >> LB_NAT_ALL_TRIES)
		number = lb_nat_climb(p, place, head->tried >> LB_NAT_ALL_TRIES, wanted, true);
	if (number)
		return number;
	place = lb_nat_mask + 1 + (port & LB_NAT_MORE_MASK);
	head = lb_nat_head_at(place);
	if (!head)
		return 0;
	number = lb_nat_seek_in(p, place, wanted, true);
	return number ? number : lb_nat_climb(p, place, head->tried >> LB_NAT_ALL_TRIES, wanted, true);
}

static __always_inline bool lb_nat_over(const struct lb_nat_flow *flow)
{
	__u16 both = LB_NAT_FIN_CLIENT | LB_NAT_FIN_BACKEND;

	return (flow->flags & LB_NAT_RESET) || (flow->flags & both) == both;
}

/*
 * Whether a flow's place may go to another one. In a hurry, when all other places are taken, what is over or never
 * came to be has less time: TIME_WAIT at the backend (60 s) takes a SYN with a later sequence number.
 */
static __always_inline bool lb_nat_gone(const struct lb_nat_flow *flow, __u32 now, bool hurry)
{
	__u32 idle_s;

	if (flow->protocol == IPPROTO_TCP) {
		if (lb_nat_over(flow))
			idle_s = hurry ? LB_NAT_HURRY_S : 60;
		else if (!(flow->flags & LB_NAT_CONFIRMED))
			idle_s = hurry ? 3 : 15;
		else
			idle_s = 6 * 3600;
	} else if (flow->flags & LB_NAT_REPLIED) {
		idle_s = 180;
	} else {
		idle_s = hurry ? 5 : 30;
	}
	return now - flow->seen > idle_s * lb_hz;
}

#endif
