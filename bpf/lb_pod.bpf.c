// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * Services at the link of a pod, for packets that no socket hook rewrote: raw sockets, processes outside the node's
 * cgroup, connections that are older than the hooks. Attached to the host side of the link:
 *
 *   lb_from_pod  tcx ingress   pod -> VIP       target becomes a backend; refused packets are answered here
 *   lb_to_pod    tcx egress    backend -> pod   source becomes the VIP again
 *
 * A pod that is its own backend can't get packets from its own address: its source becomes the hairpin address,
 * and packet and answer are turned around at the link.
 */
#include "lb_answer.h"
#include "lb_flow.h"

#define NEXT -1 /* TCX_NEXT: other programs, then the stack */
#define DROP 2 /* TCX_DROP */
#define REFUSED 0x1000 /* plus the reason: the packet is answered at the end, in one place */

/* Addresses that stand for "this pod itself" inside the pod; never seen outside of the link. 169.254.112.111, 100::706f. */
const volatile __be32 lb_hairpin4[4] = { 0, 0, 0xffff0000, 0x6f70fea9 };
const volatile __be32 lb_hairpin6[4] = { 0x0001, 0, 0, 0x6f700000 };

/* Read by nobody: keeps the structures in this object's BTF, where a test compares them with user space's. */
const volatile struct lb_layout {
	struct lb_endpoint endpoint;
	struct lb_frontend frontend;
	struct lb_line line;
	struct lb_backend backend;
	struct lb_peer peer;
	struct lb_peers peers;
	struct lb_flow flow;
	struct lb_flows flows;
	struct lb_client client;
	struct lb_affinity affinity;
	struct lb_range range;
	struct lb_config config;
} lb_layout = {};

static __always_inline int dropped(__u32 reason)
{
	lb_count(reason);
	return DROP;
}

static __always_inline int back_to_pod(struct __sk_buff *skb)
{
	return bpf_redirect(skb->ifindex, 0);
}

/* Tells the sender that nobody is there. */
static __always_inline int refuse(struct __sk_buff *skb, const struct lb_packet *p, __u32 reason)
{
	int failed;

	if (p->fragment == LB_LATER_FRAGMENT)
		return dropped(LB_DROP_FRAGMENT);
	if (p->protocol == IPPROTO_TCP) {
		if (p->tcp_flags & LB_TCP_RST)
			return dropped(LB_REJECT_NO_FLOW);
		/* Many segments in one: the sender repeats them one by one and gets its answer then. */
		if (skb->gso_size)
			return dropped(reason);
		failed = lb_answer_reset(skb, p);
	} else if (p->ip4) {
		failed = lb_answer_icmp4(skb, p);
	} else {
		failed = lb_answer_icmp6(skb, p);
	}
	if (failed)
		return dropped(LB_DROP_REWRITE);
	lb_count(reason);
	return back_to_pod(skb);
}

/* A packet to an address of a Service range that no frontend answers. */
static __always_inline int no_frontend(const struct lb_packet *p)
{
	struct lb_endpoint to;
	__u32 reason;

	lb_endpoint_of(&to, p->target, p->target_port, p->protocol);
	reason = lb_why_no_frontend(&to);
	if (reason == LB_NONE)
		return NEXT;
	return reason == LB_REJECT_UNKNOWN_PORT ? REFUSED + LB_REJECT_UNKNOWN_PORT : dropped(reason);
}

static __always_inline void hairpin_address(const struct lb_packet *p, __be32 *address)
{
	for (int i = 0; i < 4; i++)
		address[i] = p->ip4 ? lb_hairpin4[i] : lb_hairpin6[i];
}

/* Sends a packet of a known flow to its backend. */
static __always_inline int to_backend(struct __sk_buff *skb, const struct lb_packet *p, const struct lb_flow *flow)
{
	if (lb_rewrite(skb, p, false, flow->backend, flow->backend_port))
		return dropped(LB_DROP_REWRITE);
	if (flow->flags & LB_FLOW_HAIRPIN) {
		__be32 hairpin[4];

		hairpin_address(p, hairpin);
		if (lb_rewrite(skb, p, true, hairpin, p->source_port) || lb_swap_macs(skb))
			return dropped(LB_DROP_REWRITE);
		return back_to_pod(skb);
	}
	return NEXT;
}

/*
 * The client uses its port for a backend directly, or through another VIP, which it used through a VIP before: what
 * the backend answers from here on is not to be shown as that VIP's. An open connection is left alone.
 */
