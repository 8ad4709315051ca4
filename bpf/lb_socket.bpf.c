// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * Services at the socket. A process that connects to a frontend is connected to a backend instead, before any
 * packet exists; nothing is translated afterwards.
 *
 *   connect    10.96.0.10:80 -> 10.244.1.2:8080     once a connection
 *   sendmsg    the same for datagrams of a socket that is not connected; it keeps its backend
 *   recvmsg, getpeername    10.244.1.2:8080 -> 10.96.0.10:80, so that the process sees whom it asked
 *   sock_release            what was remembered of it is forgotten
 *
 * Errors: ECONNREFUSED without endpoints, EPERM where policy drops (and for both before Linux 5.18).
 */
#include "lb_choose.h"

#include <linux/in.h>

#define IPPROTO_MPTCP_ 262 /* linux/in.h of older headers lacks it */
#define SOCK_DGRAM_ 2
#define ECONNREFUSED_ 111
#define EPERM_ 1

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

/* Whether this kernel lets socket hooks say which error a process gets: Linux >= 5.18. */
const volatile bool lb_sets_errors = true;

/* Cookie of the node's network namespace; 0 for that of the machine. */
const volatile __u64 lb_node_netns = 0;

enum answer {
	PASS, /* none of ours */
	FORWARD,
	REFUSE,
	DROP,
};

/* IPPROTO_TCP or IPPROTO_UDP, 0 for what is not load balanced. */
static __always_inline __u8 protocol_of(const struct bpf_sock_addr *ctx)
{
	__u32 protocol = ctx->protocol;

	if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP)
		return protocol;
	return protocol == IPPROTO_MPTCP_ ? IPPROTO_TCP : 0;
}

/* What the kernel is to do: 1 go on, 0 with an error. */
static __always_inline int finish(enum answer answer)
{
	if (answer == PASS || answer == FORWARD)
		return 1;
	/* Without it, every refusal is EPERM. */
	if (lb_sets_errors)
		bpf_set_retval(answer == REFUSE ? -ECONNREFUSED_ : -EPERM_);
	return 0;
}

static __always_inline enum answer no_frontend(const struct lb_endpoint *to)
{
	__u32 reason = lb_why_no_frontend(to);

	if (reason == LB_NONE)
		return PASS;
	lb_count(reason);
	return reason == LB_REJECT_UNKNOWN_PORT ? REFUSE : DROP;
}

/* Whether the socket is the node's own, and not one of a pod. */
static __always_inline bool is_node(struct bpf_sock_addr *ctx)
{
	return bpf_get_netns_cookie(ctx) == (lb_node_netns ? lb_node_netns : bpf_get_netns_cookie(NULL));
}

