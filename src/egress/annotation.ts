/** The two annotations, as text and as values. Pure; what is wrong is said in words that a person can act on. */
import { type Cidr, type Family, type IpAddress, tryParseIp } from '../addr/index.ts';
import type { Claim, Claims, Wish } from './types.ts';

/** Longest text that is looked at: two addresses have at most 91 characters. */
const LONGEST = 128;
/** More addresses than any node holds. */
const MOST_CLAIMS = 10_000;

/**
 * Reads a Namespace's annotation; `cluster` are networks of pods and Services, which nobody outside can answer to. An
 * annotation that is there and says nothing is wrong, too: whoever wrote it wanted something.
 */
export function readWish(namespace: string, text: string, cluster: readonly Cidr[]): Wish {
  const addresses: { [F in Family]?: IpAddress } = {};
  const wrong = (problem: string): Wish => ({ namespace, addresses: {}, problem });
  if (text.trim() === '') return wrong('it is empty');
  if (text.length > LONGEST) return wrong(`it has ${text.length} characters`);
  for (const part of text.split(',').map((each) => each.trim())) {
    const address = tryParseIp(part);
    if (!address) return wrong(`"${part}" is no IP address`);
    const why = unfit(address, cluster);
    if (why) return wrong(`${address} ${why}`);
    if (addresses[address.family]) return wrong(`it names two IPv${address.family} addresses`);
    addresses[address.family] = address;
  }
  return { namespace, addresses };
}

function unfit(address: IpAddress, cluster: readonly Cidr[]): string | undefined {
  if (address.isUnspecified || address.isLoopback || address.isMulticast || address.isLinkLocal)
    return 'is no address that hosts outside can answer to';
  const inside = cluster.find((cidr) => cidr.contains(address));
  return inside && `is in ${inside}, a network of pods or Services`;
}

/** A node's claims as the annotation of its Node: `{"192.0.2.2":"own","192.0.2.50":7}`, in one order. */
export function claimsText(claims: Claims): string {
  return JSON.stringify(Object.fromEntries([...claims].sort(([a], [b]) => (a < b ? -1 : 1))));
}

/** Reads a Node's annotation. What cannot be read is left out: another version may have written it. */
export function readClaims(text: string | undefined): Claims {
  const claims = new Map<string, Claim>();
  let value: unknown;
  try {
    value = JSON.parse(text ?? '{}');
  } catch {
    return claims;
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return claims;
  for (const [key, claim] of Object.entries(value).slice(0, MOST_CLAIMS)) {
    const address = tryParseIp(key);
    if (!address) continue;
    if (claim === 'own' || (Number.isSafeInteger(claim) && (claim as number) > 0))
      claims.set(String(address), claim as Claim);
  }
  return claims;
}