static __always_inline void forget_flow(struct lb_flows *flows, const struct lb_packet *p, const __be32 *backend,
					__be16 port)
{
	struct lb_flow *flow = lb_flow_from(flows, backend, port, 0);

	if (flow && (p->protocol == IPPROTO_UDP || lb_flow_over(flow)))
		flow->flags = 0;
}

/* Chooses a backend and remembers it. Returns the flow, or NULL with the verdict in `verdict`. */
static __always_inline struct lb_flow *open_flow(const struct lb_packet *p, const struct lb_endpoint *client,
						 struct lb_flows *flows, bool opens, int *verdict)
{
	struct lb_client sticky = {};
	struct lb_frontend *frontend;
	struct lb_backend *backend;
	struct lb_endpoint to;
	struct lb_table table;
	struct lb_flows *first = NULL;
	struct lb_flow *flow;
	__u32 id, now, only = 0;

	lb_endpoint_of(&to, p->target, p->target_port, p->protocol);
	frontend = lb_frontend_of(&to);
	if (!frontend) {
		if (flows && (opens || p->protocol == IPPROTO_UDP))
			forget_flow(flows, p, p->target, p->target_port);
		*verdict = no_frontend(p);
		return NULL;
	}
	if (p->protocol == IPPROTO_TCP && !opens) {
		*verdict = REFUSED + LB_REJECT_NO_FLOW;
		return NULL;
	}
	table = lb_table_of(frontend, false);
	if (!table.size) {
		*verdict = table.drop ? dropped(LB_DROP_NO_LOCAL) : REFUSED + LB_REJECT_NO_ENDPOINT;
		return NULL;
	}
	lb_copy_address(sticky.address, p->source);
	sticky.service = frontend->service;
	id = lb_choose(frontend, &table, &sticky, bpf_get_prandom_u32(), &backend);
	if (!id || !backend) {
		*verdict = dropped(LB_DROP_NO_BACKEND);
		return NULL;
	}
	now = bpf_jiffies64();
	if (flows) {
		forget_flow(flows, p, backend->address, backend->port);
		flow = lb_flow_place(flows, p->target, p->target_port, now);
	} else {
		first = bpf_map_lookup_elem(&lb_scratch, &only);
		if (!first) {
			*verdict = DROP;
			return NULL;
		}
		flow = &first->flow[0];
	}
	/* While it is filled, nobody may take it for an other one. */
	flow->flags = 0;
	lb_copy_address(flow->vip, p->target);
	lb_copy_address(flow->backend, backend->address);
	lb_copy_address(flow->client, p->source);
	flow->vip_port = p->target_port;
	flow->backend_port = backend->port;
	flow->client_port = p->source_port;
	flow->backend_id = id;
	flow->seen = now;
	if (lb_same_address(backend->address, p->source)) {
		flow->flags = LB_FLOW_USED | LB_FLOW_HAIRPIN;
		lb_count(LB_FORWARD_HAIRPIN);
	} else {
		flow->flags = LB_FLOW_USED;
		lb_count(LB_FORWARD_FLOW);
	}
	if (first)
		bpf_map_update_elem(&lb_flows, client, first, BPF_ANY);
	return flow;
}

/* The answer of a pod to itself. */
static __always_inline int hairpin_back(struct __sk_buff *skb, const struct lb_packet *p)
{
	struct lb_endpoint client;
	struct lb_flows *flows;
	struct lb_flow *flow;

	lb_endpoint_of(&client, p->source, p->target_port, p->protocol);
	flows = bpf_map_lookup_elem(&lb_flows, &client);
	flow = flows ? lb_flow_from(flows, p->source, p->source_port, LB_FLOW_HAIRPIN) : NULL;
	if (!flow)
		return dropped(LB_REJECT_NO_FLOW);
	lb_flow_track(flow, p, false);
	if (lb_rewrite(skb, p, true, flow->vip, flow->vip_port) ||
	    lb_rewrite(skb, p, false, flow->client, p->target_port) || lb_swap_macs(skb))
		return dropped(LB_DROP_REWRITE);
	return back_to_pod(skb);
}

