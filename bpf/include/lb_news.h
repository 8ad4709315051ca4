/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* What programs tell the agent at once, so that it need not look while nothing happens. */
#ifndef LB_NEWS_H
#define LB_NEWS_H

#include "lb_choose.h"

/*
 * Words for the agent, which looks then: one for each `lb_flow_step` + 1 places that new flows took on a CPU, and which
 * Service's new flow was refused.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} lb_flow_news SEC(".maps");

#define LB_NEWS_TAKEN 0
#define LB_NEWS_REFUSED 0x40000000 /* by lb_flow_claim.h; the number of the Service below */
#define LB_NEWS_REFUSED_NAT 0x80000000 /* by lb_nat_claim.h */

/* When this CPU said last that it refused a flow, in eighths of a second: a flood is no reason to say it each time. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} lb_flow_told SEC(".maps");

/* Jiffies a second. */
const volatile __u32 lb_hz = 250;

/* A new flow of a Service found no place. */
static __always_inline void lb_flow_tell_refused(__u32 table, __u32 service)
{
	__u32 only = 0, word = table | service, tick = (__u32)bpf_jiffies64() / (lb_hz / 8 + 1) | 1;
	__u32 *told = bpf_map_lookup_elem(&lb_flow_told, &only);

	if (!told || *told == tick)
		return;
	*told = tick;
	bpf_ringbuf_output(&lb_flow_news, &word, sizeof(word), 0);
}

#endif
