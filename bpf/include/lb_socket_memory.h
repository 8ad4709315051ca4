/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* What is remembered of sockets: with whom each of them believes to talk, and with whom it does. */
#ifndef LB_SOCKET_MEMORY_H
#define LB_SOCKET_MEMORY_H

#include "lb_choose.h"

/*
 * What sockets believe lives as long as they do: entries go with their sockets, and none is evicted. Where there is no
 * room a datagram socket is refused, whose answers would come from the backend's own address.
 */

/* socket cookie -> peer of a connected socket; programs. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct lb_peer);
} lb_sockets SEC(".maps");

/*
 * cookie % entries -> the same, without taking memory or a lock, which would be three quarters of what a connection
 * through a Service costs. Cookies are given out one after the other, so most sockets find their place free. Who finds
 * it taken goes to lb_sockets. Programs.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct lb_socket_place);
} lb_socket_places SEC(".maps");

/* Entries of it, a power of two, less one. */
const volatile __u32 lb_socket_mask = 16383;

/* socket cookie -> peers of a socket that sends datagrams to many; programs. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct lb_peers);
} lb_datagrams SEC(".maps");

/* What a socket has that begins to send to many: too large for the stack. */
static const volatile struct lb_peers lb_no_peers = {};

static __always_inline struct lb_socket_place *lb_place_of(__u64 cookie)
{
	__u32 at = cookie & lb_socket_mask;

	return bpf_map_lookup_elem(&lb_socket_places, &at);
}

/* The peer of a connected socket; NULL for none. */
static __always_inline struct lb_peer *lb_peer_of(__u64 cookie)
{
	struct lb_socket_place *place = lb_place_of(cookie);

	return place && place->cookie == cookie ? &place->peer : bpf_map_lookup_elem(&lb_sockets, &cookie);
}

/* False: there is no room for it. What the socket may have had in lb_sockets before is not seen behind its place. */
static __always_inline bool lb_remember(__u64 cookie, const struct lb_peer *peer)
{
	struct lb_socket_place *place = lb_place_of(cookie);

	if (place && !place->cookie)
		__sync_val_compare_and_swap(&place->cookie, 0, cookie);
	if (place && place->cookie == cookie) {
		place->peer = *peer;
		return true;
	}
	return !bpf_map_update_elem(&lb_sockets, &cookie, peer, BPF_ANY);
}

/* Most sockets were never connected by a Service, and a look takes no lock. */
static __always_inline void lb_forget(__u64 cookie)
{
	struct lb_socket_place *place = lb_place_of(cookie);

	if (bpf_map_lookup_elem(&lb_sockets, &cookie))
		bpf_map_delete_elem(&lb_sockets, &cookie);
	if (place && place->cookie == cookie)
		place->cookie = 0;
}

static __always_inline bool lb_is_frontend(const struct lb_peer *peer, const struct lb_endpoint *to)
{
	return peer->vip_port == to->port && lb_same_address(peer->vip, to->address);
}

/*
 * The peer of a connected socket that names it again: sendto() of such a socket comes here, too, and the socket takes
 * answers from the backend that it is connected to and from nobody else.
 */
static __always_inline struct lb_peer *lb_connected_peer(struct bpf_sock_addr *ctx, __u64 cookie,
						      const struct lb_endpoint *to)
{
	struct bpf_sock *sk = ctx->sk;
	struct lb_peer *peer;

	if (!sk || sk->state != BPF_TCP_ESTABLISHED)
		return NULL;
	peer = lb_peer_of(cookie);
	return peer && lb_is_frontend(peer, to) ? peer : NULL;
}

/* The peer that this socket had for the same frontend, while its backend is there. */
static __always_inline struct lb_peer *lb_known_peer(struct lb_peers *peers, const struct lb_endpoint *to)
{
	struct lb_backend *backend;
	struct lb_peer *peer;
	__u32 at = 0;

	while (at < LB_PEERS && !lb_is_frontend(&peers->peer[at], to))
		at++;
	if (at >= LB_PEERS)
		return NULL;
	peer = &peers->peer[at];
	backend = lb_backend_of(peer->backend_id);
	if (backend && lb_is_backend(backend, peer->backend, peer->backend_port)) {
		peers->last = at;
		return peer;
	}
	peer->vip_port = 0;
	return NULL;
}

/* False: there is no room for it. */
static __always_inline bool lb_remember_peer(__u64 cookie, struct lb_peers *peers, const struct lb_peer *peer)
{
	__u32 next;

	if (!peers) {
		if (bpf_map_update_elem(&lb_datagrams, &cookie, (const void *)&lb_no_peers, BPF_ANY))
			return false;
		peers = bpf_map_lookup_elem(&lb_datagrams, &cookie);
		if (!peers)
			return false;
	}
	next = peers->next & (LB_PEERS - 1);
	/* Of a backend that is gone, if there is one; else the oldest. */
	if (peers->peer[next].vip_port)
		for (int i = 0; i < LB_PEERS; i++)
			if (!peers->peer[i].vip_port)
				next = i;
	next &= LB_PEERS - 1;
	peers->peer[next] = *peer;
	peers->last = next;
	peers->next = next + 1;
	return true;
}

static __always_inline bool lb_is_answer_of(const struct lb_peer *peer, const struct lb_endpoint *from)
{
	return peer->vip_port && peer->backend_port == from->port && lb_same_address(peer->backend, from->address);
}

#endif
