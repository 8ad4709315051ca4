/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * What each Service port and each backend was used for: one increment of this CPU's own counter, found by the ids
 * that the step at hand has already. Counters lie in chunks like what they count; where user space made none,
 * nothing is counted.
 */
#ifndef LB_COUNT_H
#define LB_COUNT_H

#include "lb_maps.h"

/* Whether packets of translated flows are counted, too: a few nanoseconds each. */
const volatile bool lb_count_packets = true;

/* id / 1024 -> { id % 1024 -> count }; programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, LB_CHUNKS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
		__uint(max_entries, LB_CHUNK);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct lb_count));
	});
} lb_backend_counts SEC(".maps");

/* service / 1024 -> { service % 1024 -> count }; programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, LB_CHUNKS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
		__uint(max_entries, LB_CHUNK);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct lb_count));
	});
} lb_service_counts SEC(".maps");

static __always_inline struct lb_count *lb_count_of(void *outer, __u32 id)
{
	__u32 chunk = id >> LB_CHUNK_BITS;
	__u32 place = id & (LB_CHUNK - 1);
	void *map = bpf_map_lookup_elem(outer, &chunk);

	return map ? bpf_map_lookup_elem(map, &place) : NULL;
}

/* A new connection, or the first datagram of a flow, was given a backend. */
static __always_inline void lb_count_connection(__u32 service, __u32 backend_id)
{
	struct lb_count *count = lb_count_of(&lb_service_counts, service);

	if (count)
		count->connections++;
	count = lb_count_of(&lb_backend_counts, backend_id);
	if (count)
		count->connections++;
}

/* One was refused or dropped. */
static __always_inline void lb_count_refused(__u32 service)
{
	struct lb_count *count = lb_count_of(&lb_service_counts, service);

	if (count)
		count->refused++;
}

/* A packet of a flow, in either direction; `bytes` from the transport header on. */
static __always_inline void lb_count_packet(__u32 backend_id, __u32 bytes)
{
	struct lb_count *count = lb_count_of(&lb_backend_counts, backend_id);

	if (count) {
		count->packets++;
		count->bytes += bytes;
	}
}

#endif
