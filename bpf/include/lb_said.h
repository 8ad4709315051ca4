/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * What lb_xdp tells lb_from_outside of a packet that it passes: a word in the packet's metadata, which lies before its
 * first byte and never leaves the node. Where a driver has no room for it, XDP changes nothing that it passes.
 *
 * The word has a number of this node in it. An interface of the kernel may give a packet away together with its
 * metadata (a veth pair does), so that another node might read it.
 */
#ifndef LB_SAID_H
#define LB_SAID_H

#include "lb_nat.h"

enum lb_said {
	LB_SAID_NOTHING,
	LB_SAID_DONE, /* it is no Service's, or all that is to be changed in it was changed */
	LB_SAID_MASQUERADE, /* the same, and its source becomes an address of this node, by its rules */
};

#define LB_SAID_KIND 3U

static __always_inline __u32 lb_said_word(enum lb_said kind)
{
	return ((__u32)(lb_nat_seed >> 16) & ~LB_SAID_KIND) | kind;
}

/* Writes the word into room that was made for it. */
static __always_inline void lb_say(struct xdp_md *ctx, enum lb_said kind)
{
	__u32 *word = (void *)(long)ctx->data_meta;

	if ((void *)(word + 1) <= (void *)(long)ctx->data)
		*word = kind == LB_SAID_NOTHING ? 0 : lb_said_word(kind);
}

static __always_inline enum lb_said lb_said(struct __sk_buff *skb)
{
	__u32 *word = (void *)(long)skb->data_meta;

	if ((void *)(word + 1) > (void *)(long)skb->data || (*word ^ lb_said_word(0)) > LB_SAID_KIND)
		return LB_SAID_NOTHING;
	return *word & LB_SAID_KIND;
}

#endif
