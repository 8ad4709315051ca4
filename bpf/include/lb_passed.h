/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Flows that go from nftables to these programs, and back, when a node changes its Service engine.
 *
 *     nftables -> eBPF   their NAT is in conntrack, which goes on with it: their packets pass, as they are
 *     eBPF -> nftables   the agent writes conntrack entries for them; meanwhile their packets are dropped (lb_handed)
 */
#ifndef LB_PASSED_H
#define LB_PASSED_H

#include "lb_flow.h"

/* client and VIP -> flow of netfilter; the agent, programs only `seen`. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct lb_passed_key);
	__type(value, struct lb_passed);
} lb_passed SEC(".maps");

/* Whether netfilter translates this packet of a client. Asked only where no flow of these programs is known. */
__noinline bool lb_is_passed(const struct lb_packet *p)
{
	struct lb_passed_key key;
	struct lb_passed *passed;
	struct lb_backend *backend;
	__u32 now;

	if (!p)
		return false;
	lb_endpoint_of(&key.client, p->source, p->source_port, p->protocol);
	lb_endpoint_of(&key.vip, p->target, p->target_port, p->protocol);
	passed = bpf_map_lookup_elem(&lb_passed, &key);
	if (!passed)
		return false;
	now = bpf_jiffies64();
	if (passed->idle && passed->seen && now - passed->seen > passed->idle)
		return false;
	if (passed->backend_id) {
		backend = lb_backend_of(passed->backend_id);
		if (!backend || !lb_is_backend(backend, passed->backend, passed->backend_port))
			return false;
	}
	if (now != passed->seen)
		passed->seen = now;
	return true;
}

#define LB_NOT_HANDED 0

/* Verdict on a packet of a known flow while flows are handed to netfilter: it stands still, or passes. */
static __always_inline int lb_handed(void)
{
	__u32 hold = lb_hold();

	if (hold < LB_HOLD_KNOWN)
		return LB_NOT_HANDED;
	if (hold == LB_HOLD_ALL)
		return -1; /* TCX_NEXT */
	lb_count(LB_DROP_HOLD);
	return 2; /* TCX_DROP */
}

#endif
