import { addrError } from '../errors/addr.ts';
import { addressBits, type Family, IpAddress, tryParseIp } from './ip-address.ts';
import { ipv4Mask } from './ipv4.ts';

/** A network: its first address and how many leading bits all its addresses share. Canonical and immutable. */
export class Cidr {
  readonly address: IpAddress;
  readonly prefixLength: number;

  private constructor(address: IpAddress, prefixLength: number) {
    this.address = address;
    this.prefixLength = prefixLength;
  }

  /** The network of this length around an address; bits after the prefix are cleared. Throws ADDR_BAD_CIDR. */
  static around(address: IpAddress, prefixLength: number): Cidr {
    const bits = addressBits(address.family);
    if (!Number.isInteger(prefixLength) || prefixLength < 0 || prefixLength > bits)
      throw addrError('ADDR_BAD_CIDR', {
        text: `${address}/${prefixLength}`,
        why: `the prefix length must be 0 to ${bits}`,
      });
    if (address.family === 4)
      return new Cidr(IpAddress.v4((address.value as number) & ipv4Mask(prefixLength)), prefixLength);
    const host = BigInt(128 - prefixLength);
    return new Cidr(IpAddress.v6(((address.value as bigint) >> host) << host), prefixLength);
  }

  /** The network of this one address: /32 or /128. */
  static host(address: IpAddress): Cidr {
    return new Cidr(address, addressBits(address.family));
  }

  get family(): Family {
    return this.address.family;
  }

  /** How many addresses it has. */
  get size(): bigint {
    return 1n << BigInt(addressBits(this.family) - this.prefixLength);
  }

  get last(): IpAddress {
    return IpAddress.of(this.family, BigInt(this.address.value) + this.size - 1n);
  }

  contains(other: IpAddress | Cidr): boolean {
    const address = other instanceof Cidr ? other.address : other;
    if (address.family !== this.family) return false;
    if (other instanceof Cidr && other.prefixLength < this.prefixLength) return false;
    if (this.family === 4)
      return (
        ((address.value as number) & ipv4Mask(this.prefixLength)) >>> 0 === (this.address.value as number)
      );
    const host = BigInt(128 - this.prefixLength);
    return (address.value as bigint) >> host === (this.address.value as bigint) >> host;
  }

  overlaps(other: Cidr): boolean {
    return this.contains(other) || other.contains(this);
  }

  /** The subnet number `index` (from 0) of this length. Throws ADDR_OUT_OF_RANGE. */
  subnet(prefixLength: number, index: number | bigint): Cidr {
    const count = this.subnetCount(prefixLength);
    if (BigInt(index) < 0n || BigInt(index) >= count)
      throw addrError('ADDR_OUT_OF_RANGE', {
        what: `subnet number ${index} of length /${prefixLength}`,
        within: this.toString(),
      });
    const step = 1n << BigInt(addressBits(this.family) - prefixLength);
    return new Cidr(
      IpAddress.of(this.family, BigInt(this.address.value) + BigInt(index) * step),
      prefixLength,
    );
  }

  /** How many subnets of this length fit; 0 when the length is out of range. */
  subnetCount(prefixLength: number): bigint {
    if (prefixLength < this.prefixLength || prefixLength > addressBits(this.family)) return 0n;
    return 1n << BigInt(prefixLength - this.prefixLength);
  }

  /** The address number `index` counted from the first address, which is number 0. Throws ADDR_OUT_OF_RANGE. */
  host(index: number | bigint): IpAddress {
    if (BigInt(index) < 0n || BigInt(index) >= this.size)
      throw addrError('ADDR_OUT_OF_RANGE', { what: `address number ${index}`, within: this.toString() });
    return IpAddress.of(this.family, BigInt(this.address.value) + BigInt(index));
  }

  equals(other: Cidr): boolean {
    return this.prefixLength === other.prefixLength && this.address.equals(other.address);
  }

  /** IPv4 first, then by address, shorter prefixes first. */
  compare(other: Cidr): number {
    return this.address.compare(other.address) || this.prefixLength - other.prefixLength;
  }

  toString(): string {
    return `${this.address}/${this.prefixLength}`;
  }

  toJSON(): string {
    return this.toString();
  }
}

/** An address together with the length of its network, as interfaces have it: 10.244.1.5/24. */
export interface InterfaceAddress {
  readonly address: IpAddress;
  readonly prefixLength: number;
}

/** Reads a network; bits after the prefix must be zero. Throws ADDR_BAD_CIDR. */
export function parseCidr(text: string): Cidr {
  const { address, prefixLength } = parseInterfaceAddress(text);
  const cidr = Cidr.around(address, prefixLength);
  if (!cidr.address.equals(address))
    throw addrError('ADDR_BAD_CIDR', { text, why: `bits after the prefix are set, want "${cidr}"` });
  return cidr;
}

/** Like `parseCidr`, undefined instead of an error. */
export function tryParseCidr(text: string): Cidr | undefined {
  try {
    return parseCidr(text);
  } catch {
    return undefined;
  }
}

/**
 * The network around address/length, or undefined. Kubernetes reads the CIDRs of people so: `192.168.1.5/24` is
 * 192.168.1.0/24 (ParseCIDRSloppy of k8s.io/utils/net, as Go's net.ParseCIDR).
 */
export function looseCidr(text: string): Cidr | undefined {
  try {
    const { address, prefixLength } = parseInterfaceAddress(text);
    return Cidr.around(address, prefixLength);
  } catch {
    return undefined;
  }
}

/** Reads address/length where bits after the prefix may be set. Throws ADDR_BAD_CIDR. */
export function parseInterfaceAddress(text: string): InterfaceAddress {
  const fail = (why: string) => addrError('ADDR_BAD_CIDR', { text, why });
  if (typeof text !== 'string') throw fail('it is no text');
  const slash = text.indexOf('/');
  if (slash < 0) throw fail('it has no "/" and prefix length');
  const address = tryParseIp(text.slice(0, slash));
  if (!address) throw fail(`"${text.slice(0, slash)}" is no IP address`);
  const length = text.slice(slash + 1);
  const bits = addressBits(address.family);
  if (!/^(0|[1-9][0-9]{0,2})$/.test(length) || Number(length) > bits)
    throw fail(`the prefix length must be 0 to ${bits}`);
  return { address, prefixLength: Number(length) };
}

/** Networks that lie in no other one of them: intervals of a set must not overlap. */
export function withoutCovered(cidrs: readonly Cidr[]): Cidr[] {
  return cidrs.filter(
    (cidr, at) =>
      !cidrs.some((other, index) =>
        index === at || !other.contains(cidr) ? false : !cidr.contains(other) || index < at,
      ),
  );
}
