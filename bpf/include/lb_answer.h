/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Refusing a packet to its sender: a TCP reset, or an ICMP port unreachable. Made from the packet itself and sent
 * back where it came from, so that one packet never becomes two and no limit of the kernel's ICMP can swallow it
 * (kube-proxy's reject answers 7 of 40 connections for that reason).
 */
#ifndef LB_ANSWER_H
#define LB_ANSWER_H

#include "lb_packet.h"

#define LB_ICMP_EMBEDDED 8 /* bytes of the transport header, RFC 792 */
/*
 * IPv6 extension headers before it, at most: without what follows them the sender can't tell whose packet it was, and
 * one of fragments would never learn what fits. A fragment header has 8 bytes; others are kept as far as there is room.
 */
#define LB_ICMP_EXTENSIONS 8
/* Of TCP the whole one: while hardware is to fill its checksum in, the kernel refuses to cut that off. */
#define LB_ICMP_EMBEDDED_TCP 20

static __always_inline __u16 lb_fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Source and target change places, which no checksum notices. */
static __always_inline int lb_turn_around(struct __sk_buff *skb, const struct lb_packet *p)
{
	long failed = 0;

	if (p->ip4) {
		__be32 pair[2] = { p->target[3], p->source[3] };

		failed |= bpf_skb_store_bytes(skb, ETH_HLEN + 12, pair, 8, 0);
	} else {
		__be32 pair[8];

		lb_copy_address(pair, p->target);
		lb_copy_address(pair + 4, p->source);
		failed |= bpf_skb_store_bytes(skb, ETH_HLEN + 8, pair, 32, 0);
	}
	return failed ? -1 : lb_swap_macs(skb);
}

/* The first 14 bytes of a TCP header. */
struct lb_tcp_start {
	__be16 ports[2];
	__be32 sequence;
	__be32 acknowledged;
	__be16 flags;
} __attribute__((packed));

/* RFC 9293, 3.10.7.1: what answers a segment to a connection that does not exist. Options and data stay in it. */
static __always_inline void lb_reset_of(const struct lb_packet *p, const struct lb_tcp_start *old,
					struct lb_tcp_start *new)
{
	__u32 header, data;

	new->ports[0] = old->ports[1];
	new->ports[1] = old->ports[0];
	if (p->tcp_flags & LB_TCP_ACK) {
		new->sequence = old->acknowledged;
		new->acknowledged = 0;
		new->flags = (old->flags & bpf_htons(0xf000)) | bpf_htons(LB_TCP_RST);
	} else {
		header = (bpf_ntohs(old->flags) >> 12) * 4;
		data = p->payload > header ? p->payload - header : 0;
		new->sequence = 0;
		new->acknowledged = bpf_htonl(bpf_ntohl(old->sequence) + data +
					      !!(p->tcp_flags & LB_TCP_SYN) + !!(p->tcp_flags & LB_TCP_FIN));
		new->flags = (old->flags & bpf_htons(0xf000)) | bpf_htons(LB_TCP_RST | LB_TCP_ACK);
	}
}

static __always_inline int lb_answer_reset(struct __sk_buff *skb, const struct lb_packet *p)
{
	struct lb_tcp_start old, new;
	__u32 sum_at = lb_checksum_at(p);
	long failed = 0;

	if (bpf_skb_load_bytes(skb, p->l4, &old, sizeof(old)))
		return -1;
	lb_reset_of(p, &old, &new);
	failed |= bpf_l4_csum_replace(skb, sum_at, old.sequence, new.sequence, 4);
	failed |= bpf_l4_csum_replace(skb, sum_at, old.acknowledged, new.acknowledged, 4);
	failed |= bpf_l4_csum_replace(skb, sum_at, old.flags, new.flags, 2);
	failed |= bpf_skb_store_bytes(skb, p->l4, &new, sizeof(new), 0);
	return failed ? -1 : lb_turn_around(skb, p);
}

struct lb_icmp_head {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be32 unused;
};

enum lb_complaint {
	LB_PORT_UNREACHABLE,
	LB_HOPS_USED_UP,
	LB_TOO_BIG,
};

/* What an ICMP error says, in each family. */
struct lb_words {
	__u8 type4, code4, type6, code6;
};

static __always_inline struct lb_words lb_words_of(enum lb_complaint complaint)
{
	if (complaint == LB_HOPS_USED_UP)
		return (struct lb_words){ 11, 0, 3, 0 };
	if (complaint == LB_TOO_BIG)
		return (struct lb_words){ 3, 4, 2, 0 };
	return (struct lb_words){ 3, 3, 1, 4 };
}

/* Bytes of the packet that go into the error, from its IP header on. */
static __always_inline __u32 lb_embedded(const struct lb_packet *p, __u32 header)
{
	return header + (p->protocol == IPPROTO_TCP ? LB_ICMP_EMBEDDED_TCP : LB_ICMP_EMBEDDED);
}

struct lb_error4 {
	struct iphdr ip;
	struct lb_icmp_head icmp;
};

struct lb_error6 {
	struct ipv6hdr ip;
	struct lb_icmp_head icmp;
};

/* What errors keep of a packet, at most; what it has less of is 0. */
#define LB_EMBEDDED4 (sizeof(struct iphdr) + LB_ICMP_EMBEDDED_TCP)
#define LB_EMBEDDED6 (sizeof(struct ipv6hdr) + LB_ICMP_EMBEDDED_TCP)

/* The headers of an error about a packet, to its sender; `sum` is that of the bytes that it keeps. */
static __always_inline void lb_error4_of(const struct lb_packet *p, struct lb_words why, __u32 mtu,
					 __u64 sum, __u32 kept, struct lb_error4 *head)
{
	*head = (struct lb_error4){
		.ip = {
			.version = 4,
			.ihl = 5,
			.ttl = 64,
			.protocol = IPPROTO_ICMP,
			.saddr = p->target[3],
			.daddr = p->source[3],
			.tot_len = bpf_htons(sizeof(*head) + kept),
		},
		/* RFC 1191: the MTU is in the lower half. */
		.icmp = { .type = why.type4, .code = why.code4, .unused = bpf_htonl(mtu) },
	};
	head->ip.check = lb_fold(bpf_csum_diff(NULL, 0, (__be32 *)&head->ip, sizeof(head->ip), 0));
	head->icmp.checksum = lb_fold(bpf_csum_diff(NULL, 0, (__be32 *)&head->icmp, 8, sum));
}

static __always_inline void lb_error6_of(const struct lb_packet *p, struct lb_words why, __u32 mtu,
					 __u64 sum, __u32 kept, struct lb_error6 *head)
{
	struct {
		__be32 addresses[8];
		__be32 length;
		__be32 next;
	} pseudo = {
		.length = bpf_htonl(sizeof(struct lb_icmp_head) + kept),
		.next = bpf_htonl(IPPROTO_ICMPV6),
	};

	*head = (struct lb_error6){
		.ip = {
			.version = 6,
			.nexthdr = IPPROTO_ICMPV6,
			.hop_limit = 64,
			.payload_len = bpf_htons(sizeof(struct lb_icmp_head) + kept),
		},
		.icmp = { .type = why.type6, .code = why.code6, .unused = bpf_htonl(mtu) },
	};
	__builtin_memcpy(&head->ip.saddr, p->target, 16);
	__builtin_memcpy(&head->ip.daddr, p->source, 16);
	lb_copy_address(pseudo.addresses, p->target);
	lb_copy_address(pseudo.addresses + 4, p->source);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&pseudo, sizeof(pseudo), sum);
	head->icmp.checksum = lb_fold(bpf_csum_diff(NULL, 0, (__be32 *)&head->icmp, 8, sum));
}

