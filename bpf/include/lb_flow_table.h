/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Where translated flows lie. A client's address and port hash to a set of eight places; a flow lies in one of them,
 * or, where they are taken, in one of up to three other sets that the same hash names:
 *
 *     set   | tag | tag | ... 8 | tried | settled |      a cache line; a tag is the hash of the client's port
 *           | flow 64 bytes | flow | ... 8 |             a cache line each
 *
 * Both directions of a flow name the client, so both find it by one line of tags and its own line. Nothing is evicted
 * while it lives: a place is taken again when its flow is over or idle. A new flow takes a free place, in a hurry one
 * of a handshake that is not complete; where there is none it is refused and counted, and no other flow notices.
 *
 * The table grows while it is in use, and no flow is moved: twice as many sets take one bit more of the hash, and a
 * set with that bit has the flows from before in the set without it.
 *
 *     1,024 sets    hash & 0x3ff = 5        2,048 sets    hash & 0x7ff = 0x405: here, and from before in set 5
 *
 * Until the agent has seen that set 5 holds nothing of set 0x405 (`settled`), who looks there looks in both.
 */
#ifndef LB_FLOW_TABLE_H
#define LB_FLOW_TABLE_H

#include "lb_news.h"
#include "lb_packet.h"

#define LB_FLOW_SLOTS 8
#define LB_FLOW_TRIES 4
/* Doublings from one set to LB_CHUNKS chunks of them. */
#define LB_FLOW_LEVELS 25

struct lb_flow_set {
	__u32 tag[LB_FLOW_SLOTS]; /* 0: free */
	__u32 tried; /* bit k: a flow whose first set is this one may lie in its k-th */
	__u32 settled; /* it has no flows in the sets that it was split from */
	/* Among open flows of one client port to one backend, which came first: answers are the first one's. */
	__u8 order[LB_FLOW_SLOTS];
	__u32 spare[4];
	struct lb_flow flow[LB_FLOW_SLOTS];
};

/* set / 1024 -> { set % 1024 -> flows }; programs. Memory that could be mapped begins at a page, so lines are lines. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, LB_CHUNKS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(map_flags, BPF_F_MMAPABLE);
		__uint(max_entries, LB_CHUNK);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct lb_flow_set));
	});
} lb_flows SEC(".maps");

struct lb_flow_table {
	__u32 mask; /* sets, less one: a power of two less one */
	__u32 first; /* sets that the table began with */
	__u64 seed; /* makes places unpredictable */
};

/* The only value: how large the table is; the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lb_flow_table);
} lb_flow_table SEC(".maps");

enum lb_flow_use {
	LB_FLOW_TAKEN, /* places that new flows took */
	LB_FLOW_CROWDED, /* of them those that had to look beyond their first set */
	LB_FLOW_USES,
};

/* enum lb_flow_use -> count: by it the agent sees that the table gets full; programs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LB_FLOW_USES);
	__type(key, __u32);
	__type(value, __u64);
} lb_flow_use SEC(".maps");

#define LB_FLOW_TAG 0x80000000 /* of every place in use */

/* Whose flow: of a client, to a frontend or from a backend. */
struct lb_flow_name {
	__be32 client[4];
	__be32 peer[4];
	__be16 client_port;
	__be16 peer_port;
	__u8 protocol;
	__u8 is_backend; /* the peer is the backend, not the frontend */
	__u16 mask; /* flags that have to be as in `flags` */
	__u16 flags;
	__u16 last; /* of several the one that came last, else the first */
} __attribute__((aligned(8)));

/* Later ones than this are alike. */
#define LB_FLOW_LAST_ORDER 254

static __always_inline __u64 lb_flow_mix(__u64 hash, __u64 word)
{
	/* A factor carries upwards only, and neighbouring clients differ in the highest byte: hence two of them. */
	hash = (hash ^ word) * 0x9fb21c651e98df25ULL;
	hash = (hash ^ hash >> 32) * 0xd6e8feb86659fd93ULL;
	return hash ^ hash >> 32;
}

static __always_inline __u32 lb_flow_tag(__u64 seed, const struct lb_flow_name *name)
{
	__u64 hash = lb_flow_mix(seed + name->protocol, (__u64)name->client[3] << 32 | name->client_port);

	/* In IPv4 the rest is always the same. */
	if (!lb_is_ip4(name->client))
		hash = lb_flow_mix(lb_flow_mix(hash, (__u64)name->client[0] << 32 | name->client[1]), name->client[2]);
	return (__u32)hash | LB_FLOW_TAG;
}

