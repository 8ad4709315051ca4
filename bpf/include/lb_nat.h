/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Flows of clients outside whose backend is on another node: it must answer through this node, so the source becomes
 * an address of this node with a port that only this flow has towards this backend.
 *
 *     client 198.51.100.7:40000 -> VIP 203.0.113.1:80    becomes   node 172.20.0.1:14711 -> backend 10.244.2.2:8080
 *     client 198.51.100.7:40000 <- VIP 203.0.113.1:80    comes of  node 172.20.0.1:14711 <- backend 10.244.2.2:8080
 *
 * One entry knows both directions, so they can't be evicted apart, and both find it without a second index: the port
 * is its place. A line of lb_nat_heads names the flows of one port, the answer's target port finds it; a packet of
 * the client tries the few ports that its own address and port hash to.
 *
 *     head of port 14711   | word | word | ... 8 |  word: state 2, hash of client and VIP 15, hash of backend 15
 *     flows 14711 * 8 ..   | 128 bytes | ...     |  shared by flows to different backends
 *
 * Nothing is evicted. A new flow takes a free place or one whose flow is over or idle for long; when its ports have
 * none, it is refused and counted, and no other flow notices.
 *
 * There is more of it while many flows need it (lb_nat_more, added and taken away by the agent), and no flow is moved:
 * further ports, half as many, for many clients of one backend; and levels, each 8 further places at every port.
 *
 *                   ports of the range    further ports
 *     level 0       lb_nat_heads          lb_nat_more         sets are numbered by level, then by port; the number of a
 *     level 1       lb_nat_more           ...                 flow is 8 times that of its set, plus its place there
 *
 * Which levels a port has flows in says its head of level 0, so who finds a flow there never looks further.
 */
#ifndef LB_NAT_H
#define LB_NAT_H

#include "lb_choose.h"
#include "lb_flow.h"

#define LB_NAT_SLOTS 8 /* flows of one port, to different backends */
#define LB_NAT_TRIES 16 /* ports of the range that a new flow tries */
#define LB_NAT_ALL_TRIES 24 /* ... and of the further ports after them */
#define LB_NAT_CROWDED 8 /* who needed more tries than these says so */
#define LB_NAT_LEVELS 8 /* beyond the first one */
#define LB_NAT_PORTS 16384

/* The first port of the range, which is a power of two long; 0 for no new flows. Apart from ports that sockets get. */
const volatile __u32 lb_nat_base = 0;
const volatile __u32 lb_nat_mask = LB_NAT_PORTS - 1;
/* The first of the further ports; 0 where there are none. Lower ones, that servers have: see lb_nat_may(). */
const volatile __u32 lb_nat_more_base = 0;
/* Makes places unpredictable; the same for all programs that ever use the maps. */
const volatile __u64 lb_nat_seed = 0;
/* How far to shift jiffies for a tick of about a second. */
const volatile __u32 lb_tick_shift = 8;
/* Whether other CPUs see stores in the order in which they were made, as on x86. */
const volatile bool lb_stores_in_order = false;

enum lb_nat_flag {
	LB_NAT_REPLIED = 1 << 0,
	LB_NAT_CONFIRMED = 1 << 1, /* the client has answered the backend's answer: the handshake is complete */
	LB_NAT_FIN_CLIENT = 1 << 2,
	LB_NAT_FIN_BACKEND = 1 << 3,
	LB_NAT_RESET = 1 << 4,
};

/* The flows of one port, in a cache line. */
struct lb_nat_head {
	__u32 word[LB_NAT_SLOTS];
	/*
	 * Bit k: a flow whose first port is this one may lie at its k-th. From bit LB_NAT_ALL_TRIES on: this port may have
	 * flows in level 1, 2 and so on; only in level 0.
	 */
	__u32 tried;
	__u32 spare[7]; /* the first head's: the seed, see nat.ts */
};

