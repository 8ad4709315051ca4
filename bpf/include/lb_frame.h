/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Reading and rewriting packets in XDP: what lb_packet.h does in tc, for packets with nothing out of the ordinary. */
#ifndef LB_FRAME_H
#define LB_FRAME_H

#include "lb_hop.h"

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Sum of an address as pseudo headers have it; byte order does not matter to it (RFC 1071). */
static __always_inline __u64 sum_of(const __be32 *address, bool ip4)
{
	if (ip4)
		return address[3];
	return (__u64)address[0] + address[1] + address[2] + address[3];
}

/*
 * What stands in the checksum field while hardware is still to complete it: the pseudo header's sum (skbuff.h,
 * CHECKSUM_PARTIAL). One whole checksum of 65,535 looks the same and takes the long way.
 */
static __always_inline bool is_partial(const struct lb_packet *p, __u64 addresses, __sum16 checksum)
{
	return folded(addresses + bpf_htons(p->protocol) + bpf_htons(p->payload)) == checksum;
}

/* The checksum after words of this sum gave way to words of that one (RFC 1624). */
static __always_inline __sum16 changed(__sum16 checksum, __u64 old, __u64 new)
{
	return ~folded((__u64)(__u16)~checksum + (__u16)~folded(old) + new);
}

/* Reads a packet with nothing out of the ordinary and a whole checksum; false for all others. */
static __always_inline bool read_packet(struct xdp_md *ctx, struct lb_packet *p)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__sum16 checksum;
	struct ethhdr *ethernet = data;
	struct iphdr *ip4 = data + ETH_HLEN;
	struct ipv6hdr *ip6 = data + ETH_HLEN;
	void *transport;

	if ((void *)(ip4 + 1) > end)
		return false;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
		transport = ip4 + 1;
		if (transport + 8 > end || *(__u8 *)ip4 != 0x45 || ip4->frag_off & bpf_htons(0x3fff) ||
		    ip4->ttl <= 1 || bpf_ntohs(ip4->tot_len) < sizeof(*ip4))
			return false;
		lb_fill4(p, ip4);
	} else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
		transport = ip6 + 1;
		if (transport + 8 > end || ip6->version != 6 || ip6->hop_limit <= 1)
			return false;
		lb_fill6(p, ip6);
	} else {
		return false;
	}
	if (p->protocol == IPPROTO_TCP) {
		if (transport + 20 > end)
			return false;
		p->tcp_flags = ((__u8 *)transport)[13];
		checksum = ((__sum16 *)transport)[8];
	} else if (p->protocol == IPPROTO_UDP) {
		checksum = ((__sum16 *)transport)[3];
	} else {
		return false;
	}
	p->source_port = ((__be16 *)transport)[0];
	p->target_port = ((__be16 *)transport)[1];
	return !is_partial(p, sum_of(p->source, p->ip4) + sum_of(p->target, p->ip4), checksum);
}

/* Drivers hand large packets over in several parts, of which `data` to `data_end` is the first. */
static __always_inline bool in_one_part(struct xdp_md *ctx, const struct lb_packet *p)
{
	return (long)ctx->data_end - (long)ctx->data >= p->l4 + p->payload;
}

/* What a packet becomes. */
struct way {
	const __be32 *source, *target;
	__be16 source_port, target_port;
};

/*
 * Puts other addresses and ports in place, of a known family. `older`: it has one hop less to live. The verifier forgot
 * how long the packet is.
 */
static __always_inline int rewrite_packet(struct xdp_md *ctx, const struct lb_packet *p, const struct way *way,
					  bool older, bool ip4)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *transport = data + ETH_HLEN + (ip4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	bool udp = p->protocol == IPPROTO_UDP;
	__u64 before, after;
	__sum16 *checksum;

	if (udp) {
		if (transport + 8 > end)
			return -1;
		checksum = transport + 6;
	} else {
		if (transport + 20 > end)
			return -1;
		checksum = transport + 16;
	}
	before = sum_of(p->source, ip4) + sum_of(p->target, ip4);
	after = sum_of(way->source, ip4) + sum_of(way->target, ip4);
	if (ip4) {
		struct iphdr *ip = data + ETH_HLEN;
		__u16 hops = *(__u16 *)&ip->ttl;

		ip->check = changed(ip->check, before + hops, after + (__u16)(hops - older));
		ip->ttl -= older;
		ip->saddr = way->source[3];
		ip->daddr = way->target[3];
	} else {
		struct ipv6hdr *ip = data + ETH_HLEN;

		ip->hop_limit -= older;
		__builtin_memcpy(&ip->saddr, way->source, 16);
		__builtin_memcpy(&ip->daddr, way->target, 16);
	}
	/* A UDP checksum of 0 means that there is none. */
	if (!udp || *checksum) {
		*checksum = changed(*checksum, before + p->source_port + p->target_port,
				    after + way->source_port + way->target_port);
		if (udp && !*checksum)
			*checksum = 0xffff;
	}
	((__be16 *)transport)[0] = way->source_port;
	((__be16 *)transport)[1] = way->target_port;
	return 0;
}

static __always_inline void set_macs(struct xdp_md *ctx, const __u8 *macs)
{
	void *data = (void *)(long)ctx->data;

	if (data + ETH_HLEN <= (void *)(long)ctx->data_end)
		__builtin_memcpy(data, macs, 2 * ETH_ALEN);
}

static __always_inline int leave(struct xdp_md *ctx, const struct lb_hop *hop)
{
	if (hop->ifindex == ctx->ingress_ifindex && (hop->tick & LB_HOP_TX))
		return XDP_TX;
	return bpf_redirect(hop->ifindex, 0);
}

#endif
