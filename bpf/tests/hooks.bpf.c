// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* One program for each kind of attachment: input of link tests. Every program counts itself in `seen`. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

enum { SEEN_XDP, SEEN_XDP_SECOND, SEEN_TCX_IN, SEEN_TCX_OUT, SEEN_CONNECT, SEEN_NETFILTER, SEEN_ITER, SEEN_RAW_TP, SEEN_TP_BTF };

/* key: SEEN_*, value: runs; written by the programs */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

const volatile __u32 virtual_address;
const volatile __u32 virtual_port;
const volatile __u32 real_address;
const volatile __u32 real_port;
const volatile __u32 stale_address;

static __always_inline void see(__u32 what)
{
	__u64 *count = bpf_map_lookup_elem(&seen, &what);

	if (count)
		__sync_fetch_and_add(count, 1);
}

SEC("xdp") int xdp_first(struct xdp_md *ctx)
{
	(void)ctx;
	see(SEEN_XDP);
	return XDP_PASS;
}

SEC("xdp") int xdp_second(struct xdp_md *ctx)
{
	(void)ctx;
	see(SEEN_XDP_SECOND);
	return XDP_PASS;
}

SEC("tcx/ingress") int tcx_in(struct __sk_buff *skb)
{
	(void)skb;
	see(SEEN_TCX_IN);
	return -1; /* TCX_NEXT */
}

SEC("tcx/egress") int tcx_out(struct __sk_buff *skb)
{
	(void)skb;
	see(SEEN_TCX_OUT);
	return -1;
}

SEC("cgroup/connect4") int connect4(struct bpf_sock_addr *ctx)
{
	if (ctx->user_ip4 != virtual_address || ctx->user_port != bpf_htons(virtual_port))
		return 1;
	see(SEEN_CONNECT);
	ctx->user_ip4 = real_address;
	ctx->user_port = bpf_htons(real_port);
	return 1;
}

SEC("cgroup/getpeername4") int getpeername4(struct bpf_sock_addr *ctx)
{
	if (ctx->user_ip4 == real_address && ctx->user_port == bpf_htons(real_port)) {
		ctx->user_ip4 = virtual_address;
		ctx->user_port = bpf_htons(virtual_port);
	}
	return 1;
}

SEC("netfilter") int filter(void *ctx)
{
	(void)ctx;
	see(SEEN_NETFILTER);
	return 1; /* NF_ACCEPT */
}

/* Parts of the kernel's structures; their real offsets are filled in at load (CO-RE). */
struct sock_common {
	__be32 skc_daddr;
} __attribute__((preserve_access_index));

struct sock {
	struct sock_common __sk_common;
} __attribute__((preserve_access_index));

struct inet_sock {
	struct sock sk;
} __attribute__((preserve_access_index));

struct udp_sock {
	struct inet_sock inet;
} __attribute__((preserve_access_index));

struct bpf_iter_meta {
	struct seq_file *seq;
} __attribute__((preserve_access_index));

struct bpf_iter__udp {
	struct bpf_iter_meta *meta;
	struct udp_sock *udp_sk;
} __attribute__((preserve_access_index));

extern int bpf_sock_destroy(struct sock_common *sock) __ksym;

SEC("iter/udp") int destroy_stale(struct bpf_iter__udp *ctx)
{
	struct udp_sock *socket = ctx->udp_sk;
	static const char line[] = "destroyed\n";

	if (!socket)
		return 0;
	see(SEEN_ITER);
	if (socket->inet.sk.__sk_common.skc_daddr != stale_address)
		return 0;
	if (bpf_sock_destroy((struct sock_common *)socket) == 0)
		bpf_seq_write(ctx->meta->seq, line, sizeof(line) - 1);
	return 0;
}

SEC("raw_tp/sys_enter") int on_sys_enter(void *ctx)
{
	(void)ctx;
	see(SEEN_RAW_TP);
	return 0;
}

/* Arguments lie in 64-bit words; the third is the reason of the drop. */
SEC("tp_btf/kfree_skb") int on_drop(__u64 *arguments)
{
	if (arguments[2] > 1)
		see(SEEN_TP_BTF);
	return 0;
}

/* Runs only when asked to; adds two numbers that the caller gives. */
struct sum {
	__u32 a, b, result;
};

SEC("syscall") int add_up(struct sum *sum)
{
	sum->result = sum->a + sum->b;
	return 7;
}

char _license[] SEC("license") = "GPL";
