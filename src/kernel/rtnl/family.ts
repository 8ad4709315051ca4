import type { Family } from '../../addr/index.ts';
import { AF, malformed } from '../netlink/index.ts';

/** AF_INET or AF_INET6. */
export function afOf(family: Family): number {
  return family === 4 ? AF.INET : AF.INET6;
}

/** Undefined for families that Portolan does not know, e.g. MPLS. */
export function familyOf(af: number): Family | undefined {
  return af === AF.INET ? 4 : af === AF.INET6 ? 6 : undefined;
}

/** Length check of a family's header. Throws NETLINK_MALFORMED. */
export function needBytes(what: string, body: Uint8Array, size: number): void {
  if (body.length < size) throw malformed(what, `it has ${body.length} bytes, want ${size} at least`);
}
