/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* From a frontend to a backend: the steps that sockets and packets share. */
#ifndef LB_CHOOSE_H
#define LB_CHOOSE_H

#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include "lb_count.h"

#define LB_NS_PER_S 1000000000ULL

static __always_inline bool lb_same_address(const __be32 *a, const __be32 *b)
{
	return a[3] == b[3] && a[2] == b[2] && a[1] == b[1] && a[0] == b[0];
}

static __always_inline void lb_copy_address(__be32 *to, const __be32 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

static __always_inline void lb_map_ip4(__be32 *to, __be32 ip4)
{
	to[0] = 0;
	to[1] = 0;
	to[2] = bpf_htonl(0xffff);
	to[3] = ip4;
}

static __always_inline bool lb_is_ip4(const __be32 *address)
{
	return address[0] == 0 && address[1] == 0 && address[2] == bpf_htonl(0xffff);
}

/* Whether there is an address. That of an IPv6 tunnel ends with zeros: it is the first one of the node's pods. */
static __always_inline bool lb_is_address(const __be32 *address)
{
	return address[3] || address[2] || address[1] || address[0];
}

static __always_inline struct lb_frontend *lb_frontend_of(const struct lb_endpoint *to)
{
	__u32 current = 0;
	void *map = bpf_map_lookup_elem(&lb_frontends, &current);

	return map ? bpf_map_lookup_elem(map, to) : NULL;
}

static __always_inline struct lb_backend *lb_backend_of(__u32 id)
{
	__u32 chunk = id >> LB_CHUNK_BITS;
	__u32 place = id & (LB_CHUNK - 1);
	void *map = bpf_map_lookup_elem(&lb_backends, &chunk);

	return map ? bpf_map_lookup_elem(map, &place) : NULL;
}

/* The id at one entry of a table; 0 when there is none. */
static __always_inline __u32 lb_table_entry(__u32 line, __u32 entry)
{
	__u32 chunk, place;
	struct lb_line *found;
	void *map;

	line += entry / LB_LINE_ENTRIES;
	chunk = line >> LB_CHUNK_BITS;
	place = line & (LB_CHUNK - 1);
	map = bpf_map_lookup_elem(&lb_tables, &chunk);
	if (!map)
		return 0;
	found = bpf_map_lookup_elem(map, &place);
	return found ? found->backend[entry & (LB_LINE_ENTRIES - 1)] : 0;
}

/* An id is good while the backend behind it is the one that it was given for: ids are used again. */
static __always_inline bool lb_is_backend(const struct lb_backend *backend, const __be32 *address,
					  __be16 port)
{
	return (backend->flags & LB_B_USED) && backend->port == port &&
	       lb_same_address(backend->address, address);
}

/* One of the two tables of a frontend. */
struct lb_table {
	__u32 line;
	__u32 size;
	__u8 member; /* flag of backends that are in it */
	bool drop; /* when empty */
	bool hash;
};

static __always_inline struct lb_table lb_table_of(const struct lb_frontend *frontend, bool outside)
{
	__u32 flags = frontend->flags;
	struct lb_table table;

	if (outside) {
		table.line = frontend->outside_line;
		table.size = frontend->outside_size;
		table.member = flags & LB_F_OUTSIDE_LOCAL ? LB_B_LOCAL : LB_B_CLUSTER;
		table.drop = flags & LB_F_OUTSIDE_DROP;
		table.hash = flags & LB_F_OUTSIDE_HASH;
	} else {
		table.line = frontend->inside_line;
		table.size = frontend->inside_size;
		table.member = flags & LB_F_INSIDE_LOCAL ? LB_B_LOCAL : LB_B_CLUSTER;
		table.drop = flags & LB_F_INSIDE_DROP;
		table.hash = flags & LB_F_INSIDE_HASH;
	}
	return table;
}

/* The backend that this client had, if it may go on there; also refreshes it. Only for Services with affinity. */
static __always_inline __u32 lb_affine(const struct lb_client *client, __u32 idle_s, __u8 member)
{
	struct lb_affinity *known = bpf_map_lookup_elem(&lb_affinities, client);
	struct lb_backend *backend;
	__u64 now;

	if (!known)
		return 0;
	now = bpf_ktime_get_coarse_ns();
	if (now - known->seen_ns > idle_s * LB_NS_PER_S)
		return 0;
	backend = lb_backend_of(known->backend_id);
	if (!backend || backend->service != client->service || !(backend->flags & member))
		return 0;
	known->seen_ns = now;
	return known->backend_id;
}

/*
 * Chooses a backend for a new connection. `number` decides where no affinity does: random, or the hash of the flow.
 * Returns its id, or 0 when the entry names nobody.
 */
static __always_inline __u32 lb_choose(const struct lb_frontend *frontend, const struct lb_table *table,
				       const struct lb_client *client, __u32 number,
				       struct lb_backend **backend)
{
	__u32 known = 0, id;

	if (frontend->affinity_s)
		known = lb_affine(client, frontend->affinity_s, table->member);
	id = known ? known : lb_table_entry(table->line, ((__u64)number * table->size) >> 32);
	*backend = id ? lb_backend_of(id) : NULL;
	/*
	 * One that went since the frontend was read is taken all the same, as it would have been a microsecond ago: its
	 * address stays for a while, and the connection finds somebody who ends or nobody, but no refusal of ours.
	 */
	if (!*backend || !(*backend)->port)
		return 0;
	if (frontend->affinity_s && !known && ((*backend)->flags & LB_B_USED)) {
		struct lb_affinity affinity = {
			.backend_id = id,
			.seen_ns = bpf_ktime_get_coarse_ns(),
		};

		bpf_map_update_elem(&lb_affinities, client, &affinity, BPF_ANY);
	}
	lb_count_connection(frontend->service, id);
	return id;
}

/* enum lb_hold. */
static __always_inline __u32 lb_hold(void)
{
	__u32 only = 0;
	struct lb_config *config = bpf_map_lookup_elem(&lb_config, &only);

	return config ? config->hold : LB_HOLD_OFF;
}

static __always_inline bool lb_in_service_range(const __be32 *address)
{
	__u32 only = 0;
	struct lb_config *config = bpf_map_lookup_elem(&lb_config, &only);

	if (!config)
		return false;
	for (__u32 i = 0; i < LB_RANGES; i++) {
		const struct lb_range *range = &config->range[i];

		if (i >= config->range_count)
			break;
		if ((address[3] & range->mask[3]) == range->address[3] &&
		    (address[2] & range->mask[2]) == range->address[2] &&
		    (address[1] & range->mask[1]) == range->address[1] &&
		    (address[0] & range->mask[0]) == range->address[0])
			return true;
	}
	return false;
}

/* What an address and port that is no frontend means: LB_NONE when it is none of ours. */
static __always_inline __u32 lb_why_no_frontend(const struct lb_endpoint *to)
{
	struct lb_endpoint address = {};
	struct lb_frontend *wildcard;

	if (!lb_in_service_range(to->address))
		return LB_NONE;
	lb_copy_address(address.address, to->address);
	wildcard = lb_frontend_of(&address);
	if (!wildcard)
		return LB_DROP_UNALLOCATED;
	return wildcard->flags & LB_F_NOT_OURS ? LB_NONE : LB_REJECT_UNKNOWN_PORT;
}

#endif
