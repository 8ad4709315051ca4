/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Headers that direct return puts around a client's packet: IPv4 in IPv4 (RFC 2003), IPv6 in IPv6 (RFC 2473). */
#ifndef LB_OUTER_H
#define LB_OUTER_H

#include "lb_answer.h"

static __always_inline __u32 lb_wrapping(const struct lb_packet *p)
{
	return p->ip4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
}

/* `fragment` is the inner packet's field: what may not be fragmented inside may not be outside, so that the path's MTU is found out. */
static __always_inline struct iphdr lb_outer4(__be32 source, __be32 target, __be16 fragment, __u16 inner)
{
	struct iphdr outer = {
		.version = 4,
		.ihl = 5,
		.ttl = 64,
		.protocol = IPPROTO_IPIP,
		.saddr = source,
		.daddr = target,
		.frag_off = fragment & bpf_htons(0x4000),
		.tot_len = bpf_htons(sizeof(outer) + inner),
	};

	outer.check = lb_fold(bpf_csum_diff(NULL, 0, (__be32 *)&outer, sizeof(outer), 0));
	return outer;
}

static __always_inline struct ipv6hdr lb_outer6(const __be32 *source, const __be32 *target, __u16 inner)
{
	struct ipv6hdr outer = {
		.version = 6,
		.nexthdr = IPPROTO_IPV6,
		.hop_limit = 64,
		.payload_len = bpf_htons(inner),
	};

	__builtin_memcpy(&outer.saddr, source, 16);
	__builtin_memcpy(&outer.daddr, target, 16);
	return outer;
}

#endif
