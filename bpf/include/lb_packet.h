/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Reading and rewriting packets in tc. Addresses, ports and checksums are in network order. */
#ifndef LB_PACKET_H
#define LB_PACKET_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
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
	LB_PARSED_CUT, /* it ends within its headers: only addresses are known */
	LB_PARSED_OTHER, /* not IP: not ours to judge */
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
	__u16 payload; /* bytes from l4 on, as the IP header says; 0 where it says less than there are headers */
};

/* The packet inside an ICMP error, as far as it names its flow. */
struct embedded {
	struct lb_packet packet;
	__u16 at; /* its IP header, from the Ethernet header on */
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

/* ICMP of the packet's own family; the other one is a foreign protocol. */
static __always_inline bool lb_is_icmp(const struct lb_packet *p)
{
	return p->protocol == (p->ip4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

/* All four demand whole headers: a first fragment with less is an attack on filters (RFC 1858). */
static __always_inline enum lb_parsed lb_parse_ports(struct __sk_buff *skb, struct lb_packet *p, __be32 id)
{
	struct lb_fragment_key key;
	struct lb_fragment_ports ports;

	if (lb_is_icmp(p)) {
		__be16 head[4]; /* type and code, checksum, 4 bytes more */

		if (p->fragment == LB_LATER_FRAGMENT)
			return LB_PARSED_NO_PORTS;
		if (bpf_skb_load_bytes(skb, p->l4, head, sizeof(head)))
			return LB_PARSED_CUT;
		p->source_port = head[0];
		return LB_PARSED;
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
			__be16 window[3];
		} head;

		if (LB_READ(skb, p->l4, &head))
			return LB_PARSED_CUT;
		ports = head.ports;
		p->tcp_flags = head.flags;
	} else {
		struct {
			struct lb_fragment_ports ports;
			__be32 length;
		} head;

		if (LB_READ(skb, p->l4, &head))
			return LB_PARSED_CUT;
		ports = head.ports;
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
	__u16 headers, length;
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
			return LB_PARSED_CUT;
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
	headers = p->l4 - ETH_HLEN - sizeof(ip);
	length = bpf_ntohs(ip.payload_len);
	p->payload = length > headers ? length - headers : 0;
	return lb_parse_ports(skb, p, id);
}

/*
 * Packets with anything out of the ordinary. A function by itself, which the verifier checks once and forgets about;
 * inline it walked through all that follows once for each way through here ("processed 623690 insns", of a million).
 */
__noinline int lb_parse_any(struct __sk_buff *skb, struct lb_packet *p)
{
	if (!p)
		return LB_PARSED_OTHER;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return lb_parse4(skb, p);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return lb_parse6(skb, p);
	return LB_PARSED_OTHER;
}

/* What a header without options says of a packet. */
static __always_inline void lb_fill4(struct lb_packet *p, const struct iphdr *ip)
{
	__u16 length = bpf_ntohs(ip->tot_len);

	lb_map_ip4(p->source, ip->saddr);
	lb_map_ip4(p->target, ip->daddr);
	p->ip4 = true;
	p->protocol = ip->protocol;
	p->l4 = ETH_HLEN + sizeof(*ip);
	p->payload = length > sizeof(*ip) ? length - sizeof(*ip) : 0;
}

/* The same of a header without extensions. */
static __always_inline void lb_fill6(struct lb_packet *p, const struct ipv6hdr *ip)
{
	__builtin_memcpy(p->source, &ip->saddr, 16);
	__builtin_memcpy(p->target, &ip->daddr, 16);
	p->protocol = ip->nexthdr;
	p->l4 = ETH_HLEN + sizeof(*ip);
	p->payload = bpf_ntohs(ip->payload_len);
}

/* Whether it is nothing but an IP header and a whole TCP or UDP header at the front, as nearly all are. */
static __always_inline bool lb_parse_plain(struct __sk_buff *skb, struct lb_packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip6 = data + ETH_HLEN;
	struct iphdr *ip = data + ETH_HLEN;
	struct tcphdr *tcp;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		tcp = (void *)(ip + 1);
		if ((void *)(tcp + 1) > end || *(__u8 *)ip != 0x45 || ip->frag_off & bpf_htons(0x3fff))
			return false;
		lb_fill4(p, ip);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		tcp = (void *)(ip6 + 1);
		if ((void *)(tcp + 1) > end || ip6->version != 6)
			return false;
		lb_fill6(p, ip6);
	} else {
		return false;
	}
	if (p->protocol == IPPROTO_TCP)
		p->tcp_flags = ((__u8 *)tcp)[13];
	else if (p->protocol != IPPROTO_UDP)
		return false;
	p->source_port = tcp->source;
	p->target_port = tcp->dest;
	return true;
}

static __always_inline int lb_parse(struct __sk_buff *skb, struct lb_packet *p)
{
	struct lb_packet any = {};
	int parsed;

	if (lb_parse_plain(skb, p))
		return LB_PARSED;
	parsed = lb_parse_any(skb, &any);
	*p = any;
	return parsed;
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
 * Without a header checksum that makes up for it, a new IPv6 address changes what the network card summed up; the
 * helper for the transport checksum takes its own change off that sum as if there were one (kernels without
 * BPF_F_IPV6), so that storing has to add it.
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
		failed |= bpf_skb_store_bytes(skb, ETH_HLEN + (source ? 8 : 24), to, 16, BPF_F_RECOMPUTE_CSUM);
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
