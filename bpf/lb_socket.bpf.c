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
#include "lb_socket_memory.h"

#include <linux/in.h>

#define IPPROTO_MPTCP_ 262 /* linux/in.h of older headers lacks it */
#define SOCK_DGRAM_ 2
#define ECONNREFUSED_ 111
#define EPERM_ 1

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

static __always_inline enum answer connect_to(struct bpf_sock_addr *ctx, const struct lb_endpoint *to,
					      struct lb_peer *peer)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	enum answer answer = choose(ctx, to, peer);

	if (answer == FORWARD) {
		if (!lb_remember(cookie, peer) && to->protocol == IPPROTO_UDP) {
			lb_count(LB_DROP_SOCKETS_FULL);
			return DROP;
		}
	} else if (answer == PASS && to->protocol == IPPROTO_UDP) {
		/* A datagram socket may be connected again, elsewhere. */
		lb_forget(cookie);
	}
	return answer;
}

static __always_inline enum answer send_to(struct bpf_sock_addr *ctx, const struct lb_endpoint *to,
					   struct lb_peer *peer)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct lb_peers *peers = bpf_map_lookup_elem(&lb_datagrams, &cookie);
	struct lb_peer *known = lb_connected_peer(ctx, cookie, to);
	enum answer answer;

	if (!known && peers)
		known = lb_known_peer(peers, to);
	if (known) {
		*peer = *known;
		return FORWARD;
	}
	answer = choose(ctx, to, peer);
	if (answer == FORWARD && !lb_remember_peer(cookie, peers, peer)) {
		lb_count(LB_DROP_SOCKETS_FULL);
		return DROP;
	}
	return answer;
}

/*
 * Puts the frontend where the backend stands; false when this socket knows none for it. Of `answers` also what a socket
 * asks without being connected to it: that is nobody's peer.
 */
static __always_inline bool untranslate(struct bpf_sock_addr *ctx, struct lb_endpoint *from, bool answers)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct lb_peer *peer = lb_peer_of(cookie);
	struct lb_peers *peers;

	if (peer && peer->backend_port == from->port && lb_same_address(peer->backend, from->address)) {
		lb_copy_address(from->address, peer->vip);
		from->port = peer->vip_port;
		return true;
	}
	if (!answers)
		return false;
	peers = bpf_map_lookup_elem(&lb_datagrams, &cookie);
	if (!peers)
		return false;
	/* Where two frontends lead to one backend, the answer is to what was asked last. */
	peer = &peers->peer[peers->last & (LB_PEERS - 1)];
	if (!lb_is_answer_of(peer, from)) {
		__u32 at = 0;

		while (at < LB_PEERS && !lb_is_answer_of(&peers->peer[at], from))
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

static __always_inline int show4(struct bpf_sock_addr *ctx, bool answers)
{
	struct lb_endpoint from = {};

	read4(ctx, &from);
	if (untranslate(ctx, &from, answers)) {
		ctx->user_ip4 = from.address[3];
		ctx->user_port = from.port;
	}
	return 1;
}

static __always_inline int show6(struct bpf_sock_addr *ctx, bool answers)
{
	struct lb_endpoint from = {};

	read6(ctx, &from);
	if (untranslate(ctx, &from, answers))
		write6(ctx, from.address, from.port);
	return 1;
}

SEC("cgroup/recvmsg4")
int lb_recvmsg4(struct bpf_sock_addr *ctx)
{
	return show4(ctx, true);
}

SEC("cgroup/recvmsg6")
int lb_recvmsg6(struct bpf_sock_addr *ctx)
{
	return show6(ctx, true);
}

SEC("cgroup/getpeername4")
int lb_getpeername4(struct bpf_sock_addr *ctx)
{
	return show4(ctx, false);
}

SEC("cgroup/getpeername6")
int lb_getpeername6(struct bpf_sock_addr *ctx)
{
	return show6(ctx, false);
}

/* A socket is closed by its last owner. */
SEC("cgroup/sock_release")
int lb_sock_release(struct bpf_sock *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);

	lb_forget(cookie);
	if (ctx->type == SOCK_DGRAM_ && bpf_map_lookup_elem(&lb_datagrams, &cookie))
		bpf_map_delete_elem(&lb_datagrams, &cookie);
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
