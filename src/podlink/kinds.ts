/**
 * How pods are connected: each by a route of its own, or as ports of one bridge. Apart from what makes them, so that
 * who only asks for one loads nothing.
 */
export const POD_LINK_KINDS = ['routed', 'bridge'] as const;
export type PodLinkKind = (typeof POD_LINK_KINDS)[number];
