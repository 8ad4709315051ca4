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

/*
 * Words for the agent, which looks then: one for each `lb_flow_step` + 1 places that new flows took on a CPU, and which
 * Service's new flow was refused.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} lb_flow_news SEC(".maps");

#define LB_NEWS_TAKEN 0
#define LB_NEWS_REFUSED 0x40000000 /* by this table; the number of the Service below */
#define LB_NEWS_REFUSED_NAT 0x80000000 /* by lb_nat.h */

/* When this CPU said last that it refused a flow, in eighths of a second: a flood is no reason to say it each time. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} lb_flow_told SEC(".maps");

/* A power of two less one. */
const volatile __u32 lb_flow_step = 1023;

/* Jiffies a second. */
const volatile __u32 lb_hz = 250;

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

/* A new flow of a Service found no place. */
static __always_inline void lb_flow_tell_refused(__u32 table, __u32 service)
{
	__u32 only = 0, word = table | service, tick = (__u32)bpf_jiffies64() / (lb_hz / 8 + 1) | 1;
	__u32 *told = bpf_map_lookup_elem(&lb_flow_told, &only);

	if (!told || *told == tick)
		return;
	*told = tick;
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
