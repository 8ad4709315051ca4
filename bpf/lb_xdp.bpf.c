// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * Flows between clients outside and backends on other nodes, in the driver of the interface where they come in:
 *
 *     client ──► [lb_xdp] ──► out of the interface towards the backend
 *     client ◄── [lb_xdp] ◄── backend
 *
 * A short cut and nothing else: what it does not know, it passes as it is to lb_from_outside, which makes flows, answers
 * errors, and serves backends on this node. What it sends leaves by an interface whose driver sends such packets, to a
 * neighbour that is known. A packet that its sender left the checksum of to the network card goes to tc, too: on a
 * veth pair that never happens, and only the stack knows that it has not.
 */
#include "lb_hop.h"

/* Whether packets are counted for their backends. */
const volatile bool lb_xdp_counts = true;

/* Reads a packet with nothing out of the ordinary; false for all others. */
static __always_inline bool read_packet(struct xdp_md *ctx, struct lb_packet *p)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	struct iphdr *ip4 = data + ETH_HLEN;
	struct ipv6hdr *ip6 = data + ETH_HLEN;
	void *transport;

	if ((void *)(ip4 + 1) > end)
		return false;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
		__u16 length;

		transport = ip4 + 1;
		length = bpf_ntohs(ip4->tot_len);
		if (transport + 8 > end || *(__u8 *)ip4 != 0x45 || ip4->frag_off & bpf_htons(0x3fff) ||
		    ip4->ttl <= 1 || length < sizeof(*ip4))
			return false;
		lb_map_ip4(p->source, ip4->saddr);
		lb_map_ip4(p->target, ip4->daddr);
		p->ip4 = true;
		p->protocol = ip4->protocol;
		p->l4 = ETH_HLEN + sizeof(*ip4);
		p->payload = length - sizeof(*ip4);
	} else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
		transport = ip6 + 1;
		if (transport + 8 > end || ip6->version != 6 || ip6->hop_limit <= 1)
			return false;
		__builtin_memcpy(p->source, &ip6->saddr, 16);
		__builtin_memcpy(p->target, &ip6->daddr, 16);
		p->protocol = ip6->nexthdr;
		p->l4 = ETH_HLEN + sizeof(*ip6);
		p->payload = bpf_ntohs(ip6->payload_len);
	} else {
		return false;
	}
	if (p->protocol == IPPROTO_TCP) {
		if (transport + 20 > end)
			return false;
		p->tcp_flags = ((__u8 *)transport)[13];
	} else if (p->protocol != IPPROTO_UDP) {
		return false;
	}
	p->source_port = ((__be16 *)transport)[0];
	p->target_port = ((__be16 *)transport)[1];
	return true;
}

/* What a packet of a flow becomes, and where it leaves. */
struct way {
	const __be32 *source, *target;
	__be16 source_port, target_port;
	struct lb_hop *hop;
};

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

/* Changes a packet of a known family and sends it. The verifier forgot how long the packet is. */
static __always_inline int send(struct xdp_md *ctx, const struct lb_packet *p, struct lb_nat_flow *flow,
				const struct way *way, bool from_client, bool ip4)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *transport = data + ETH_HLEN + (ip4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	bool udp = p->protocol == IPPROTO_UDP;
	__u64 before, after;
	__sum16 *checksum;

	before = sum_of(p->source, ip4) + sum_of(p->target, ip4);
	after = sum_of(way->source, ip4) + sum_of(way->target, ip4);
	if (udp) {
		if (transport + 8 > end)
			return XDP_PASS;
		checksum = transport + 6;
	} else {
		if (transport + 20 > end)
			return XDP_PASS;
		checksum = transport + 16;
	}
	if (is_partial(p, before, *checksum))
		return XDP_PASS;

	/* From here on the packet is ours. */
	lb_nat_track(flow, p->tcp_flags, from_client);
	if (ip4) {
		struct iphdr *ip = data + ETH_HLEN;
		__u16 hops = *(__u16 *)&ip->ttl;

		ip->check = changed(ip->check, before + hops, after + (__u16)(hops - 1));
		ip->ttl--;
		ip->saddr = way->source[3];
		ip->daddr = way->target[3];
	} else {
		struct ipv6hdr *ip = data + ETH_HLEN;

		ip->hop_limit--;
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
	__builtin_memcpy(data, way->hop->macs, sizeof(way->hop->macs));
	if (lb_xdp_counts)
		lb_nat_count(flow, p->payload);
	if (way->hop->ifindex == ctx->ingress_ifindex)
		return XDP_TX;
	return bpf_redirect(way->hop->ifindex, 0);
}

static __always_inline int forward(struct xdp_md *ctx)
{
	struct lb_packet p = {};
	struct lb_nat_flow *flow;
	struct way way;
	bool from_client;
	__u32 number;

	if (!read_packet(ctx, &p))
		return XDP_PASS;
	/* Opening is the business of tc. */
	if ((p.tcp_flags & (LB_TCP_SYN | LB_TCP_ACK)) == LB_TCP_SYN)
		return XDP_PASS;
	/* Answers come to ports of the range; those to ports of an earlier one go by tc. */
	number = bpf_ntohs(p.target_port) - lb_nat_base <= lb_nat_mask ? lb_nat_find_answer(&p) : 0;
	from_client = !number;
	if (!number)
		number = lb_nat_find(&p);
	flow = number ? lb_nat_flow_at(number - 1) : NULL;
	/* While flows change hands, tc decides. */
	if (!flow || lb_hold() >= LB_HOLD_KNOWN)
		return XDP_PASS;
	if (from_client) {
		/* Datagrams to a backend that is gone get another one. */
		if (p.protocol == IPPROTO_UDP && !lb_nat_goes_on(flow, false))
			return XDP_PASS;
		way = (struct way){ flow->source, flow->backend, flow->nat_port, flow->backend_port, &flow->to_backend };
	} else {
		way = (struct way){ flow->vip, flow->client, flow->vip_port, flow->client_port, &flow->to_client };
	}
	if (!lb_hop_is_fresh(way.hop)) {
		struct bpf_fib_lookup fib;

		lb_fib_question(&fib, &p, way.source, way.target, ctx->ingress_ifindex);
		if (lb_route_to(ctx, &fib, way.hop) != LB_ROUTE_FOUND)
			return XDP_PASS;
	}
	if (!(way.hop->tick & LB_HOP_XDP) || (way.hop->mtu && p.l4 - ETH_HLEN + p.payload > way.hop->mtu))
		return XDP_PASS;
	if (p.ip4)
		return send(ctx, &p, flow, &way, from_client, true);
	return send(ctx, &p, flow, &way, from_client, false);
}

/* Packets in several parts, as drivers make them of large frames, are taken, too. */
SEC("xdp.frags")
int lb_xdp(struct xdp_md *ctx)
{
	return forward(ctx);
}

/*
 * For generic mode. There a program that takes several parts gets a copied packet, behind which tc sees packets without
 * their Ethernet header (seen on Linux 6.18: skb_cow_data_for_xdp() leaves mac_len 0).
 */
SEC("xdp")
int lb_xdp_generic(struct xdp_md *ctx)
{
	return forward(ctx);
}

char _license[] SEC("license") = "Dual BSD/GPL";
