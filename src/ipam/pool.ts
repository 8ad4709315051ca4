import { type Cidr, IpAddress } from '../addr/index.ts';

/** Number of the gateway's address in a pool: .1, as people expect. Pods do not need it, but tools look for it. */
const GATEWAY_INDEX = 1n;

/** The gateway address of a pool, kept free of pods. */
export function poolGateway(pool: Cidr): IpAddress {
  return pool.host(pool.size > GATEWAY_INDEX ? GATEWAY_INDEX : 0n);
}

/** What an address of a pool is reserved for, or undefined when a pod may have it. */
export function reservedRole(
  pool: Cidr,
  address: IpAddress,
): 'network address' | 'gateway' | 'broadcast address' | undefined {
  if (pool.size <= 2n) return undefined; // RFC 3021 for /31; a /32 has nothing but the one address
  const index = BigInt(address.value) - BigInt(pool.address.value);
  if (index === 0n) return 'network address';
  if (index === GATEWAY_INDEX) return 'gateway';
  if (pool.family === 4 && index === pool.size - 1n) return 'broadcast address';
  return undefined;
}

/** How many addresses pods may have. */
export function usableAddresses(pool: Cidr): bigint {
  if (pool.size <= 2n) return pool.size;
  return pool.size - (pool.family === 4 ? 3n : 2n);
}

/**
 * The next free address after the one given out last, around the end: an address that was just released comes back
 * last, when late packets and stale conntrack entries of its old pod are gone. Undefined when none is free.
 * Pure; the steps are at most the number of taken addresses plus the reserved ones.
 */
export function nextFree(
  pool: Cidr,
  last: IpAddress | undefined,
  isTaken: (address: IpAddress) => boolean,
): IpAddress | undefined {
  const base = BigInt(pool.address.value);
  const size = pool.size;
  const start = last && pool.contains(last) ? BigInt(last.value) - base + 1n : 0n;
  for (let step = 0n; step < size; step++) {
    const address = IpAddress.of(pool.family, base + ((start + step) % size));
    if (reservedRole(pool, address) === undefined && !isTaken(address)) return address;
  }
  return undefined;
}