/* The sets that a tag names, one for each try; to be cut to the size of the table. */
static __always_inline __u32 lb_flow_nth(__u32 tag, __u32 try)
{
	__u32 other;

	if (!try)
		return tag & ~LB_FLOW_TAG;
	other = (tag ^ tag >> 15) * (0x9e3779b1U + try * 0x3c6ef362U);
	return (other ^ other >> 13) & ~LB_FLOW_TAG;
}

static __always_inline struct lb_flow_table *lb_flow_table_now(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&lb_flow_table, &only);
}

static __always_inline struct lb_flow_set *lb_flow_set_at(__u32 place)
{
	__u32 chunk = place >> LB_CHUNK_BITS;
	__u32 at = place & (LB_CHUNK - 1);
	void *map = bpf_map_lookup_elem(&lb_flows, &chunk);

	return map ? bpf_map_lookup_elem(map, &at) : NULL;
}

static __always_inline struct lb_flow *lb_flow_at(__u32 number)
{
	struct lb_flow_set *set = lb_flow_set_at(number / LB_FLOW_SLOTS);

	return set ? &set->flow[number % LB_FLOW_SLOTS] : NULL;
}

static __always_inline __u32 lb_flow_order(__u32 number)
{
	const struct lb_flow_set *set = lb_flow_set_at(number / LB_FLOW_SLOTS);

	return set ? set->order[number % LB_FLOW_SLOTS] : 0;
}

static __always_inline void lb_flow_set_order(__u32 number, __u32 order)
{
	struct lb_flow_set *set = lb_flow_set_at(number / LB_FLOW_SLOTS);

	if (set && set->order[number % LB_FLOW_SLOTS] != order)
		set->order[number % LB_FLOW_SLOTS] = order;
}

/* Half as many steps as word by word; both lie at multiples of eight. */
static __always_inline bool lb_flow_same(const __be32 *a, const __be32 *b)
{
	const __u64 *x = (const void *)a, *y = (const void *)b;

	return ((x[0] ^ y[0]) | (x[1] ^ y[1])) == 0;
}

static __always_inline bool lb_flow_is(const struct lb_flow *flow, const struct lb_flow_name *name)
{
	__u16 flags = flow->flags;

	/* With an option the same bits say when a node was told. */
	if (flags & LB_FLOW_OPTION)
		flags &= ~LB_FLOW_WAYS;
	if ((flags & name->mask) != name->flags || flow->client_port != name->client_port ||
	    !lb_flow_same(flow->client, name->client))
		return false;
	if (name->is_backend)
		return flow->backend_port == name->peer_port && lb_flow_same(flow->backend, name->peer);
	return flow->vip_port == name->peer_port && lb_flow_same(flow->vip, name->peer);
}

/* The bits of a hash that led to a set when it was made: up to its highest one. */
static __always_inline __u32 lb_flow_bits(__u32 place)
{
	place |= place >> 1;
	place |= place >> 2;
	place |= place >> 4;
	place |= place >> 8;
	return place | place >> 16;
}

/* The set that this one was split from: without its highest bit. */
static __always_inline __u32 lb_flow_parent(__u32 place)
{
	return place & lb_flow_bits(place) >> 1;
}

/* What is known of a search: the flow's number plus 1 in the low half, above it how it goes on. */
#define LB_FOUND_ORDER 32 /* shift; of the flow, 8 bits */
#define LB_FOUND_TRIED 40 /* shift; other tries */
#define LB_FOUND_OLDER (1ULL << 48) /* flows may lie in the set that this one was split from */

/* Looks through one set. `best` is the order of the flow found so far plus 1, 0 for none. */
__noinline __u64 lb_flow_scan(const struct lb_flow_name *name, __u32 place, __u32 tag, __u32 best)
{
	struct lb_flow_set *set = lb_flow_set_at(place);
	__u64 found = 0;

	if (!name || !set)
		return 0;
	for (__u32 slot = 0; slot < LB_FLOW_SLOTS; slot++) {
		__u32 order;

		if (set->tag[slot] != tag || !lb_flow_is(&set->flow[slot], name))
			continue;
		order = set->order[slot] + 1;
		if (best && (name->last ? order <= best : order >= best))
			continue;
		best = order;
		found = (__u64)(order - 1) << LB_FOUND_ORDER | (place * LB_FLOW_SLOTS + slot + 1);
	}
	return found | (__u64)(set->tried & 0xf) << LB_FOUND_TRIED | (set->settled ? 0 : LB_FOUND_OLDER);
}