/* Reads what is kept of a packet. Returns whether that failed. */
static __always_inline bool lb_read_kept(struct __sk_buff *skb, void *to, __u32 kept, __u32 most)
{
	/*
	 * The verifier of Linux 6.1 has to see both bounds. The compiler knows them and would leave them out, or make one
	 * comparison of both that the verifier understands nothing of.
	 */
	asm volatile("" : "+r"(kept));
	if (kept > most)
		return true;
	asm volatile("" : "+r"(kept));
	return kept < sizeof(struct iphdr) || bpf_skb_load_bytes(skb, ETH_HLEN, to, kept);
}

static __always_inline int lb_answer_icmp4(struct __sk_buff *skb, const struct lb_packet *p,
					   struct lb_words why, __u32 mtu)
{
	__u32 kept = lb_embedded(p, sizeof(struct iphdr));
	__u8 embedded[LB_EMBEDDED4] = {};
	struct lb_error4 head;

	/* Options would move what is embedded; nobody sends them. */
	if (p->l4 != ETH_HLEN + sizeof(struct iphdr) || lb_read_kept(skb, embedded, kept, sizeof(embedded)))
		return -1;
	lb_error4_of(p, why, mtu, bpf_csum_diff(NULL, 0, (__be32 *)embedded, sizeof(embedded), 0), kept, &head);
	if (bpf_skb_change_tail(skb, ETH_HLEN + kept, 0) ||
	    bpf_skb_adjust_room(skb, sizeof(head), BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &head, sizeof(head), BPF_F_RECOMPUTE_CSUM))
		return -1;
	return lb_swap_macs(skb);
}

static __always_inline int lb_answer_icmp6(struct __sk_buff *skb, const struct lb_packet *p,
					   struct lb_words why, __u32 mtu)
{
	__u32 extensions = p->l4 - ETH_HLEN - sizeof(struct ipv6hdr);
	__u8 embedded[LB_EMBEDDED6] = {};
	struct lb_error6 head;
	__u32 kept;

	if (extensions > LB_ICMP_EXTENSIONS)
		extensions = 0;
	kept = lb_embedded(p, sizeof(struct ipv6hdr) + extensions);
	/* TCP behind an extension header: its ports and its sequence number. */
	if (kept > sizeof(embedded))
		kept = sizeof(embedded);
	if (lb_read_kept(skb, embedded, kept, sizeof(embedded)))
		return -1;
	lb_error6_of(p, why, mtu, bpf_csum_diff(NULL, 0, (__be32 *)embedded, sizeof(embedded), 0), kept, &head);
	if (bpf_skb_change_tail(skb, ETH_HLEN + kept, 0) ||
	    bpf_skb_adjust_room(skb, sizeof(head), BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &head, sizeof(head), BPF_F_RECOMPUTE_CSUM))
		return -1;
	return lb_swap_macs(skb);
}

/* Makes an error of the packet. A function by itself, for the stack has 512 bytes. `mtu` is that of "too big", else 0. */
__noinline int lb_answer_icmp(struct __sk_buff *skb, const struct lb_packet *p, __u32 complaint, __u32 mtu)
{
	struct lb_words why = lb_words_of(complaint);

	if (!p)
		return -1;
	return p->ip4 ? lb_answer_icmp4(skb, p, why, mtu) : lb_answer_icmp6(skb, p, why, mtu);
}

#endif
