/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Maps of the Service load balancer. User space pins them and shares them between the programs; it sets their
 * sizes. Tables and backends lie in chunks that are added when needed: an array of arrays has no size to outgrow.
 * Inner maps give sizes in bytes: clang leaves types that only they name out of BTF.
 */
#ifndef LB_MAPS_H
#define LB_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "lb_types.h"

#define LB_CHUNK_BITS 10
#define LB_CHUNK (1 << LB_CHUNK_BITS)
#define LB_CHUNKS 16384

/* [0] -> { endpoint -> frontend }; the agent; in a map of one so that a larger one can be swapped in. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH);
		__uint(map_flags, BPF_F_NO_PREALLOC);
		__uint(max_entries, 65536);
		__uint(key_size, sizeof(struct lb_endpoint));
		__uint(value_size, sizeof(struct lb_frontend));
	});
} lb_frontends SEC(".maps");

/* line / 1024 -> { line % 1024 -> 16 backend ids }; the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, LB_CHUNKS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, LB_CHUNK);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct lb_line));
	});
} lb_tables SEC(".maps");

/* id / 1024 -> { id % 1024 -> backend }; the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, LB_CHUNKS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, LB_CHUNK);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct lb_backend));
	});
} lb_backends SEC(".maps");

/* client -> backend; programs. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct lb_client);
	__type(value, struct lb_affinity);
} lb_affinities SEC(".maps");

/* 0 -> settings that change; the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lb_config);
} lb_config SEC(".maps");

/* enum lb_reason -> count; programs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LB_REASONS);
	__type(key, __u32);
	__type(value, __u64);
} lb_counters SEC(".maps");

static __always_inline void lb_count(__u32 reason)
{
	__u64 *count = bpf_map_lookup_elem(&lb_counters, &reason);

	if (count)
		*count += 1;
}

#endif