/* 127.0.0.0/8, mapped into IPv6, or ::1. */
static __always_inline bool is_loopback(const __be32 *address)
{
	if (address[0] || address[1])
		return false;
	if (address[2] == bpf_htonl(0xffff))
		return (address[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !address[2] && address[3] == bpf_htonl(1);
}

/* Chooses a backend for what this socket wants to reach. */
static __always_inline enum answer choose(struct bpf_sock_addr *ctx, const struct lb_endpoint *to,
					  struct lb_peer *peer)
{
	struct lb_frontend *frontend = lb_frontend_of(to);
	struct lb_client client = { .kind = 1 };
	struct lb_backend *backend;
	struct lb_table table;

	if (!frontend)
		return no_frontend(to);
	/* A nodePort or hostPort at the node's loopback; that of a pod is another one, where its own processes listen. */
	if (is_loopback(to->address) && !is_node(ctx))
		return PASS;
	/*
	 * Where sources are limited, a process of a pod goes on to the frontend itself: its link knows its address. The
	 * node's own packets pass no link, but who the node is was known when the frontend was written.
	 */
	if (frontend->flags & LB_F_RANGES) {
		if (!is_node(ctx))
			return PASS;
		if (!(frontend->flags & LB_F_NODE_ALLOWED)) {
			lb_count(LB_DROP_SOURCE_RANGE);
			return DROP;
		}
	}
	table = lb_table_of(frontend, false);
	if (!table.size) {
		lb_count_refused(frontend->service);
		lb_count(table.drop ? LB_DROP_NO_LOCAL : LB_REJECT_NO_ENDPOINT);
		return table.drop ? DROP : REFUSE;
	}
	if (frontend->affinity_s) {
		__u64 cookie = bpf_get_netns_cookie(ctx);

		client.address[0] = cookie;
		client.address[1] = cookie >> 32;
		client.service = frontend->service;
	}
	peer->backend_id = lb_choose(frontend, &table, &client, bpf_get_prandom_u32(), &backend);
	if (!peer->backend_id || !backend) {
		lb_count(LB_DROP_NO_BACKEND);
		return REFUSE;
	}
	lb_count(LB_FORWARD_SOCKET);
	lb_copy_address(peer->vip, to->address);
	lb_copy_address(peer->backend, backend->address);
	peer->vip_port = to->port;
	peer->backend_port = backend->port;
	return FORWARD;
}

static __always_inline struct lb_socket_place *place_of(__u64 cookie)
{
	__u32 at = cookie & lb_socket_mask;

	return bpf_map_lookup_elem(&lb_socket_places, &at);
}

/* The peer of a connected socket; NULL for none. */
static __always_inline struct lb_peer *peer_of(__u64 cookie)
{
	struct lb_socket_place *place = place_of(cookie);

	return place && place->cookie == cookie ? &place->peer : bpf_map_lookup_elem(&lb_sockets, &cookie);
}

/* False: there is no room for it. What the socket may have had in lb_sockets before is not seen behind its place. */
static __always_inline bool remember(__u64 cookie, const struct lb_peer *peer)
{
	struct lb_socket_place *place = place_of(cookie);

	if (place && !place->cookie)
		__sync_val_compare_and_swap(&place->cookie, 0, cookie);
	if (place && place->cookie == cookie) {
		place->peer = *peer;
		return true;
	}
	return !bpf_map_update_elem(&lb_sockets, &cookie, peer, BPF_ANY);
}

/* Most sockets were never connected by a Service, and a look takes no lock. */
static __always_inline void forget(__u64 cookie)
{
	struct lb_socket_place *place = place_of(cookie);

	if (bpf_map_lookup_elem(&lb_sockets, &cookie))
		bpf_map_delete_elem(&lb_sockets, &cookie);
	if (place && place->cookie == cookie)
		place->cookie = 0;
}

static __always_inline enum answer connect_to(struct bpf_sock_addr *ctx, const struct lb_endpoint *to,
					      struct lb_peer *peer)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	enum answer answer = choose(ctx, to, peer);

	if (answer == FORWARD) {
		if (!remember(cookie, peer) && to->protocol == IPPROTO_UDP) {
			lb_count(LB_DROP_SOCKETS_FULL);
			return DROP;
		}
	} else if (answer == PASS && to->protocol == IPPROTO_UDP) {
		/* A datagram socket may be connected again, elsewhere. */
		forget(cookie);
	}
	return answer;
}

static __always_inline bool is_frontend(const struct lb_peer *peer, const struct lb_endpoint *to)
{
	return peer->vip_port == to->port && lb_same_address(peer->vip, to->address);
}

/*
 * The peer of a connected socket that names it again: sendto() of such a socket comes here, too, and the socket takes
 * answers from the backend that it is connected to and from nobody else.
 */
static __always_inline struct lb_peer *connected_peer(struct bpf_sock_addr *ctx, __u64 cookie,
						      const struct lb_endpoint *to)
{
	struct bpf_sock *sk = ctx->sk;
	struct lb_peer *peer;

	if (!sk || sk->state != BPF_TCP_ESTABLISHED)
		return NULL;
	peer = peer_of(cookie);
	return peer && is_frontend(peer, to) ? peer : NULL;
}

/* The peer that this socket had for the same frontend, while its backend is there. */
static __always_inline struct lb_peer *known_peer(struct lb_peers *peers, const struct lb_endpoint *to)
{
	struct lb_backend *backend;
	struct lb_peer *peer;
	__u32 at = 0;

	while (at < LB_PEERS && !is_frontend(&peers->peer[at], to))
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
static __always_inline bool remember_peer(__u64 cookie, struct lb_peers *peers, const struct lb_peer *peer)
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

static __always_inline enum answer send_to(struct bpf_sock_addr *ctx, const struct lb_endpoint *to,
					   struct lb_peer *peer)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct lb_peers *peers = bpf_map_lookup_elem(&lb_datagrams, &cookie);
	struct lb_peer *known = connected_peer(ctx, cookie, to);
	enum answer answer;

	if (!known && peers)
		known = known_peer(peers, to);
	if (known) {
		*peer = *known;
		return FORWARD;
	}
	answer = choose(ctx, to, peer);
	if (answer == FORWARD && !remember_peer(cookie, peers, peer)) {
		lb_count(LB_DROP_SOCKETS_FULL);
		return DROP;
	}
	return answer;
}

static __always_inline bool is_answer_of(const struct lb_peer *peer, const struct lb_endpoint *from)
{
	return peer->vip_port && peer->backend_port == from->port && lb_same_address(peer->backend, from->address);
}

/* Puts the frontend where the backend stands; false when this socket knows none for it. */
static __always_inline bool untranslate(struct bpf_sock_addr *ctx, struct lb_endpoint *from)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct lb_peer *peer = peer_of(cookie);
	struct lb_peers *peers;

	if (peer && peer->backend_port == from->port && lb_same_address(peer->backend, from->address)) {
		lb_copy_address(from->address, peer->vip);
		from->port = peer->vip_port;
		return true;
	}
	if (ctx->protocol != IPPROTO_UDP)
		return false;
	peers = bpf_map_lookup_elem(&lb_datagrams, &cookie);
	if (!peers)
		return false;
	/* Where two frontends lead to one backend, the answer is to what was asked last. */
	peer = &peers->peer[peers->last & (LB_PEERS - 1)];
	if (!is_answer_of(peer, from)) {
		__u32 at = 0;

		while (at < LB_PEERS && !is_answer_of(&peers->peer[at], from))
			at++;
		if (at >= LB_PEERS)
			return false;
		peer = &peers->peer[at];
	}
	lb_copy_address(from->address, peer->vip);
	from->port = peer->vip_port;
	return true;
}

