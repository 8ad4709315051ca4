/**
 * Pools of load balancer addresses, each a ConfigMap in kube-system with the label of {@link poolLabel}:
 *
 *     data:
 *       cidrs: 172.31.0.192/28                        networks, separated by commas or white space
 *       ranges: 172.31.0.200-172.31.0.210             first and last, both included
 *       serviceSelector: tier=edge,env in (a, b)      labels of Services that may use it; all without it
 *       autoAssign: "false"                           only for Services that name an address; true without it
 *
 * A pool is used as it is written or not at all: a key that is misspelt must not become a wider pool. Pure.
 */
import { addressBits, type Family, IpAddress, tryParseCidr, tryParseIp } from '../../addr/index.ts';
import { type LabelMatch, labelMatch } from '../../apiserver/selectors/labels.ts';
import { controllersError } from '../../errors/controllers.ts';
import type { ConfigMap } from '../../model/kubernetes.ts';

/** A ConfigMap with this label set to `true` is a pool. */
export const poolLabel = 'portolan.dev/load-balancer-pool';
export const poolNamespace = 'kube-system';

/** Addresses from first to last, both included. */
export interface AddressRange {
  readonly family: Family;
  readonly first: bigint;
  readonly last: bigint;
}

export interface AddressPool {
  readonly name: string;
  readonly ranges: readonly AddressRange[];
  /** Which labels of a Service select it. */
  readonly selects: LabelMatch;
  readonly autoAssign: boolean;
}

/** A ConfigMap that was read as a pool, or why it is none. */
export type PoolReading =
  | AddressPool
  | { readonly name: string; readonly uid: string; readonly error: Error };

const KEYS = ['cidrs', 'ranges', 'serviceSelector', 'autoAssign'];

/** Reads a ConfigMap as a pool; what is wrong with it is CONTROLLER_BAD_POOL. */
export function readPool({ metadata, data = {} }: ConfigMap): PoolReading {
  const { name, uid = '' } = metadata;
  const refuse = (key: string, value: string, want: string) => ({
    name,
    uid,
    error: controllersError('CONTROLLER_BAD_POOL', { pool: name, key, value, want }),
  });
  for (const [key, value] of Object.entries(data))
    if (!KEYS.includes(key)) return refuse(key, value, `only the keys ${KEYS.join(', ')}`);
  const ranges: AddressRange[] = [];
  for (const text of words(data['cidrs'])) {
    const cidr = tryParseCidr(text);
    if (!cidr) return refuse('cidrs', text, 'networks such as 172.31.0.192/28');
    const spare = addressBits(cidr.family) - cidr.prefixLength;
    // The first of a network is its own name (IPv4) or every router's (RFC 4291, 2.6.1), the last IPv4 one broadcast.
    const edge = spare > 1 ? 1n : 0n;
    ranges.push({
      family: cidr.family,
      first: BigInt(cidr.address.value) + edge,
      last: BigInt(cidr.last.value) - (cidr.family === 4 ? edge : 0n),
    });
  }
  for (const text of words(data['ranges'])) {
    const [first, last, more] = text.split('-').map((end) => tryParseIp(end));
    if (!first || !last || more !== undefined || text.split('-').length !== 2 || first.family !== last.family)
      return refuse('ranges', text, 'FIRST-LAST, such as 172.31.0.200-172.31.0.210');
    if (first.compare(last) > 0) return refuse('ranges', text, 'the lower address first');
    ranges.push({ family: first.family, first: BigInt(first.value), last: BigInt(last.value) });
  }
  if (ranges.length === 0)
    return refuse('cidrs', '', 'at least one network in cidrs, or one range in ranges');
  for (const { family, first, last } of ranges)
    for (const end of [first, last]) {
      const address = IpAddress.of(family, end);
      if (address.isUnspecified || address.isLoopback || address.isMulticast || address.isLinkLocal)
        return refuse('cidrs', String(address), 'addresses that clients elsewhere can reach');
    }
  const auto = data['autoAssign']?.trim() ?? 'true';
  if (auto !== 'true' && auto !== 'false') return refuse('autoAssign', auto, 'true or false');
  let selects: LabelMatch | undefined;
  try {
    selects = labelMatch(data['serviceSelector']?.trim() || null);
  } catch {
    return refuse(
      'serviceSelector',
      data['serviceSelector'] ?? '',
      'a label selector such as tier=edge,!old',
    );
  }
  return { name, ranges, selects: selects ?? (() => true), autoAssign: auto === 'true' };
}

/** Whether an address is one of the pool's. */
export function poolHas(pool: AddressPool, address: IpAddress): boolean {
  const value = BigInt(address.value);
  return pool.ranges.some(
    ({ family, first, last }) => family === address.family && first <= value && value <= last,
  );
}

/** Items of a list that people separate by commas, blanks or lines. */
export function words(text: string | undefined): string[] {
  return (text ?? '').split(/[\s,]+/).filter(Boolean);
}
