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
#ifndef LB_NAT_TABLE_H
#define LB_NAT_TABLE_H

#include "lb_choose.h"
#include "lb_flow.h"

#define LB_NAT_SLOTS 8 /* flows of one port, to different backends */
#define LB_NAT_TRIES 16 /* ports of the range that a new flow tries */
#define LB_NAT_ALL_TRIES 24 /* ... and of the further ports after them */
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

/* Seconds in which a flow's place is given to nobody else, but by lb_nat_free(). */
#define LB_NAT_HURRY_S 2

#define LB_NAT_PENDING (1U << 30)
#define LB_NAT_USED (2U << 30)
#define LB_NAT_STATE (3U << 30)
#define LB_NAT_FRONT (0x7fffU << 15)
#define LB_NAT_BACK 0x7fffU

#endif
