// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * The table of flows beside an LRU hash of the shape that it had before: four flows of a client port in a value. Each
 * run deals with another client, in an order in which neighbours never follow each other.
 */
#include "../include/lb_flow.h"

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct lb_endpoint);
	__uint(value_size, 4 * sizeof(struct lb_flow));
} bench_lru SEC(".maps");

struct bench_value {
	struct lb_flow flow[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bench_value);
} bench_scratch SEC(".maps");

struct bench_flows {
	__u32 clients; /* a power of two */
	__u32 next;
	__u64 failed;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bench_flows);
} bench_setting SEC(".maps");

static __always_inline struct bench_flows *next_client(struct lb_flow_name *name)
{
	struct bench_flows *bench;
	__u32 only = 0, client;

	bench = bpf_map_lookup_elem(&bench_setting, &only);
	if (!bench)
		return NULL;
	client = bench->next++ * 2654435761U & (bench->clients - 1);
	__builtin_memset(name, 0, sizeof(*name));
	lb_map_ip4(name->client, bpf_htonl(0x0b000000 | client));
	lb_map_ip4(name->peer, bpf_htonl(0x0a600001));
	name->client_port = bpf_htons(1024 + client * 7);
	name->peer_port = bpf_htons(80);
	name->protocol = IPPROTO_TCP;
	name->mask = name->flags = LB_FLOW_USED;
	return bench;
}

static __always_inline void fill(struct lb_flow *flow, const struct lb_flow_name *name)
{
	lb_copy_address(flow->client, name->client);
	lb_copy_address(flow->vip, name->peer);
	flow->client_port = name->client_port;
	flow->vip_port = name->peer_port;
	flow->seen = bpf_jiffies64();
	flow->flags = LB_FLOW_USED | LB_FLOW_CONFIRMED;
}

SEC("xdp")
int bench_nothing(struct xdp_md *ctx)
{
	struct lb_flow_name name;

	(void)ctx;
	return next_client(&name) ? 1 : 0;
}

SEC("xdp")
int bench_table_find(struct xdp_md *ctx)
{
	struct lb_flow_name name;
	struct bench_flows *bench = next_client(&name);
	struct lb_flow *flow;
	__u32 number;

	(void)ctx;
	number = lb_flow_find(&name);
	flow = number ? lb_flow_at(number - 1) : NULL;
	if (bench && (!flow || !(flow->flags & LB_FLOW_USED)))
		bench->failed++;
	return 1;
}

SEC("xdp")
int bench_table_open(struct xdp_md *ctx)
{
	struct lb_flow_name name;
	struct bench_flows *bench = next_client(&name);
	struct lb_flow *flow;
	__u32 number;

	(void)ctx;
	number = lb_flow_find(&name);
	if (!number)
		number = lb_flow_claim(&name);
	flow = number ? lb_flow_at(number - 1) : NULL;
	if (flow)
		fill(flow, &name);
	else if (bench)
		bench->failed++;
	return 1;
}

static __always_inline void key_of(struct lb_endpoint *key, const struct lb_flow_name *name)
{
	lb_endpoint_of(key, name->client, name->client_port, name->protocol);
}

SEC("xdp")
int bench_lru_find(struct xdp_md *ctx)
{
	struct bench_value *value;
	struct lb_flow_name name;
	struct bench_flows *bench = next_client(&name);
	struct lb_endpoint key;
	bool found = false;

	(void)ctx;
	key_of(&key, &name);
	value = bpf_map_lookup_elem(&bench_lru, &key);
	if (value)
		for (int i = 0; i < 4 && !found; i++)
			found = (value->flow[i].flags & LB_FLOW_USED) && value->flow[i].vip_port == name.peer_port &&
				lb_same_address(value->flow[i].vip, name.peer);
	if (bench && !found)
		bench->failed++;
	return 1;
}

SEC("xdp")
int bench_lru_open(struct xdp_md *ctx)
{
	struct bench_value *value;
	struct lb_flow_name name;
	struct bench_flows *bench = next_client(&name);
	struct lb_endpoint key;
	__u32 only = 0;

	(void)ctx;
	key_of(&key, &name);
	if (bpf_map_lookup_elem(&bench_lru, &key))
		return 1;
	value = bpf_map_lookup_elem(&bench_scratch, &only);
	if (!value)
		return 1;
	fill(&value->flow[0], &name);
	if (bpf_map_update_elem(&bench_lru, &key, value, BPF_ANY) && bench)
		bench->failed++;
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