/* Where packets of one direction leave; found by a look at the routes about once a second. */
struct lb_hop {
	__u32 ifindex; /* 0: to be found */
	__u8 macs[12]; /* target, source */
	__u16 mtu;
	__u16 tick; /* of when it was found, 14 bits; LB_HOP_XDP and LB_HOP_TX above them */
};

#define LB_HOP_XDP 0x8000 /* the interface sends what XDP redirects to it */
#define LB_HOP_TX 0x4000 /* ... and what XDP_TX turns back at it */
#define LB_HOP_TICK 0x3fff

/* Two cache lines: the first one is compared, the second one is what to do. */
struct lb_nat_flow {
	__be32 client[4];
	__be32 vip[4];
	__be32 backend[4];
	__be16 client_port;
	__be16 vip_port;
	__be16 backend_port;
	__be16 nat_port;
	__u32 backend_id;
	__u32 seen; /* jiffies, low half */

	__be32 source[4]; /* address of this node that the backend sees */
	__u32 service;
	__u16 flags; /* enum lb_nat_flag */
	__u8 protocol;
	__u8 pad;
	struct lb_hop to_backend;
	struct lb_hop to_client;
};

/* port % entries -> its flows; programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LB_NAT_PORTS);
	__type(key, __u32);
	__type(value, struct lb_nat_head);
} lb_nat_heads SEC(".maps");

/* port % entries * 8 + place -> flow; programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LB_NAT_PORTS * LB_NAT_SLOTS);
	__type(key, __u32);
	__type(value, struct lb_nat_flow);
} lb_nat_flows SEC(".maps");

/* Flows behind their words. */
struct lb_nat_set {
	struct lb_nat_head head;
	struct lb_nat_flow flow[LB_NAT_SLOTS];
};

/* set / 1024 -> { set % 1024 -> flows }, sets after those of lb_nat_heads; programs. Chunks are the agent's. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 512);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(map_flags, BPF_F_MMAPABLE);
		__uint(max_entries, LB_CHUNK);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct lb_nat_set));
	});
} lb_nat_more SEC(".maps");

struct lb_nat_table {
	__u32 open; /* sets of lb_nat_more that take new flows; others may still hold some */
	__u32 held; /* sets of lb_nat_more that there are */
};

/* The only value: how large the table is; the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lb_nat_table);
} lb_nat_table SEC(".maps");

enum lb_nat_use {
	LB_NAT_TAKEN, /* places that new flows took */
	LB_NAT_CROWD, /* new flows that found many of their ports taken, or all */
	LB_NAT_USES,
};

/* Words for the agent (lb_flow_news): one for so many places and one, taken on a CPU. Powers of two less one. */
const volatile __u32 lb_nat_step = 4095;
#define LB_NAT_CROWD_STEP 3

/* enum lb_nat_use -> count: by it the agent sees that ports get few; programs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LB_NAT_USES);
	__type(key, __u32);
	__type(value, __u64);
} lb_nat_use SEC(".maps");

#define LB_NAT_PENDING (1U << 30)
#define LB_NAT_USED (2U << 30)
#define LB_NAT_STATE (3U << 30)
#define LB_NAT_FRONT (0x7fffU << 15)
#define LB_NAT_BACK 0x7fffU

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
			idle_s = hurry ? 2 : 60;
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

/* Gives the place of a client's flow back at once. */
static __always_inline void lb_nat_free(__u32 number, const struct lb_packet *p)
{
	struct lb_nat_head *head = lb_nat_head_at(number / LB_NAT_SLOTS);
	struct lb_nat_flow *flow = lb_nat_flow_at(number);
	__u32 slot = number % LB_NAT_SLOTS, word;

	if (!head || !flow)
		return;
	word = head->word[slot];
	/* Not if it has passed to another flow meanwhile. */
	if ((word & LB_NAT_STATE) == LB_NAT_USED && lb_nat_is_client(flow, p))
		__sync_val_compare_and_swap(&head->word[slot], word, 0);
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