/* All places where a flow may lie; there is no hurry when its first set is not enough. */
__noinline __u32 lb_flow_search(const struct lb_flow_name *name, __u32 tag)
{
	struct lb_flow_table *table = lb_flow_table_now();
	__u32 mask, first, number = 0, best = 0, tried = 1;

	if (!name || !table)
		return 0;
	mask = table->mask;
	first = table->first;
	for (__u32 try = 0; try < LB_FLOW_TRIES; try++) {
		__u32 place = lb_flow_nth(tag, try) & mask;

		if (!(tried >> try & 1))
			continue;
		for (__u32 level = 0; level < LB_FLOW_LEVELS; level++) {
			__u64 seen = lb_flow_scan(name, place, tag, best);

			if ((__u32)seen) {
				number = seen;
				best = (seen >> LB_FOUND_ORDER & 0xff) + 1;
			}
			if (!try)
				tried |= seen >> LB_FOUND_TRIED & 0xf;
			if (!(seen & LB_FOUND_OLDER) || place < first)
				break;
			place = lb_flow_parent(place);
		}
		if (number && !name->last && (!name->is_backend || best == 1))
			break;
	}
	return number;
}

/* Whether there may be flows of a client's port, whoever its peers are. One cache line says that there are none. */
static __always_inline bool lb_flow_has_client(const struct lb_flow_name *name)
{
	struct lb_flow_table *table = lb_flow_table_now();
	struct lb_flow_set *set;
	__u32 tag, place, same = 0;

	if (!table)
		return false;
	tag = lb_flow_tag(table->seed, name);
	place = tag & ~LB_FLOW_TAG & table->mask;
	set = lb_flow_set_at(place);
	if (!set)
		return false;
	for (__u32 slot = 0; slot < LB_FLOW_SLOTS; slot++)
		same |= set->tag[slot] == tag;
	return same || set->tried > 1 || !(set->settled || place < table->first);
}

/* As lb_flow_find(), for who cannot do without haste. */
static __always_inline __u32 lb_flow_find_here(const struct lb_flow_name *name)
{
	struct lb_flow_table *table = lb_flow_table_now();
	struct lb_flow_set *set;
	__u32 tag, place, slot;

	if (!name || !table)
		return 0;
	tag = lb_flow_tag(table->seed, name);
	place = tag & ~LB_FLOW_TAG & table->mask;
	set = lb_flow_set_at(place);
	if (!set)
		return 0;
	for (slot = 0; slot < LB_FLOW_SLOTS; slot++)
		if (set->tag[slot] == tag)
			break;
	if (slot < LB_FLOW_SLOTS) {
		struct lb_flow *flow = &set->flow[slot];

		/* Nearly always: the only flow of its client. */
		if (!name->last && lb_flow_is(flow, name) && !(name->is_backend && set->order[slot]))
			return place * LB_FLOW_SLOTS + slot + 1;
	} else if (set->tried <= 1 && (set->settled || place < table->first)) {
		return 0;
	}
	return lb_flow_search(name, tag);
}

/* The number of a flow plus 1; 0 for none. */
__noinline __u32 lb_flow_find(const struct lb_flow_name *name)
{
	return lb_flow_find_here(name);
}

static __always_inline bool lb_flow_over(const struct lb_flow *flow)
{
	__u16 both = LB_FLOW_FIN_CLIENT | LB_FLOW_FIN_BACKEND;

	return (flow->flags & LB_FLOW_RESET) || (flow->flags & both) == both;
}

/* Whether a flow's place is free to be taken: it is over, or idle for as long as conntrack would remember it. */
static __always_inline bool lb_flow_gone(const struct lb_flow *flow, __u32 now)
{
	__u32 idle_s;

	if (lb_flow_over(flow))
		idle_s = 60;
	else if (!(flow->flags & LB_FLOW_UDP))
		idle_s = flow->flags & LB_FLOW_CONFIRMED ? 6 * 3600 : 60;
	else
		idle_s = flow->flags & LB_FLOW_REPLIED ? 180 : 30;
	return now - flow->seen > idle_s * lb_hz;
}

#endif
