import { isNetError, kernelCause } from '../errors/net-error.ts';
import type { CniAnswer } from './protocol.ts';

/**
 * Numbers of our failures: 1 to 99 are the specification's (section 5, "Error"), from 100 on our own. What is missing
 * here is 999, as libcni numbers internal errors.
 */
const CODES: Readonly<Record<string, number>> = {
  CNI_VERSION_UNSUPPORTED: 1,
  CNI_VERSION_TOO_OLD: 1,
  CNI_FIELD_UNSUPPORTED: 2,
  CNI_NETNS_GONE: 3,
  CNI_COMMAND_UNKNOWN: 4,
  CNI_ENV_MISSING: 4,
  CNI_ENV_INVALID: 4,
  CNI_FRAME_MALFORMED: 5,
  CNI_INPUT_TOO_LARGE: 5,
  CNI_INPUT_TIMEOUT: 5,
  CNI_INPUT_NOT_JSON: 6,
  CNI_CONFIG_INVALID: 7,
  CNI_NETNS_IS_HOST: 8,
  CNI_TIMEOUT: 11,
  IPAM_NO_POOL: 11,
  IPAM_POOL_EXHAUSTED: 11,
  IPAM_STORE_FULL: 11,
  IPAM_STORE_FAILED: 11,
  IPAM_STORE_CLOSED: 11,
  CNI_NOT_AVAILABLE: 50,
  CNI_PODS_LIMITED: 51,
  IPAM_ATTACHMENT_EXISTS: 100,
  IPAM_HOST_LINK_TAKEN: 100,
  CNI_IFNAME_TAKEN: 100,
  PODLINK_IFNAME_TAKEN: 100,
  IPAM_ADDRESS_TAKEN: 101,
  IPAM_ADDRESS_OUTSIDE: 101,
  IPAM_ADDRESS_RESERVED: 101,
  IPAM_TWO_ADDRESSES: 101,
  CNI_HOST_PORT_ADDRESS: 104,
  CNI_HOST_PORT_TAKEN: 105,
  CNI_HOST_PORTS_UNKNOWN: 11,
  CNI_HOST_PORT_FAILED: 106,
  CNI_CHECK_FAILED: 102,
  PODLINK_FAILED: 103,
  PODLINK_HOST_LINK_FOREIGN: 103,
};
const INTERNAL = 999;

/** The number under which a runtime knows an error. Pure. */
export function cniCode(error: unknown): number {
  if (error instanceof AggregateError) return cniCode(error.errors[0]);
  return (isNetError(error) && CODES[error.code]) || INTERNAL;
}

/** The answer that tells a failure: JSON on stdout, exit status 1. */
export function failure(error: unknown, cniVersion = '1.0.0'): CniAnswer {
  const kernel = kernelCause(error);
  const details = [
    error instanceof AggregateError ? error.errors.slice(1).map(String).join('; ') : '',
    isNetError(error) ? `${error.code}: ${error.remedy}` : '',
    kernel ? `kernel: ${kernel.message ? `${kernel.message}, ` : ''}${kernel.name}` : '',
  ].filter(Boolean);
  const first = error instanceof AggregateError ? error.errors[0] : error;
  const value = {
    cniVersion,
    code: cniCode(error),
    msg: first instanceof Error ? first.message : String(first),
    ...(details.length > 0 ? { details: details.join(' | ') } : {}),
  };
  return { status: 1, stdout: `${JSON.stringify(value)}\n` };
}

/** The answer that carries a value, or nothing. */
export function success(value?: unknown): CniAnswer {
  return { status: 0, stdout: value === undefined ? '' : `${JSON.stringify(value)}\n` };
}
