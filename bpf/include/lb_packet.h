/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Reading and rewriting packets in tc. Addresses, ports and checksums are in network order. */
#ifndef LB_PACKET_H
#define LB_PACKET_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include "lb_choose.h"

#define LB_TCP_FIN 0x01
#define LB_TCP_SYN 0x02
#define LB_TCP_RST 0x04
#define LB_TCP_ACK 0x10

#define LB_IP4_AT ETH_HLEN
#define LB_IP4_CHECKSUM_AT (ETH_HLEN + 10)

enum lb_parsed {
	LB_PARSED, /* with ports, or an ICMP message whose `source_port` holds type and code */
	LB_PARSED_NO_PORTS, /* another protocol, or a later fragment of something unknown */
	LB_PARSED_OTHER, /* not IP, or broken: not ours to judge */
};

enum lb_fragment {
	LB_WHOLE,
	LB_FIRST_FRAGMENT,
	LB_LATER_FRAGMENT,
};

struct lb_packet {
	__be32 source[4];
	__be32 target[4];
	__be16 source_port;
	__be16 target_port;
	__u16 l4; /* where the transport header begins, from the Ethernet header on */
	__u8 protocol;
	__u8 tcp_flags;
	__u8 fragment; /* enum lb_fragment */
	bool ip4;
	__u16 payload; /* bytes from l4 on, as the IP header says; 0 for jumbograms */
};

/* Later fragments have no ports; the first one leaves them here. */
struct lb_fragment_key {
	__be32 source[4];
	__be32 target[4];
	__be32 id;
	__u32 protocol;
};

struct lb_fragment_ports {
	__be16 source;
	__be16 target;
};

/* fragmented packet -> its ports; programs. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct lb_fragment_key);
	__type(value, struct lb_fragment_ports);
} lb_fragments SEC(".maps");

/*
 * Copies a structure out of the packet: from memory where it lies in a row and near the front, so that the verifier
 * knows the offset as small, else by the helper.
 */
#define LB_READ(skb, at, to)                                                                   \
	({                                                                                     \
		__u32 at_ = (at);                                                              \
		void *from_ = (void *)(long)(skb)->data + (at_ & 0xff);                        \
		long failed_ = 0;                                                              \
		if (at_ <= 0xff && from_ + sizeof(*(to)) <= (void *)(long)(skb)->data_end)     \
			*(to) = *(typeof(to))from_;                                            \
		else                                                                           \
			failed_ = bpf_skb_load_bytes(skb, at_, to, sizeof(*(to)));             \
		failed_;                                                                       \
	})

static __always_inline enum lb_parsed lb_parse_ports(struct __sk_buff *skb, struct lb_packet *p, __be32 id)
{
	struct lb_fragment_key key;
	struct lb_fragment_ports ports;

	if (p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6) {
		if (p->fragment == LB_LATER_FRAGMENT)
			return LB_PARSED_NO_PORTS;
		return bpf_skb_load_bytes(skb, p->l4, &p->source_port, 2) ? LB_PARSED_OTHER : LB_PARSED;
	}
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return LB_PARSED_NO_PORTS;
	if (p->fragment != LB_WHOLE) {
		lb_copy_address(key.source, p->source);
		lb_copy_address(key.target, p->target);
		key.id = id;
		key.protocol = p->protocol;
	}
	if (p->fragment == LB_LATER_FRAGMENT) {
		struct lb_fragment_ports *known = bpf_map_lookup_elem(&lb_fragments, &key);

		if (!known)
			return LB_PARSED_NO_PORTS;
		p->source_port = known->source;
		p->target_port = known->target;
		return LB_PARSED;
	}
	if (p->protocol == IPPROTO_TCP) {
		struct {
			struct lb_fragment_ports ports;
			__be32 numbers[2];
			__u8 offset;
			__u8 flags;
		} head;

		if (LB_READ(skb, p->l4, &head))
			return LB_PARSED_OTHER;
		ports = head.ports;
		p->tcp_flags = head.flags;
	} else if (LB_READ(skb, p->l4, &ports)) {
		return LB_PARSED_OTHER;
	}
	p->source_port = ports.source;
	p->target_port = ports.target;
	if (p->fragment == LB_FIRST_FRAGMENT)
		bpf_map_update_elem(&lb_fragments, &key, &ports, BPF_ANY);
	return LB_PARSED;
}

static __always_inline enum lb_parsed lb_parse4(struct __sk_buff *skb, struct lb_packet *p)
{
	struct iphdr ip;
	__u16 offset, length;

	if (LB_READ(skb, ETH_HLEN, &ip) || ip.version != 4 || ip.ihl < 5)
		return LB_PARSED_OTHER;
	lb_map_ip4(p->source, ip.saddr);
	lb_map_ip4(p->target, ip.daddr);
	p->ip4 = true;
	p->protocol = ip.protocol;
	p->l4 = ETH_HLEN + ip.ihl * 4;
	length = bpf_ntohs(ip.tot_len);
	p->payload = length > ip.ihl * 4 ? length - ip.ihl * 4 : 0;
	offset = bpf_ntohs(ip.frag_off);
	if (offset & 0x1fff)
		p->fragment = LB_LATER_FRAGMENT;
	else if (offset & 0x2000)
		p->fragment = LB_FIRST_FRAGMENT;
	return lb_parse_ports(skb, p, ip.id);
}

