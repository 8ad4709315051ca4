/** include/uapi/linux/netlink.h */
export const NLM_F = {
  REQUEST: 0x1,
  MULTI: 0x2,
  ACK: 0x4,
  ECHO: 0x8,
  DUMP_INTR: 0x10,
  DUMP: 0x300,
  REPLACE: 0x100,
  EXCL: 0x200,
  CREATE: 0x400,
  APPEND: 0x800,
  /** In answers: the request is not echoed. */
  CAPPED: 0x100,
  /** In answers: attributes of the extended ack follow. */
  ACK_TLVS: 0x200,
} as const;

export const NLMSG = { NOOP: 1, ERROR: 2, DONE: 3, OVERRUN: 4 } as const;

/** Netlink families, the third argument of socket(2). */
export const NETLINK = { ROUTE: 0, SOCK_DIAG: 4, NETFILTER: 12, GENERIC: 16 } as const;

/** Attributes of an extended ack, enum nlmsgerr_attrs. */
export const NLMSGERR_ATTR = { MSG: 1, OFFS: 2, MISS_TYPE: 5 } as const;

/** Bits of an attribute's type that are not its number. */
export const NLA_F_NESTED = 0x8000;
export const NLA_TYPE_MASK = 0x3fff;

/** Bytes of struct nlmsghdr. */
export const NLMSG_HDRLEN = 16;

export const AF = { UNSPEC: 0, INET: 2, BRIDGE: 7, NETLINK: 16, INET6: 10 } as const;

/** SOL_NETLINK options. */
export const NETLINK_OPTION = { ADD_MEMBERSHIP: 1, CAP_ACK: 10, EXT_ACK: 11, GET_STRICT_CHK: 12 } as const;