static __always_inline int from_pod(struct __sk_buff *skb, const struct lb_packet *p)
{
	bool opens = p->protocol == IPPROTO_TCP &&
		     (p->tcp_flags & (LB_TCP_SYN | LB_TCP_ACK | LB_TCP_RST)) == LB_TCP_SYN;
	struct lb_endpoint client;
	struct lb_flows *flows;
	struct lb_flow *flow;
	__be32 hairpin[4];
	int verdict = DROP;

	hairpin_address(p, hairpin);
	if (lb_same_address(p->target, hairpin))
		return hairpin_back(skb, p);
	lb_endpoint_of(&client, p->source, p->source_port, p->protocol);
	flows = bpf_map_lookup_elem(&lb_flows, &client);
	flow = flows ? lb_flow_to(flows, p->target, p->target_port) : NULL;
	if (!flow || !lb_flow_goes_on(flow, opens, p->protocol)) {
		flow = open_flow(p, &client, flows, opens, &verdict);
		if (!flow)
			return verdict;
	} else {
		lb_flow_track(flow, p, true);
	}
	return to_backend(skb, p, flow);
}

static __always_inline bool is_icmp_error(const struct lb_packet *p)
{
	__u8 type = bpf_ntohs(p->source_port) >> 8;

	if (p->protocol == IPPROTO_ICMPV6)
		return type < 128;
	return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

/* The packet inside an ICMP error, as far as it names its flow. */
struct embedded {
	struct lb_packet packet;
	__u16 at; /* its IP header, from the Ethernet header on */
};

static __always_inline int parse_embedded(struct __sk_buff *skb, const struct lb_packet *p, struct embedded *e)
{
	struct lb_fragment_ports ports;

	e->at = p->l4 + 8;
	e->packet.ip4 = p->ip4;
	if (p->ip4) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, e->at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
			return -1;
		lb_map_ip4(e->packet.source, ip.saddr);
		lb_map_ip4(e->packet.target, ip.daddr);
		e->packet.protocol = ip.protocol;
		e->packet.l4 = e->at + ip.ihl * 4;
	} else {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, e->at, &ip, sizeof(ip)) || ip.version != 6)
			return -1;
		__builtin_memcpy(e->packet.source, &ip.saddr, 16);
		__builtin_memcpy(e->packet.target, &ip.daddr, 16);
		e->packet.protocol = ip.nexthdr;
		e->packet.l4 = e->at + sizeof(ip);
	}
	if (e->packet.protocol != IPPROTO_TCP && e->packet.protocol != IPPROTO_UDP)
		return -1;
	if (bpf_skb_load_bytes(skb, e->packet.l4, &ports, sizeof(ports)))
		return -1;
	e->packet.source_port = ports.source;
	e->packet.target_port = ports.target;
	return 0;
}

/*
 * Replaces an address and port of the embedded packet. The embedded IPv4 header's checksum takes up what its address
 * changes, so that the ICMP checksum sees the port only; in IPv6 it sees both.
 */
static __always_inline int rewrite_embedded(struct __sk_buff *skb, const struct lb_packet *p, const struct embedded *e,
					    bool source, const __be32 *address, __be16 port)
{
	const __be32 *old = source ? e->packet.source : e->packet.target;
	__be16 old_port = source ? e->packet.source_port : e->packet.target_port;
	__u32 sum_at = p->l4 + 2;
	long failed = 0;

	if (p->ip4) {
		__be32 from = old[3], to = address[3];

		failed |= bpf_l3_csum_replace(skb, e->at + 10, from, to, 4);
		failed |= bpf_skb_store_bytes(skb, e->at + (source ? 12 : 16), &to, 4, 0);
	} else {
		__be32 from[4], to[4];

		lb_copy_address(from, old);
		lb_copy_address(to, address);
		failed |= bpf_l4_csum_replace(skb, sum_at, 0, bpf_csum_diff(from, 16, to, 16, 0), 0);
		failed |= bpf_skb_store_bytes(skb, e->at + (source ? 8 : 24), to, 16, 0);
	}
	failed |= bpf_l4_csum_replace(skb, sum_at, old_port, port, 2);
	failed |= bpf_skb_store_bytes(skb, e->packet.l4 + (source ? 0 : 2), &port, 2, 0);
	return failed ? -1 : 0;
}