#define LB_IP6_HEADERS 6

static __always_inline enum lb_parsed lb_parse6(struct __sk_buff *skb, struct lb_packet *p)
{
	struct ipv6hdr ip;
	__be32 id = 0;
	__u8 next;

	if (LB_READ(skb, ETH_HLEN, &ip) || ip.version != 6)
		return LB_PARSED_OTHER;
	__builtin_memcpy(p->source, &ip.saddr, 16);
	__builtin_memcpy(p->target, &ip.daddr, 16);
	next = ip.nexthdr;
	p->l4 = ETH_HLEN + sizeof(ip);
	for (int i = 0; i < LB_IP6_HEADERS; i++) {
		__u8 head[8];

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT)
			break;
		if (bpf_skb_load_bytes(skb, p->l4, head, sizeof(head)))
			return LB_PARSED_OTHER;
		if (next == IPPROTO_FRAGMENT) {
			__be16 offset;

			__builtin_memcpy(&offset, head + 2, 2);
			__builtin_memcpy(&id, head + 4, 4);
			if (offset & bpf_htons(0xfff8))
				p->fragment = LB_LATER_FRAGMENT;
			else if (offset & bpf_htons(1))
				p->fragment = LB_FIRST_FRAGMENT;
			p->l4 += 8;
		} else {
			p->l4 += (head[1] + 1) * 8;
		}
		next = head[0];
		if (p->fragment == LB_LATER_FRAGMENT)
			break;
	}
	p->protocol = next;
	p->payload = bpf_ntohs(ip.payload_len) + ETH_HLEN + sizeof(ip) - p->l4;
	return lb_parse_ports(skb, p, id);
}

static __always_inline enum lb_parsed lb_parse(struct __sk_buff *skb, struct lb_packet *p)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return lb_parse4(skb, p);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return lb_parse6(skb, p);
	return LB_PARSED_OTHER;
}

static __always_inline __u32 lb_checksum_at(const struct lb_packet *p)
{
	return p->l4 + (p->protocol == IPPROTO_TCP ? 16 : 6);
}

/* A UDP checksum of 0 means that there is none, and must stay so. */
static __always_inline __u64 lb_checksum_flags(const struct lb_packet *p)
{
	return p->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
}

/*
 * Puts another address and port in place of the source or the target. The helpers know what a checksum field
 * stands for (a whole sum, or the pseudo header's for hardware to complete), also for packets of many segments.
 */
static __always_inline int lb_rewrite(struct __sk_buff *skb, const struct lb_packet *p, bool source,
				      const __be32 *address, __be16 port)
{
	const __be32 *old = source ? p->source : p->target;
	__be16 old_port = source ? p->source_port : p->target_port;
	bool transport = p->fragment != LB_LATER_FRAGMENT;
	__u64 flags = lb_checksum_flags(p);
	__u32 sum_at = lb_checksum_at(p);
	long failed = 0;

	if (p->ip4) {
		__be32 from = old[3], to = address[3];

		if (transport)
			failed |= bpf_l4_csum_replace(skb, sum_at, from, to, flags | BPF_F_PSEUDO_HDR | 4);
		failed |= bpf_l3_csum_replace(skb, LB_IP4_CHECKSUM_AT, from, to, 4);
		failed |= bpf_skb_store_bytes(skb, ETH_HLEN + (source ? 12 : 16), &to, 4, 0);
	} else {
		__be32 from[4], to[4];

		lb_copy_address(from, old);
		lb_copy_address(to, address);
		if (transport)
			failed |= bpf_l4_csum_replace(skb, sum_at, 0, bpf_csum_diff(from, 16, to, 16, 0),
						      flags | BPF_F_PSEUDO_HDR);
		failed |= bpf_skb_store_bytes(skb, ETH_HLEN + (source ? 8 : 24), to, 16, 0);
	}
	if (transport && port != old_port) {
		failed |= bpf_l4_csum_replace(skb, sum_at, old_port, port, flags | 2);
		failed |= bpf_skb_store_bytes(skb, p->l4 + (source ? 0 : 2), &port, 2, 0);
	}
	return failed ? -1 : 0;
}

static __always_inline int lb_swap_macs(struct __sk_buff *skb)
{
	__u8 macs[12], swapped[12];

	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return -1;
	__builtin_memcpy(swapped, macs + 6, 6);
	__builtin_memcpy(swapped + 6, macs, 6);
	return bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), 0) ? -1 : 0;
}

#endif
