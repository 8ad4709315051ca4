// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Uses a map value without looking whether there is one: the verifier must refuse it and say so. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} table SEC(".maps");

SEC("xdp") int careless(struct xdp_md *ctx)
{
	__u32 key = ctx->ingress_ifindex;
	__u64 *value = bpf_map_lookup_elem(&table, &key);

	return *value;
}

char _license[] SEC("license") = "GPL";
