/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * What nodes tell each other about a packet, in its own header: the VIP and port that the client asked for, and which
 * node says so. Always the first thing after the plain IP header, whatever else is there.
 *
 *     IPv4, 12 bytes, an option             | 158 | 12 | port | VIP | node |
 *     IPv6, 40 bytes, destination options   | next | 4 | 0x5e | 36 | port | 0x706f | VIP, 16 | node, 16 |
 *
 * Both numbers are of those for experiments (RFC 4727). 158 is copied into each fragment; of an option with 0x5e a host
 * that does not know it drops the packet (RFC 8200, 4.2), so that no pod ever answers as itself.
 */
#ifndef LB_OPTION_H
#define LB_OPTION_H

#include "lb_packet.h"

#define LB_OPTION4 158
#define LB_OPTION6 0x5e
#define LB_OPTION6_MARK bpf_htons(0x706f)

struct lb_option4 {
	__u8 type, length;
	__be16 port;
	__be32 vip;
	__be32 node;
};

struct lb_option6 {
	__u8 next, eights;
	__u8 type, length;
	__be16 port, mark;
	__be32 vip[4];
	__be32 node[4];
};

/* The same of both families. */
struct lb_told {
	__be32 vip[4];
	__be32 node[4];
	__be16 port;
};

static __always_inline __u32 lb_option_size(bool ip4)
{
	return ip4 ? sizeof(struct lb_option4) : sizeof(struct lb_option6);
}

/* Whether the header is long enough for one. Nearly none is. */
static __always_inline bool lb_may_have_option(const struct lb_packet *p)
{
	return p->l4 >= ETH_HLEN + (p->ip4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) + lb_option_size(p->ip4);
}

/* Reads what a node told. False: there is nothing. */
__noinline bool lb_option_read(struct __sk_buff *skb, const struct lb_packet *p, struct lb_told *told)
{
	__u8 next = 0;

	if (!p || !told || !lb_may_have_option(p))
		return false;
	if (p->ip4) {
		struct lb_option4 option;

		if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct iphdr), &option, sizeof(option)) ||
		    option.type != LB_OPTION4 || option.length != sizeof(option))
			return false;
		lb_map_ip4(told->vip, option.vip);
		lb_map_ip4(told->node, option.node);
		told->port = option.port;
	} else {
		struct lb_option6 option;

		if (bpf_skb_load_bytes(skb, ETH_HLEN + 6, &next, 1) || next != IPPROTO_DSTOPTS ||
		    bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr), &option, sizeof(option)) ||
		    option.eights != sizeof(option) / 8 - 1 || option.type != LB_OPTION6 ||
		    option.length != sizeof(option) - 4 || option.mark != LB_OPTION6_MARK)
			return false;
		lb_copy_address(told->vip, option.vip);
		lb_copy_address(told->node, option.node);
		told->port = option.port;
	}
	return true;
}

/*
 * Changes the length of an IPv4 header, and what stands where the option is. The checksum makes up for all of it, so
 * that what the network card summed up stays right without being told.
 */
static __always_inline int lb_option_write4(struct __sk_buff *skb, __be32 old_head, __be32 head,
					    const struct lb_option4 *old, const struct lb_option4 *option)
{
	__be32 from[4] = { old_head }, to[4] = { head };

	__builtin_memcpy(from + 1, old, sizeof(*old));
	__builtin_memcpy(to + 1, option, sizeof(*option));
	if (bpf_l3_csum_replace(skb, LB_IP4_CHECKSUM_AT, 0, bpf_csum_diff(from, 16, to, 16, 0), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &head, sizeof(head), 0))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(struct iphdr), option, sizeof(*option), 0) ? -1 : 0;
}

/* The first word of an IPv4 header with `more` bytes of options. 0: that is not possible. */
static __always_inline __be32 lb_longer_head(__be32 head, int more)
{
	__u32 word = bpf_ntohl(head), words = word >> 24 & 15, length = word & 0xffff;

	words += more / 4;
	length += more;
	if (words < 5 || words > 15 || length > 0xffff)
		return 0;
	return bpf_htonl((word & 0xf0ff0000) | words << 24 | length);
}

static __always_inline int lb_option_put4(struct __sk_buff *skb, const struct lb_told *told)
{
	struct lb_option4 nothing = {}, option = {
		.type = LB_OPTION4,
		.length = sizeof(option),
		.port = told->port,
		.vip = told->vip[3],
		.node = told->node[3],
	};
	__be32 old = 0, head;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &old, sizeof(old)))
		return -1;
	head = lb_longer_head(old, sizeof(option));
	if (!head || bpf_skb_adjust_room(skb, sizeof(option), BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO))
		return -1;
	return lb_option_write4(skb, old, head, &nothing, &option);
}

static __always_inline int lb_option_take4(struct __sk_buff *skb)
{
	struct lb_option4 nothing = {}, option;
	__be32 old = 0, head;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &old, sizeof(old)) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct iphdr), &option, sizeof(option)))
		return -1;
	head = lb_longer_head(old, -(int)sizeof(option));
	if (!head || lb_option_write4(skb, old, head, &option, &nothing))
		return -1;
	return bpf_skb_adjust_room(skb, -(__s32)sizeof(option), BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO) ? -1 : 0;
}

/* Length and next header of an IPv6 header. */
static __always_inline int lb_change_head6(struct __sk_buff *skb, int more, __u8 next)
{
	struct {
		__be16 length;
		__u8 next;
		__u8 hops;
	} head;
	__u32 length;

	if (bpf_skb_load_bytes(skb, ETH_HLEN + 4, &head, sizeof(head)))
		return -1;
	length = bpf_ntohs(head.length) + more;
	if (length > 0xffff)
		return -1;
	head.length = bpf_htons(length);
	head.next = next;
	return bpf_skb_store_bytes(skb, ETH_HLEN + 4, &head, sizeof(head), BPF_F_RECOMPUTE_CSUM) ? -1 : 0;
}

static __always_inline int lb_option_put6(struct __sk_buff *skb, const struct lb_told *told)
{
	struct lb_option6 option = {
		.eights = sizeof(option) / 8 - 1,
		.type = LB_OPTION6,
		.length = sizeof(option) - 4,
		.port = told->port,
		.mark = LB_OPTION6_MARK,
	};

	lb_copy_address(option.vip, told->vip);
	lb_copy_address(option.node, told->node);
	if (bpf_skb_load_bytes(skb, ETH_HLEN + 6, &option.next, 1) ||
	    lb_change_head6(skb, sizeof(option), IPPROTO_DSTOPTS) ||
	    bpf_skb_adjust_room(skb, sizeof(option), BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr), &option, sizeof(option),
				   BPF_F_RECOMPUTE_CSUM) ? -1 : 0;
}

static __always_inline int lb_option_take6(struct __sk_buff *skb)
{
	__u8 next;

	if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr), &next, 1) ||
	    lb_change_head6(skb, -(int)sizeof(struct lb_option6), next))
		return -1;
	return bpf_skb_adjust_room(skb, -(__s32)sizeof(struct lb_option6), BPF_ADJ_ROOM_NET,
				   BPF_F_ADJ_ROOM_FIXED_GSO) ? -1 : 0;
}

#endif
