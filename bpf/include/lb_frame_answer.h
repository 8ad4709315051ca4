/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Refusing a packet to its sender in XDP: what lb_answer.h does in tc. The packet lies in one part. */
#ifndef LB_FRAME_ANSWER_H
#define LB_FRAME_ANSWER_H

#include "lb_answer.h"
#include "lb_frame.h"
#include "lb_hop.h"

static __always_inline void swap_macs(struct ethhdr *ethernet, const struct ethhdr *of)
{
	__u8 source[ETH_ALEN];

	__builtin_memcpy(source, of->h_source, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, of->h_dest, ETH_ALEN);
	__builtin_memcpy(ethernet->h_dest, source, ETH_ALEN);
	ethernet->h_proto = of->h_proto;
}

/* Source and target change places, which no checksum notices. */
static __always_inline int reset_packet(struct xdp_md *ctx, const struct lb_packet *p, bool ip4)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *transport = data + ETH_HLEN + (ip4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	struct lb_tcp_start old, new;
	__sum16 *checksum = transport + 16;

	if (transport + 20 > end)
		return -1;
	__builtin_memcpy(&old, transport, sizeof(old));
	lb_reset_of(p, &old, &new);
	*checksum = changed(*checksum, (__u64)old.sequence + old.acknowledged + old.flags,
			    (__u64)new.sequence + new.acknowledged + new.flags);
	__builtin_memcpy(transport, &new, sizeof(new));
	if (ip4) {
		struct iphdr *ip = data + ETH_HLEN;

		ip->saddr = p->target[3];
		ip->daddr = p->source[3];
	} else {
		struct ipv6hdr *ip = data + ETH_HLEN;

		__builtin_memcpy(&ip->saddr, p->target, 16);
		__builtin_memcpy(&ip->daddr, p->source, 16);
	}
	swap_macs(data, data);
	return 0;
}

/* Cuts a packet to what its error keeps, and puts its own Ethernet header, turned round, and the error's `head` in front. */
static __always_inline int put_error(struct xdp_md *ctx, __u32 kept, const struct ethhdr *ethernet, const void *head,
				     __u32 size)
{
	long length = (long)ctx->data_end - (long)ctx->data;
	void *data;

	if (bpf_xdp_adjust_tail(ctx, ETH_HLEN + kept - length) || bpf_xdp_adjust_head(ctx, -(int)size))
		return -1;
	data = (void *)(long)ctx->data;
	if (data + ETH_HLEN + size > (void *)(long)ctx->data_end)
		return -1;
	swap_macs(data, ethernet);
	__builtin_memcpy(data + ETH_HLEN, head, size);
	return 0;
}

/* Makes an error that says that nobody is there of a datagram. */
static __always_inline int unreachable4(struct xdp_md *ctx, const struct lb_packet *p)
{
	__u32 kept = sizeof(struct iphdr) + LB_ICMP_EMBEDDED;
	void *data = (void *)(long)ctx->data;
	struct ethhdr ethernet;
	struct lb_error4 head;

	if (data + ETH_HLEN + kept > (void *)(long)ctx->data_end)
		return -1;
	ethernet = *(struct ethhdr *)data;
	lb_error4_of(p, lb_words_of(LB_PORT_UNREACHABLE), 0, bpf_csum_diff(NULL, 0, data + ETH_HLEN, kept, 0), kept,
		     &head);
	return put_error(ctx, kept, &ethernet, &head, sizeof(head));
}

static __always_inline int unreachable6(struct xdp_md *ctx, const struct lb_packet *p)
{
	__u32 kept = sizeof(struct ipv6hdr) + LB_ICMP_EMBEDDED;
	void *data = (void *)(long)ctx->data;
	struct ethhdr ethernet;
	struct lb_error6 head;

	if (data + ETH_HLEN + kept > (void *)(long)ctx->data_end)
		return -1;
	ethernet = *(struct ethhdr *)data;
	lb_error6_of(p, lb_words_of(LB_PORT_UNREACHABLE), 0, bpf_csum_diff(NULL, 0, data + ETH_HLEN, kept, 0), kept,
		     &head);
	return put_error(ctx, kept, &ethernet, &head, sizeof(head));
}

/* Tells the sender that nobody is there. A function by itself, for the stack has 512 bytes. */
__noinline int lb_xdp_refuse(struct xdp_md *ctx, const struct lb_packet *p, __u32 reason)
{
	__u32 ifindex = ctx->ingress_ifindex;
	struct lb_interface *link;
	int failed;

	if (!p)
		return XDP_ABORTED;
	if (p->protocol == IPPROTO_TCP) {
		if (p->tcp_flags & LB_TCP_RST) {
			lb_count(LB_REJECT_NO_FLOW);
			return XDP_DROP;
		}
		failed = p->ip4 ? reset_packet(ctx, p, true) : reset_packet(ctx, p, false);
	} else {
		failed = p->ip4 ? unreachable4(ctx, p) : unreachable6(ctx, p);
	}
	lb_count(failed ? LB_DROP_REWRITE : reason);
	if (failed)
		return XDP_DROP;
	link = bpf_map_lookup_elem(&lb_interfaces, &ifindex);
	return link && (link->flags & LB_I_TX) ? XDP_TX : bpf_redirect(ifindex, 0);
}

#endif
