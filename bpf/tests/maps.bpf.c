// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* One map of each kind that Portolan uses, constants, variables, and functions in .text: input of loader tests. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

struct key {
	__u32 address;
	__u16 port;
	__u8 proto;
	__u8 pad;
};

struct value {
	__u64 id;
	__u32 address;
	__u16 port;
	__u16 flags;
};

struct prefix_key {
	__u32 length;
	__u8 address[4];
};

/* key: struct key, value: struct value; written by user space */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 200000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct key);
	__type(value, struct value);
} services SEC(".maps");

/* key: what was seen (0 packets, 1 bytes, 2 sum, 3 table), value: count; written by the programs */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 128);
	__type(key, struct key);
	__type(value, __u32);
} recent SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u32);
} per_cpu_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct value);
} per_cpu_array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} recent_per_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 64);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix_key);
	__type(value, __u32);
} prefixes SEC(".maps");

struct table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} table_a SEC(".maps"), table_b SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4);
	__type(key, __u32);
	__array(values, struct table);
} tables SEC(".maps") = {
	.values = { [1] = &table_a, [3] = &table_b },
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 16);
	__uint(key_size, 4);
	__uint(value_size, 4);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH);
		__uint(max_entries, 32);
		__type(key, __u32);
		__type(value, __u64);
	});
} named_tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 2);
	__type(value, __u32);
} queue SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} kept SEC(".maps");

const volatile __u32 magic = 7;
const volatile __u64 wide = 1;
const volatile __u8 address[16] = {};
__u64 started = 42;
__u64 zeroed;

static __noinline __u64 *count_of(__u32 which)
{
	return bpf_map_lookup_elem(&counts, &which);
}

static __noinline void add(__u32 which, __u64 much)
{
	__u64 *count = count_of(which);

	if (count)
		__sync_fetch_and_add(count, much);
}

/* A global function: verified on its own, needs type information. */
__noinline __u64 weigh(__u32 a, __u64 b)
{
	return a + b + address[15];
}

static long add_index(__u32 index, void *context)
{
	*(__u64 *)context += index;
	return 0;
}

SEC("tc") int sum(struct __sk_buff *skb)
{
	__u64 total = 0;

	bpf_loop(5, add_index, &total, 0);
	add(0, 1);
	add(1, skb->len);
	add(2, total);
	started += 1;
	zeroed += wide;
	return weigh(magic, wide);
}

/* Adds up entry 2 of the inner map that `tables` holds at 1. */
SEC("tc/table") int from_table(struct __sk_buff *skb)
{
	__u32 outer = 1, index = 2;
	void *table = bpf_map_lookup_elem(&tables, &outer);
	__u32 *value;

	(void)skb;
	if (!table)
		return -1;
	value = bpf_map_lookup_elem(table, &index);
	return value ? *value : -2;
}

SEC("tc/event") int event(struct __sk_buff *skb)
{
	__u32 *record = bpf_ringbuf_reserve(&events, 8, 0);

	if (!record)
		return 1;
	record[0] = skb->len;
	record[1] = magic;
	bpf_ringbuf_submit(record, 0);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
