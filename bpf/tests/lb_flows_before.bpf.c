// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/* Flows as they lay before there was a table for them: four of a client port in an LRU hash. For tests of upgrades. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "../include/lb_types.h"

#define LB_FLOWS 4
struct lb_flows {
	struct lb_flow flow[LB_FLOWS];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct lb_endpoint);
	__type(value, struct lb_flows);
} lb_flows SEC(".maps");

SEC("tcx/ingress")
int lb_flows_before(struct __sk_buff *skb)
{
	struct lb_endpoint client = {};

	(void)skb;
	return bpf_map_lookup_elem(&lb_flows, &client) != NULL;
}

char _license[] SEC("license") = "Dual BSD/GPL";