static __always_inline void read4(const struct bpf_sock_addr *ctx, struct lb_endpoint *to)
{
	lb_map_ip4(to->address, ctx->user_ip4);
	to->port = ctx->user_port;
}

static __always_inline void read6(const struct bpf_sock_addr *ctx, struct lb_endpoint *to)
{
	to->address[0] = ctx->user_ip6[0];
	to->address[1] = ctx->user_ip6[1];
	to->address[2] = ctx->user_ip6[2];
	to->address[3] = ctx->user_ip6[3];
	to->port = ctx->user_port;
}

static __always_inline void write6(struct bpf_sock_addr *ctx, const __be32 *address, __be16 port)
{
	ctx->user_ip6[0] = address[0];
	ctx->user_ip6[1] = address[1];
	ctx->user_ip6[2] = address[2];
	ctx->user_ip6[3] = address[3];
	ctx->user_port = port;
}

SEC("cgroup/connect4")
int lb_connect4(struct bpf_sock_addr *ctx)
{
	struct lb_endpoint to = { .protocol = protocol_of(ctx) };
	struct lb_peer peer = {};
	enum answer answer;

	if (!to.protocol)
		return 1;
	read4(ctx, &to);
	answer = connect_to(ctx, &to, &peer);
	if (answer == FORWARD) {
		ctx->user_ip4 = peer.backend[3];
		ctx->user_port = peer.backend_port;
	}
	return finish(answer);
}

SEC("cgroup/connect6")
int lb_connect6(struct bpf_sock_addr *ctx)
{
	struct lb_endpoint to = { .protocol = protocol_of(ctx) };
	struct lb_peer peer = {};
	enum answer answer;

	if (!to.protocol)
		return 1;
	read6(ctx, &to);
	answer = connect_to(ctx, &to, &peer);
	if (answer == FORWARD)
		write6(ctx, peer.backend, peer.backend_port);
	return finish(answer);
}

SEC("cgroup/sendmsg4")
int lb_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct lb_endpoint to = { .protocol = protocol_of(ctx) };
	struct lb_peer peer = {};
	enum answer answer;

	if (!to.protocol)
		return 1;
	read4(ctx, &to);
	answer = send_to(ctx, &to, &peer);
	if (answer == FORWARD) {
		ctx->user_ip4 = peer.backend[3];
		ctx->user_port = peer.backend_port;
	}
	return finish(answer);
}

SEC("cgroup/sendmsg6")
int lb_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct lb_endpoint to = { .protocol = protocol_of(ctx) };
	struct lb_peer peer = {};
	enum answer answer;

	if (!to.protocol)
		return 1;
	read6(ctx, &to);
	answer = send_to(ctx, &to, &peer);
	if (answer == FORWARD)
		write6(ctx, peer.backend, peer.backend_port);
	return finish(answer);
}

static __always_inline int show4(struct bpf_sock_addr *ctx)
{
	struct lb_endpoint from = {};

	read4(ctx, &from);
	if (untranslate(ctx, &from)) {
		ctx->user_ip4 = from.address[3];
		ctx->user_port = from.port;
	}
	return 1;
}

static __always_inline int show6(struct bpf_sock_addr *ctx)
{
	struct lb_endpoint from = {};

	read6(ctx, &from);
	if (untranslate(ctx, &from))
		write6(ctx, from.address, from.port);
	return 1;
}

SEC("cgroup/recvmsg4")
int lb_recvmsg4(struct bpf_sock_addr *ctx)
{
	return show4(ctx);
}

SEC("cgroup/recvmsg6")
int lb_recvmsg6(struct bpf_sock_addr *ctx)
{
	return show6(ctx);
}

SEC("cgroup/getpeername4")
int lb_getpeername4(struct bpf_sock_addr *ctx)
{
	return show4(ctx);
}

SEC("cgroup/getpeername6")
int lb_getpeername6(struct bpf_sock_addr *ctx)
{
	return show6(ctx);
}

/* A socket is closed by its last owner. */
SEC("cgroup/sock_release")
int lb_sock_release(struct bpf_sock *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);

	forget(cookie);
	if (ctx->type == SOCK_DGRAM_ && bpf_map_lookup_elem(&lb_datagrams, &cookie))
		bpf_map_delete_elem(&lb_datagrams, &cookie);
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
