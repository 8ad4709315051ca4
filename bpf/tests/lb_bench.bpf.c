// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * What lb_xdp costs, by itself and behind a veth link.
 *
 * A test run does not restore its packet, so bench_wrap does before each run, gives it another client's address, and
 * jumps into the program under test; what the empty program costs there is taken off. bench_send does the same for
 * frames of a live run and sends them into a link, at whose other end the program under test is attached; what that
 * turns back, bench_sink counts and ends.
 */
#include "../lb_xdp.bpf.c"

#define BENCH_BYTES 80

struct bench {
	__u32 target; /* index into bench_programs */
	__u32 flows; /* a power of two */
	__u32 next;
	__u32 client_at; /* where in the packet the last word of the client's address is */
	__u32 sends; /* interface of bench_send */
	__u32 pad;
	__u8 packet[BENCH_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bench);
} bench_setting SEC(".maps");

/* [0] frames that came back; programs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} bench_counts SEC(".maps");

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

static __always_inline int turned(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;

	if (data + ETH_HLEN > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	swap_macs(data, data);
	return XDP_TX;
}

SEC("xdp.frags")
int bench_empty(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_TX;
}

/* The least that forwards: MAC addresses change places. */
SEC("xdp.frags")
int bench_turn(struct xdp_md *ctx)
{
	return turned(ctx);
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
	return turned(ctx);
}

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__uint(key_size, sizeof(__u32));
	__array(values, int(void *));
} bench_programs SEC(".maps") = {
	.values = { [0] = (void *)&bench_empty,
		    [1] = (void *)&bench_turn,
		    [2] = (void *)&bench_stateless,
		    [3] = (void *)&lb_xdp },
};

SEC("xdp.frags")
int bench_wrap(struct xdp_md *ctx)
{
	long length = (long)ctx->data_end - (long)ctx->data;
	struct bench *bench;

	/* The run before put another header in front. */
	if (length > BENCH_BYTES && length < 2 * BENCH_BYTES && bpf_xdp_adjust_head(ctx, length - BENCH_BYTES))
		return XDP_ABORTED;
	bench = next_packet(ctx);
	if (bench)
		bpf_tail_call(ctx, &bench_programs, bench->target);
	return XDP_ABORTED;
}

SEC("xdp.frags")
int bench_send(struct xdp_md *ctx)
{
	struct bench *bench = next_packet(ctx);

	return bench ? bpf_redirect(bench->sends, 0) : XDP_ABORTED;
}

SEC("xdp.frags")
int bench_sink(struct xdp_md *ctx)
{
	__u32 only = 0;
	__u64 *count = bpf_map_lookup_elem(&bench_counts, &only);

	(void)ctx;
	if (count)
		*count += 1;
	return XDP_DROP;
}
