import type { KernelCause, NetError } from '../../errors/index.ts';
import { kernelError, rtnlError } from '../../errors/index.ts';
import type { NlRequest } from '../netlink/index.ts';
import { ERRNO } from '../syscall/index.ts';

/** Tells the name of a link by its index, for text. */
export type NameOf = (ifindex: number) => string;

/** One change of the kernel's tables: what to send, how a person would type it, what its failure means. */
export interface RtnlChange {
  readonly request: NlRequest;
  /** Answers that mean "it is so already": absent where it should be deleted. */
  readonly ignore: readonly number[];
  /** The command of iproute2 that does the same. */
  text(nameOf?: NameOf): string;
  /** The error of the catalogue for the kernel's refusal; default `changeFailed`. */
  fail?(cause: KernelCause): NetError | undefined;
}

/** Names links by their number, when nobody knows better. */
export const byNumber: NameOf = (ifindex) => `if${ifindex}`;

/** Translates the kernel's refusal of a change. */
export function changeFailed(change: RtnlChange, cause: KernelCause, nameOf: NameOf = byNumber): NetError {
  const special = change.fail?.(cause);
  if (special) return special;
  const action = `"${change.text(nameOf)}"`;
  switch (cause.errno) {
    case ERRNO.EPERM:
      return kernelError('KERNEL_NEEDS_ROOT', { action }, cause);
    case ERRNO.EEXIST:
      return rtnlError('RTNL_EXISTS', { action }, cause);
    case ERRNO.ENETUNREACH:
    case ERRNO.EHOSTUNREACH:
      return rtnlError('RTNL_GATEWAY_UNREACHABLE', { action }, cause);
    default:
      return rtnlError('RTNL_FAILED', { action }, cause);
  }
}
