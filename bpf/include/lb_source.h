/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Whether a pod sends with an address of its own. Policies, affinity and everybody's logs take a source for the truth,
 * and nothing after the pod's link can tell: the node's routes are asked for targets only (rp_filter is off there, and
 * IPv6 has none).
 */
#ifndef LB_SOURCE_H
#define LB_SOURCE_H

#include "lb_packet.h"

/* Value of lb_pod_sources: what a pod may call itself. */
struct lb_pod_source {
	__be32 ip6[4];
	__be32 ip4;
	__u32 families; /* 1 IPv4, 2 IPv6: of others nothing is its own */
};

#define LB_SOURCE_IP4 1
#define LB_SOURCE_IP6 2

/* interface of a pod link -> the pod's addresses; the agent. Links that are not in it are not asked. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct lb_pod_source);
} lb_pod_sources SEC(".maps");

static __always_inline bool lb_is_link_local(const __be32 *address)
{
	return (address[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/*
 * What IPv6 says on the link itself: neighbour discovery and multicast listener reports from fe80::/10, and before an
 * address is known to be free from :: (RFC 4862 section 5.4, RFC 3590). No node forwards these (RFC 4291 section 2.5).
 */
static __always_inline bool lb_is_of_link(const struct lb_packet *p)
{
	bool multicast = (p->target[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
	const __be32 *s = p->source;

	if (lb_is_link_local(s))
		return multicast || lb_is_link_local(p->target);
	return !(s[0] | s[1] | s[2] | s[3]) && multicast;
}

static __always_inline bool lb_is_own_source(__u32 link, const struct lb_packet *p)
{
	struct lb_pod_source *own = bpf_map_lookup_elem(&lb_pod_sources, &link);

	if (!own)
		return true;
	if (p->ip4)
		return (own->families & LB_SOURCE_IP4) && own->ip4 == p->source[3];
	return ((own->families & LB_SOURCE_IP6) && lb_same_address(own->ip6, p->source)) || lb_is_of_link(p);
}

#endif
