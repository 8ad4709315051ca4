// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * What lb_xdp costs. A test run does not restore its packet, so bench_wrap does before each run, gives it another
 * client's address, and jumps into the program under test; what the empty program costs there is taken off.
 */
#include "../lb_xdp.bpf.c"
#include "../include/lb_open.h"

#define BENCH_BYTES 80

struct bench {
	__u32 target; /* index into bench_programs */
	__u32 flows; /* a power of two */
	__u32 next;
	__u32 client_at; /* where in the packet the last word of the client's address is */
	__u32 failed;
	__u32 pad;
	__u8 packet[BENCH_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bench);
} bench_setting SEC(".maps");

/* Puts the packet of the next flow in place. */
static __always_inline struct bench *next_packet(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 only = 0, flow;
	struct bench *bench = bpf_map_lookup_elem(&bench_setting, &only);

	if (!bench || data + BENCH_BYTES > end)
		return NULL;
	__builtin_memcpy(data, bench->packet, BENCH_BYTES);
	/* An odd factor visits each flow once, and neighbours never in a row. */
	flow = bench->next++ * 2654435761U & (bench->flows - 1);
	if (bench->client_at == 26) {
		*(__be32 *)(data + 26) = bpf_htonl(0x0b000000 | flow);
		*(__be16 *)(data + 34) = bpf_htons(1024 + flow * 7);
	} else {
		*(__be32 *)(data + 34) = bpf_htonl(flow);
		*(__be16 *)(data + 54) = bpf_htons(1024 + flow * 7);
	}
	return bench;
}

SEC("xdp.frags")
int bench_empty(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_TX;
}

/* The least that a load balancer does: frontend, table, backend; nothing is remembered. */
SEC("xdp.frags")
int bench_stateless(struct xdp_md *ctx)
{
	struct lb_packet p = {};
	struct lb_frontend *frontend;
	struct lb_backend *backend;
	struct lb_endpoint to;
	struct lb_table table;
	void *data, *end;
	__u8 macs[12];

	if (!read_packet(ctx, &p))
		return XDP_PASS;
	lb_endpoint_of(&to, p.target, p.target_port, p.protocol);
	frontend = lb_frontend_of(&to);
	if (!frontend)
		return XDP_PASS;
	table = lb_table_of(frontend, true);
	backend = lb_backend_of(lb_table_entry(table.line, ((__u64)lb_flow_hash(&p, false) * table.size) >> 32));
	if (!backend || !(backend->flags & LB_B_USED))
		return XDP_PASS;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + ETH_HLEN > end)
		return XDP_PASS;
	__builtin_memcpy(macs, data + 6, 6);
	__builtin_memcpy(macs + 6, data, 6);
	__builtin_memcpy(data, macs, 12);
	return XDP_TX;
}

/* Opens a flow as tc does, and makes its hop one that XDP sends to. */
SEC("xdp.frags")
int bench_open(struct xdp_md *ctx)
{
	struct bench *bench = next_packet(ctx);
	struct lb_nat_wish wish = {};
	struct lb_packet p = {};
	struct lb_nat_flow *flow;
	__u32 number, backend;

	if (!bench || !read_packet(ctx, &p))
		return XDP_ABORTED;
	/* Sixteen backends, so that a port serves several flows. */
	backend = bpf_ntohl(p.source[3]) & 0xf;
	lb_map_ip4(wish.backend, bpf_htonl(0x0af40200 + backend));
	wish.backend_port = bpf_htons(8080);
	lb_copy_address(wish.source, p.target);
	wish.backend_id = backend + 1;
	wish.protocol = p.protocol;
	number = lb_nat_open(&p, &wish);
	flow = number ? lb_nat_flow_at(number - 1) : NULL;
	if (!flow) {
		bench->failed++;
		return XDP_DROP;
	}
	flow->flags = LB_NAT_REPLIED | LB_NAT_CONFIRMED;
	flow->to_backend.mtu = 0;
	flow->to_backend.tick = (bpf_jiffies64() >> lb_tick_shift & LB_HOP_TICK) | LB_HOP_XDP;
	flow->to_backend.ifindex = ctx->ingress_ifindex;
	return XDP_PASS;
}

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 3);
	__uint(key_size, sizeof(__u32));
	__array(values, int(void *));
} bench_programs SEC(".maps") = {
	.values = { [0] = (void *)&bench_empty, [1] = (void *)&bench_stateless, [2] = (void *)&lb_xdp },
};

SEC("xdp.frags")
int bench_wrap(struct xdp_md *ctx)
{
	struct bench *bench = next_packet(ctx);

	if (bench)
		bpf_tail_call(ctx, &bench_programs, bench->target);
	return XDP_ABORTED;
}