/* Replaces the source or target address of an ICMP error itself. */
static __always_inline int rewrite_outer(struct __sk_buff *skb, const struct lb_packet *p, bool source,
					 const __be32 *address)
{
	const __be32 *old = source ? p->source : p->target;
	long failed = 0;

	if (p->ip4) {
		__be32 from = old[3], to = address[3];

		failed |= bpf_l3_csum_replace(skb, LB_IP4_CHECKSUM_AT, from, to, 4);
		failed |= bpf_skb_store_bytes(skb, ETH_HLEN + (source ? 12 : 16), &to, 4, 0);
	} else {
		__be32 from[4], to[4];

		lb_copy_address(from, old);
		lb_copy_address(to, address);
		failed |= bpf_l4_csum_replace(skb, p->l4 + 2, 0, bpf_csum_diff(from, 16, to, 16, 0), BPF_F_PSEUDO_HDR);
		failed |= bpf_skb_store_bytes(skb, ETH_HLEN + (source ? 8 : 24), to, 16, 0);
	}
	return failed ? -1 : 0;
}

/* The pod complains about a packet that it believes to come from the VIP. */
static __always_inline int icmp_from_pod(struct __sk_buff *skb, const struct lb_packet *p)
{
	struct lb_endpoint client;
	struct lb_flows *flows;
	struct lb_flow *flow;
	struct embedded e = {};

	if (!is_icmp_error(p))
		return no_frontend(p);
	if (parse_embedded(skb, p, &e))
		return lb_in_service_range(p->target) ? dropped(LB_DROP_ICMP) : NEXT;
	lb_endpoint_of(&client, e.packet.target, e.packet.target_port, e.packet.protocol);
	flows = bpf_map_lookup_elem(&lb_flows, &client);
	flow = flows ? lb_flow_to(flows, e.packet.source, e.packet.source_port) : NULL;
	if (!flow)
		return lb_in_service_range(p->target) ? dropped(LB_DROP_ICMP) : NEXT;
	if (rewrite_embedded(skb, p, &e, true, flow->backend, flow->backend_port) ||
	    rewrite_outer(skb, p, false, flow->backend))
		return dropped(LB_DROP_REWRITE);
	return NEXT;
}

/* Somebody complains about a packet that the pod believes to have sent to the VIP. */
static __always_inline int icmp_to_pod(struct __sk_buff *skb, const struct lb_packet *p)
{
	struct lb_endpoint client;
	struct lb_flows *flows;
	struct lb_flow *flow;
	struct embedded e = {};

	if (!is_icmp_error(p) || parse_embedded(skb, p, &e))
		return NEXT;
	lb_endpoint_of(&client, e.packet.source, e.packet.source_port, e.packet.protocol);
	flows = bpf_map_lookup_elem(&lb_flows, &client);
	flow = flows ? lb_flow_from(flows, e.packet.target, e.packet.target_port, 0) : NULL;
	if (!flow)
		return NEXT;
	if (rewrite_embedded(skb, p, &e, false, flow->vip, flow->vip_port))
		return dropped(LB_DROP_REWRITE);
	if (lb_same_address(p->source, flow->backend) && rewrite_outer(skb, p, true, flow->vip))
		return dropped(LB_DROP_REWRITE);
	return NEXT;
}

static __always_inline bool is_icmp(const struct lb_packet *p)
{
	return p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6;
}

SEC("tcx/ingress")
int lb_from_pod(struct __sk_buff *skb)
{
	struct lb_packet p = {};
	int verdict = NEXT;

	switch (lb_parse(skb, &p)) {
	case LB_PARSED:
		verdict = is_icmp(&p) ? icmp_from_pod(skb, &p) : from_pod(skb, &p);
		break;
	case LB_PARSED_NO_PORTS:
		verdict = no_frontend(&p);
		break;
	default:
		break;
	}
	return verdict >= REFUSED ? refuse(skb, &p, verdict - REFUSED) : verdict;
}

SEC("tcx/egress")
int lb_to_pod(struct __sk_buff *skb)
{
	struct lb_packet p = {};
	struct lb_endpoint client;
	struct lb_flows *flows;
	struct lb_flow *flow;

	if (lb_parse(skb, &p) != LB_PARSED)
		return NEXT;
	if (is_icmp(&p))
		return icmp_to_pod(skb, &p);
	lb_endpoint_of(&client, p.target, p.target_port, p.protocol);
	flows = bpf_map_lookup_elem(&lb_flows, &client);
	flow = flows ? lb_flow_from(flows, p.source, p.source_port, 0) : NULL;
	if (!flow)
		return NEXT;
	lb_flow_track(flow, &p, false);
	if (lb_rewrite(skb, &p, true, flow->vip, flow->vip_port))
		return dropped(LB_DROP_REWRITE);
	return NEXT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
