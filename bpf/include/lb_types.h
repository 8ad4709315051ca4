/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Structures of the Service load balancer, shared with user space: src/service/engines/ebpf/layout.ts declares the
 * same ones, and a test compares both through BTF. Addresses of both families are 16 bytes; IPv4 is mapped into
 * ::ffff:0:0/96, so that one map and one program serve both, and so that a v6 socket may name an IPv4 frontend.
 */
#ifndef LB_TYPES_H
#define LB_TYPES_H

#include <linux/types.h>

/* Key of lb_frontends. Port and protocol 0 stand for "this address is a ClusterIP". */
struct lb_endpoint {
	__be32 address[4];
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

enum lb_frontend_flag {
	LB_F_INSIDE_DROP = 1 << 0, /* nobody to forward to: drop clients inside, instead of refusing them */
	LB_F_OUTSIDE_DROP = 1 << 1, /* the same for clients outside */
	LB_F_INSIDE_HASH = 1 << 2, /* choose by hash of the flow, not at random */
	LB_F_OUTSIDE_HASH = 1 << 3,
	LB_F_INSIDE_LOCAL = 1 << 4, /* the inside table is the local set, else the cluster set */
	LB_F_OUTSIDE_LOCAL = 1 << 5,
	LB_F_OUTSIDE_KEEP = 1 << 6, /* clients outside keep their source address */
	LB_F_RANGES = 1 << 7, /* only sources that lb_source_ranges names for this service */
	LB_F_WILDCARD = 1 << 8, /* a ClusterIP as such; refuses ports that are not in use */
	LB_F_DSR = 1 << 9, /* answers go back directly */
	LB_F_NODE_ALLOWED = 1 << 10, /* its sources include this node */
	LB_F_DSR_OPTION = 1 << 11, /* with LB_F_DSR: the backend's node is told by an option, not inside another packet */
	LB_F_KIND_SHIFT = 12, /* 4 bits: 0 ClusterIP, 1 NodePort, 2 LoadBalancer, 3 ExternalIP, 4 HostPort */
	LB_F_NOT_OURS = 1 << 16, /* with LB_F_WILDCARD: a ClusterIP that another proxy serves; all ports pass */
};

/* Where a packet or a connection goes. One update of this value switches both tables. */
struct lb_frontend {
	__u32 id; /* of this frontend, for counters and traces */
	__u32 service; /* of the Service port: frontends of one port share affinity and backends */
	__u32 flags; /* enum lb_frontend_flag */
	__u32 affinity_s; /* idle seconds of ClientIP affinity, 0 for none */
	__u32 inside_line; /* first line of the table for pods and this node */
	__u32 inside_size; /* entries, 0 for an empty table */
	__u32 outside_line; /* the same for clients outside the node */
	__u32 outside_size;
};

/* A cache line of a table of backend ids. Tables begin at a line; a prime size makes it a Maglev table. */
#define LB_LINE_ENTRIES 16
struct lb_line {
	__u32 backend[LB_LINE_ENTRIES];
};

enum lb_backend_flag {
	LB_B_USED = 1 << 0, /* cleared as the last thing when a backend goes; address and port stay a while */
	LB_B_CLUSTER = 1 << 1, /* member of the cluster set */
	LB_B_LOCAL = 1 << 2, /* member of the local set */
	LB_B_NEAR = 1 << 3, /* on this node */
};

struct lb_backend {
	__be32 address[4];
	__be16 port;
	__u8 protocol;
	__u8 flags; /* enum lb_backend_flag */
	__u32 service; /* as in lb_frontend; ids are not shared between Service ports */
	__u32 spare[2];
};

/* What a socket believes to talk to, and what it talks to. */
struct lb_peer {
	__be32 vip[4];
	__be32 backend[4];
	__be16 vip_port;
	__be16 backend_port;
	__u32 backend_id;
};

/* The peer of the connected socket that has this place, in one cache line. */
struct lb_socket_place {
	__u64 cookie; /* 0: free */
	struct lb_peer peer;
	__u64 spare[2];
};

/* Peers of a socket that is not connected. */
#define LB_PEERS 16
struct lb_peers {
	struct lb_peer peer[LB_PEERS];
	__u32 next; /* which one to give up next */
	__u32 last; /* to whom it sent last */
};

enum lb_flow_flag {
	LB_FLOW_USED = 1 << 0,
	LB_FLOW_REPLIED = 1 << 1,
	LB_FLOW_FIN_CLIENT = 1 << 2,
	LB_FLOW_FIN_BACKEND = 1 << 3,
	LB_FLOW_RESET = 1 << 4,
	LB_FLOW_HAIRPIN = 1 << 5, /* the client is its own backend: its source is rewritten too */
	LB_FLOW_MASQUERADE = 1 << 6, /* the source becomes an address of this node, by its rules */
	LB_FLOW_DIRECT = 1 << 7, /* packets go to the backend's node as they are, which answers as the VIP */
	LB_FLOW_OPTION = 1 << 8, /* with LB_FLOW_DIRECT: ... to the backend, and an option tells its node the VIP */
	LB_FLOW_CONFIRMED = 1 << 9, /* the client went on after the backend's answer: no forged source does */
	LB_FLOW_UDP = 1 << 10, /* else TCP */
	LB_FLOW_TOLD_SHIFT = 11, /* 5 bits, with LB_FLOW_OPTION: the second when its node was told last, 0 for never */
	LB_FLOW_WAY_SHIFT = 11, /* 3 bits, without: which other port of the client the backend sees, 0 for its own */
	LB_FLOW_WAYS = 7 << LB_FLOW_WAY_SHIFT,
};

/* A translated flow, both directions in one entry, in one cache line. */
struct lb_flow {
	__be32 vip[4];
	__be32 backend[4];
	__be32 client[4];
	__be16 vip_port;
	__be16 backend_port;
	__be16 client_port;
	__u16 flags; /* enum lb_flow_flag */
	__u32 backend_id;
	__u32 seen; /* jiffies, low half */
};

/* Key of lb_affinity: a client of a Service port. */
struct lb_client {
	__be32 address[4]; /* or the cookie of a network namespace, for sockets */
	__u32 service;
	__u32 kind; /* 0 address, 1 cookie */
};

struct lb_affinity {
	__u32 backend_id;
	__u32 pad;
	__u64 seen_ns; /* coarse monotonic clock of the last new connection */
};

/* What a Service port or a backend was used for, on one CPU. */
struct lb_count {
	__u64 connections; /* new ones, and first datagrams */
	__u64 refused; /* of a Service port: refused or dropped for any reason */
	__u64 packets; /* of a backend: both directions, only what is translated packet by packet */
	__u64 bytes; /* from the transport header on */
};

struct lb_range {
	__be32 address[4];
	__be32 mask[4];
};

/* Who translates flows while they pass from one carrier to another. */
enum lb_hold {
	LB_HOLD_OFF, /* programs, alone */
	LB_HOLD_UNKNOWN, /* flows are being carried over: what is unknown may soon be known */
	LB_HOLD_PASS, /* programs what they know, netfilter what they do not */
	LB_HOLD_KNOWN, /* known flows go over to netfilter and stand still meanwhile; netfilter what is unknown */
	LB_HOLD_ALL, /* netfilter, alone */
};

/* Key of lb_passed. */
struct lb_passed_key {
	struct lb_endpoint client;
	struct lb_endpoint vip;
};

/* A flow that netfilter began and goes on translating. */
struct lb_passed {
	__be32 backend[4];
	__be16 backend_port;
	__u16 pad;
	__u32 backend_id; /* of a datagram's backend, which must still be there; 0: not looked at */
	__u32 seen; /* jiffies, low half; 0: not yet */
	__u32 idle; /* jiffies after which netfilter may have forgotten it; 0: it does not so soon */
};

/* The only value of lb_config: what changes while programs run. */
#define LB_RANGES 8
struct lb_config {
	__u32 range_count;
	__u32 hold; /* enum lb_hold */
	struct lb_range range[LB_RANGES]; /* Service ranges (ServiceCIDR) */
};

/* Why a packet or a connection went where it went: index into lb_counters. Names: src/service/engines/ebpf/layout.ts */
enum lb_reason {
	LB_NONE,
	LB_FORWARD_SOCKET, /* a connection or datagram was given a backend at the socket */
	LB_FORWARD_FLOW, /* a new flow was given a backend at the link */
	LB_FORWARD_HAIRPIN, /* ... and the client is that backend */
	LB_REJECT_NO_ENDPOINT,
	LB_REJECT_UNKNOWN_PORT, /* a ClusterIP without this port */
	LB_REJECT_NO_FLOW, /* a TCP segment to a frontend, but of no connection that is known */
	LB_DROP_NO_LOCAL, /* policy Local, and endpoints only elsewhere */
	LB_DROP_UNALLOCATED, /* in a Service range, but no Service has it */
	LB_DROP_NO_BACKEND, /* the table names nobody: not while the agent is right */
	LB_DROP_FRAGMENT, /* a later fragment whose first one was not seen */
	LB_DROP_ICMP, /* an ICMP error to a frontend that belongs to no flow */
	LB_DROP_MALFORMED, /* to a Service range, and it ends within its headers */
	LB_DROP_REWRITE, /* the kernel refused to change the packet */
	LB_DROP_SOURCE_RANGE,
	LB_FORWARD_NAT, /* a new flow was given a backend on another node, and a port of this one */
	LB_REJECT_TOO_BIG, /* the sender was told how large packets may be */
	LB_DROP_HOP_LIMIT, /* its hops were used up; the sender was told */
	LB_DROP_NAT_FULL, /* a new flow, and all ports that it may have are taken */
	LB_DROP_NO_ROUTE, /* this node has no route to the backend, or back to the client */
	LB_FORWARD_DIRECT, /* a new flow was given a backend on another node, which answers the client directly */
	LB_DROP_DIRECT, /* sent here for a backend that is not here, or not the one that this node would choose */
	LB_DROP_HOLD, /* of no connection that is known, while flows are carried over: the sender repeats it */
	LB_DROP_OPTION, /* carries what nodes tell each other, and comes from none of them */
	LB_DROP_SPOOFED, /* a pod sent it with a source address that is not its own */
	LB_DROP_FLOWS_FULL, /* a new flow, and all places that it may have are taken */
	LB_DROP_SOCKETS_FULL, /* a datagram socket, and no room to remember what it believes to talk to */
	LB_REASONS, /* number of reasons */
};

#endif
