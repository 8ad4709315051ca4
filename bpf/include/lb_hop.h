/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Where a translated packet leaves: asked of the kernel's routes and neighbours, and remembered in the flow for about
 * a second. Works for tc and XDP alike.
 */
#ifndef LB_HOP_H
#define LB_HOP_H

#include "lb_nat.h"

#define LB_AF_INET 2
#define LB_AF_INET6 10

enum lb_interface_flag {
	LB_I_OVERLAY = 1 << 0, /* packets that are too large for it are fragmented outside of the tunnel */
	LB_I_XDP = 1 << 1, /* its driver sends what XDP redirects to it */
	LB_I_TX = 1 << 2, /* ... and what XDP_TX turns back at it; a veth does that only for a peer with XDP */
};

/* An interface by which backends on other nodes are reached. */
struct lb_interface {
	__be32 source4[4]; /* address that backends answer to, mapped; 0: none */
	__be32 source6[4];
	__u32 flags; /* enum lb_interface_flag */
	__u32 spare;
};

/* interface -> what it is; the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct lb_interface);
} lb_interfaces SEC(".maps");

/* What opening a flow takes, of which the stack of 512 bytes has no room left. */
struct lb_nat_room {
	struct lb_nat_wish wish;
	struct bpf_fib_lookup fib;
	struct lb_hop hop;
	struct embedded about; /* what an ICMP error is about, and how its answer would look */
	struct lb_packet turned;
	/* What another node says about a packet stands in for what would be found: lb_tell.h. */
	struct lb_frontend frontend;
	struct lb_backend backend;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lb_nat_room);
} lb_nat_rooms SEC(".maps");

enum lb_route {
	LB_ROUTE_FOUND, /* the hop is complete */
	LB_ROUTE_NO_NEIGHBOUR, /* the interface and the next hop's address are known, its MAC address is not */
	LB_ROUTE_NONE,
};

static __always_inline void lb_fib_question(struct bpf_fib_lookup *fib, const struct lb_packet *p,
					    const __be32 *source, const __be32 *target, __u32 ifindex)
{
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->ifindex = ifindex;
	fib->l4_protocol = p->protocol;
	if (p->ip4) {
		fib->family = LB_AF_INET;
		fib->ipv4_src = source[3];
		fib->ipv4_dst = target[3];
	} else {
		fib->family = LB_AF_INET6;
		lb_copy_address((__be32 *)fib->ipv6_src, source);
		lb_copy_address((__be32 *)fib->ipv6_dst, target);
	}
	/* Any length makes the kernel say the MTU; whether the packet fits is judged here. */
	fib->tot_len = 1;
}

/* Asks the kernel. `fib` holds the next hop afterwards. */
static __always_inline enum lb_route lb_route_to(void *ctx, struct bpf_fib_lookup *fib, struct lb_hop *hop)
{
	long result = bpf_fib_lookup(ctx, fib, sizeof(*fib), 0);
	__u32 ifindex = fib->ifindex;
	struct lb_interface *link;

	if (result == BPF_FIB_LKUP_RET_NO_NEIGH)
		return LB_ROUTE_NO_NEIGHBOUR;
	if (result != BPF_FIB_LKUP_RET_SUCCESS)
		return LB_ROUTE_NONE;
	__builtin_memcpy(hop->macs, fib->dmac, 6);
	__builtin_memcpy(hop->macs + 6, fib->smac, 6);
	/* Kernels before 5.12 do not say. */
	hop->mtu = fib->mtu_result == 1 ? 0 : fib->mtu_result;
	hop->tick = bpf_jiffies64() >> lb_tick_shift & LB_HOP_TICK;
	link = bpf_map_lookup_elem(&lb_interfaces, &ifindex);
	if (link && (link->flags & LB_I_XDP))
		hop->tick |= LB_HOP_XDP;
	if (link && (link->flags & LB_I_TX))
		hop->tick |= LB_HOP_TX;
	hop->ifindex = ifindex;
	return LB_ROUTE_FOUND;
}

static __always_inline bool lb_hop_is_fresh(const struct lb_hop *hop)
{
	return hop->ifindex && ((hop->tick ^ bpf_jiffies64() >> lb_tick_shift) & LB_HOP_TICK) == 0;
}

#endif
