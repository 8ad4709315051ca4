/**
 * Which Service has which ClusterIP. The networks come from the ServiceCIDR objects, what is taken from the Services:
 * nothing is stored twice, so nothing can disagree.
 */
import { randomInt } from 'node:crypto';
import { type Cidr, type Family, type IpAddress, tryParseCidr, tryParseIp } from '../../addr/index.ts';
import type { Service, ServiceCIDR } from '../../model/kubernetes.ts';
import type { Store } from '../../store/types.ts';
import { objectOf } from '../registry/objects.ts';
import { keyOf, prefixOf, resourceOfKind } from '../resources.ts';

/** Random draws before the network is searched from its start. */
const DRAWS = 64;
/** Only the first so many addresses of a network are handed out: a /112, or less. */
const MAX_SPAN = 1 << 16;

export class ServiceAddresses {
  readonly #store: Store;
  /** Address to the key of its Service. */
  readonly #owners = new Map<string, string>();

  /** The family of Services that name none: that of the first service network of the cluster. */
  get primaryFamily(): 'IPv4' | 'IPv6' | undefined {
    const entry = this.#store.latest(keyOf(resourceOfKind('ServiceCIDR'), undefined, 'kubernetes'));
    const first = entry && (objectOf(entry) as ServiceCIDR).spec?.cidrs?.[0];
    return first === undefined ? undefined : first.includes(':') ? 'IPv6' : 'IPv4';
  }

  constructor(store: Store) {
    this.#store = store;
    for (const entry of store.range(prefixOf(resourceOfKind('Service'), undefined)))
      for (const ip of clusterIpsOf(objectOf(entry) as Service)) this.#owners.set(ip, entry.key);
  }

  /** The service networks of a family, that of the cluster first. */
  networks(family: Family): Cidr[] {
    const networks: Cidr[] = [];
    const entries = [...this.#store.range(prefixOf(resourceOfKind('ServiceCIDR'), undefined))];
    const objects = entries.map((entry) => objectOf(entry) as ServiceCIDR);
    const isCluster = (object: ServiceCIDR) => object.metadata.name === 'kubernetes';
    objects.sort((a, b) => Number(isCluster(b)) - Number(isCluster(a)));
    for (const { spec, metadata } of objects) {
      if (metadata.deletionTimestamp !== undefined) continue;
      for (const text of spec?.cidrs ?? []) {
        const cidr = tryParseCidr(text);
        if (cidr?.family === family) networks.push(cidr);
      }
    }
    return networks;
  }

  ownerOf(ip: string): string | undefined {
    return this.#owners.get(ip);
  }

  /** Every address in use. */
  get taken(): Iterable<string> {
    return this.#owners.keys();
  }

  /** Takes a given address. @returns why it can't be had, or undefined */
  take(ip: string, key: string): string | undefined {
    const address = tryParseIp(ip);
    if (!address) return `the provided IP (${ip}) is not valid`;
    const networks = this.networks(address.family);
    if (!isUsable(address, networks))
      return `the provided IP (${ip}) is not in the valid range. The range of valid IPs is ${networks.join(', ')}`;
    const owner = this.#owners.get(address.toString());
    if (owner !== undefined && owner !== key) return 'provided IP is already allocated';
    this.#owners.set(address.toString(), key);
    return undefined;
  }

  /**
   * Takes a free address. The first addresses of a network are handed out last, so that people may choose fixed
   * ones there without a clash (KEP-3070: min(max(16, size/16), 256) addresses).
   */
  takeAny(family: Family, key: string): string | undefined {
    for (const cidr of this.networks(family)) {
      const usable =
        Number(cidr.size > BigInt(MAX_SPAN) ? BigInt(MAX_SPAN) : cidr.size) - (family === 4 ? 2 : 1);
      const reserved = Math.min(Math.min(Math.max(16, Math.floor(usable / 16)), 256), Math.floor(usable / 2));
      const tryIndex = (index: number) => {
        const ip = cidr.host(index).toString();
        if (this.#owners.has(ip)) return undefined;
        this.#owners.set(ip, key);
        return ip;
      };
      for (let draw = 0; draw < DRAWS; draw++) {
        const ip = tryIndex(randomInt(reserved + 1, usable + 1));
        if (ip !== undefined) return ip;
      }
      for (let index = reserved + 1; index <= usable; index++) {
        const ip = tryIndex(index);
        if (ip !== undefined) return ip;
      }
      for (let index = 1; index <= reserved; index++) {
        const ip = tryIndex(index);
        if (ip !== undefined) return ip;
      }
    }
    return undefined;
  }

  /** Notes whose an address is, whoever seemed to have it. */
  assign(ip: string, key: string): void {
    this.#owners.set(ip, key);
  }

  /** Gives back what no Service has. @returns the addresses */
  sweep(): string[] {
    const before = [...this.#owners.keys()];
    for (const [ip, key] of this.#owners) this.release(ip, key);
    return before.filter((ip) => !this.#owners.has(ip));
  }

  /** Gives an address back, unless the Service of this key has it (again) by now. */
  release(ip: string, key: string): void {
    const text = tryParseIp(ip)?.toString() ?? ip;
    if (this.#owners.get(text) !== key) return;
    const current = this.#store.latest(key);
    if (current && clusterIpsOf(objectOf(current) as Service).includes(text)) return;
    this.#owners.delete(text);
  }
}

/** Whether an address lies in one of the networks and may be handed out. */
export function isUsable(address: IpAddress, networks: readonly Cidr[]): boolean {
  return networks.some(
    (cidr) =>
      cidr.contains(address) &&
      !address.equals(cidr.address) &&
      (cidr.family === 6 || !address.equals(cidr.last)),
  );
}

/** The ClusterIPs of a Service in canonical text; none for headless ones, and none that cannot be read. */
export function clusterIpsOf(service: Service): string[] {
  const ips = service.spec.clusterIPs ?? (service.spec.clusterIP ? [service.spec.clusterIP] : []);
  return ips.flatMap((ip) => tryParseIp(ip)?.toString() ?? []);
}
