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
 */
#ifndef LB_NAT_H
#define LB_NAT_H

#include "lb_flow.h"

#define LB_NAT_SLOTS 8 /* flows of one port, to different backends */
#define LB_NAT_TRIES 16 /* ports that a new flow tries */
#define LB_NAT_PORTS 16384

/* The first port of the range, which is a power of two long; 0 for no new flows. Apart from ports that sockets get. */
const volatile __u32 lb_nat_base = 0;
const volatile __u32 lb_nat_mask = LB_NAT_PORTS - 1;
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
	__u32 tried; /* bit k: a flow whose first port is this one may lie at its k-th */
	__u32 spare[7];
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
	way.step = (__u32)(client >> 40) | 1;
	way.front = (__u32)(whole >> 20) << 15 & LB_NAT_FRONT;
	return way;
}

static __always_inline __u32 lb_nat_place(const struct lb_nat_way *way, __u32 try)
{
	return (way->first + try * way->step) & lb_nat_mask;
}

static __always_inline struct lb_nat_flow *lb_nat_flow_at(__u32 number)
{
	return bpf_map_lookup_elem(&lb_nat_flows, &number);
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

/* Number of a client's flow plus 1; 0 for none. */
__noinline __u32 lb_nat_find(const struct lb_packet *p)
{
	struct lb_nat_way way;
	__u32 tried = 1;

	if (!p)
		return 0;
	way = lb_nat_way_of(p);
	for (__u32 try = 0; try < LB_NAT_TRIES; try++) {
		__u32 place = lb_nat_place(&way, try);
		struct lb_nat_head *head;

		if (!(tried >> try & 1))
			continue;
		head = bpf_map_lookup_elem(&lb_nat_heads, &place);
		if (!head)
			return 0;
		if (!try)
			tried = head->tried | 1;
		for (__u32 slot = 0; slot < LB_NAT_SLOTS; slot++) {
			__u32 word = head->word[slot];
			struct lb_nat_flow *flow;

			if ((word & (LB_NAT_STATE | LB_NAT_FRONT)) != (LB_NAT_USED | way.front))
				continue;
			flow = lb_nat_flow_at(place * LB_NAT_SLOTS + slot);
			if (flow && lb_nat_is_client(flow, p))
				return place * LB_NAT_SLOTS + slot + 1;
		}
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
	flow = lb_nat_flow_at(number);
	return flow && lb_nat_is_client(flow, p) ? number + 1 : lb_nat_find(p);
}

/* Number of the flow that a backend answers plus 1; 0 for none. */
__noinline __u32 lb_nat_find_answer(const struct lb_packet *p)
{
	struct lb_nat_head *head;
	__u32 place, back;

	if (!p)
		return 0;
	place = bpf_ntohs(p->target_port) & lb_nat_mask;
	head = bpf_map_lookup_elem(&lb_nat_heads, &place);
	if (!head)
		return 0;
	back = lb_nat_back(p->source, p->source_port, p->protocol);
	for (__u32 slot = 0; slot < LB_NAT_SLOTS; slot++) {
		struct lb_nat_flow *flow;

		if ((head->word[slot] & (LB_NAT_STATE | LB_NAT_BACK)) != (LB_NAT_USED | back))
			continue;
		flow = lb_nat_flow_at(place * LB_NAT_SLOTS + slot);
		if (flow && lb_nat_is_backend(flow, p))
			return place * LB_NAT_SLOTS + slot + 1;
	}
	return 0;
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
		struct lb_nat_flow *flow = lb_nat_flow_at(way.first * LB_NAT_SLOTS + slot);

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

/*
 * Takes a place at one port, if the port is free towards the backend. Two CPUs may try at once: a place belongs to
 * who changes its word, and of two that claim the same port for one backend the lower place stays. Returns the number
 * of the flow plus 1; 0 when the port is taken or full.
 */
__noinline __u32 lb_nat_claim(const struct lb_packet *p, const struct lb_nat_wish *wish, __u32 try, bool hurry)
{
	__u32 now = bpf_jiffies64(), word, old = 0, free = LB_NAT_SLOTS, place, number;
	struct lb_nat_head *head, *home;
	struct lb_nat_flow *flow;
	struct lb_nat_way way;

	if (!p || !wish)
		return 0;
	way = lb_nat_way_of(p);
	place = lb_nat_place(&way, try);
	word = way.front | lb_nat_back(wish->backend, wish->backend_port, wish->protocol);
	head = bpf_map_lookup_elem(&lb_nat_heads, &place);
	home = bpf_map_lookup_elem(&lb_nat_heads, &way.first);
	if (!head || !home)
		return 0;
	for (__u32 slot = 0; slot < LB_NAT_SLOTS; slot++) {
		__u32 there = head->word[slot];
		bool same, gone;

		if (!(there & LB_NAT_STATE)) {
			if (free == LB_NAT_SLOTS) {
				free = slot;
				old = there;
			}
			continue;
		}
		same = ((there ^ word) & LB_NAT_BACK) == 0;
		/* Not looked at without need: each flow is two cache lines that nobody has used for a while. */
		if (!same && free != LB_NAT_SLOTS)
			continue;
		flow = lb_nat_flow_at(place * LB_NAT_SLOTS + slot);
		if (!flow)
			return 0;
		gone = (there & LB_NAT_STATE) == LB_NAT_USED && lb_nat_gone(flow, now, hurry);
		if (same && !gone)
			return 0;
		if (!gone)
			continue;
		free = slot;
		old = there;
		if (same)
			break;
	}
	if (free >= LB_NAT_SLOTS)
		return 0;
	number = place * LB_NAT_SLOTS + free;
	flow = lb_nat_flow_at(number);
	if (!flow || __sync_val_compare_and_swap(&head->word[free], old, LB_NAT_PENDING | word) != old)
		return 0;
	for (__u32 slot = 0; slot < LB_NAT_SLOTS; slot++) {
		__u32 there = head->word[slot];

		if (slot == free || !(there & LB_NAT_STATE) || ((there ^ word) & LB_NAT_BACK))
			continue;
		if ((there & LB_NAT_STATE) == LB_NAT_USED || slot < free) {
			head->word[free] = 0;
			return 0;
		}
	}
	lb_copy_address(flow->client, p->source);
	lb_copy_address(flow->vip, p->target);
	lb_copy_address(flow->backend, wish->backend);
	lb_copy_address(flow->source, wish->source);
	flow->client_port = p->source_port;
	flow->vip_port = p->target_port;
	flow->backend_port = wish->backend_port;
	flow->nat_port = bpf_htons(lb_nat_base + ((place - lb_nat_base) & lb_nat_mask));
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
		*(volatile __u32 *)&head->word[free] = LB_NAT_USED | word;
	else
		__sync_val_compare_and_swap(&head->word[free], LB_NAT_PENDING | word, LB_NAT_USED | word);
	return number + 1;
}

/* Takes a place for a new flow. Returns its number plus 1; 0 when all its ports are taken. */
static __always_inline __u32 lb_nat_open(const struct lb_packet *p, const struct lb_nat_wish *wish)
{
	__u32 number = 0;

	for (__u32 try = 0; try < 2 * LB_NAT_TRIES && !number; try++)
		number = lb_nat_claim(p, wish, try % LB_NAT_TRIES, try >= LB_NAT_TRIES);
	return number;
}

/* Gives the place of a client's flow back at once. */
static __always_inline void lb_nat_free(__u32 number, const struct lb_packet *p)
{
	__u32 place = number / LB_NAT_SLOTS, slot = number % LB_NAT_SLOTS, word;
	struct lb_nat_head *head = bpf_map_lookup_elem(&lb_nat_heads, &place);
	struct lb_nat_flow *flow = lb_nat_flow_at(number);

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
