/** What the reference of the packet programs knows: frontends, backends and ranges in plain words. */
import { parseCidr, parseIp } from '../../src/addr/index.ts';
import { BACKEND } from '../../src/service/engines/ebpf/layout.ts';
import { readAddress } from './lb-reference-packet.ts';
import { WordMap } from './word-map.ts';

export interface Backend {
  readonly id: number;
  readonly text: string;
  readonly address: Uint32Array;
  readonly port: number;
  readonly protocol: number;
  readonly service: number;
  /** BACKEND.*; 0 once it is gone. */
  flags: number;
}

/** Who a new connection may get. */
export interface Table {
  /** Ids in their places; in a hash table of prime size most occur often. */
  readonly ids: readonly number[];
  readonly hash: boolean;
  /** Empty: drop instead of refusing. */
  readonly drop: boolean;
  /** The local set, else the cluster set. */
  readonly local: boolean;
}

export interface Frontend {
  readonly text: string;
  readonly port: number;
  readonly protocol: number;
  readonly service: number;
  readonly affinity: boolean;
  readonly keep: boolean;
  readonly ranges: boolean;
  /** 0 ClusterIP, 1 nodePort, 2 load balancer, 3 externalIP. */
  readonly kind: number;
  /** How answers go back directly. */
  readonly dsr: 'ipip' | 'option' | undefined;
  readonly inside: Table;
  readonly outside: Table;
}

interface Range {
  readonly address: Uint32Array;
  readonly mask: Uint32Array;
  readonly service: number;
}

export function words(text: string): Uint32Array {
  const address = parseIp(text);
  const bytes = new Uint8Array(16);
  address.writeTo(bytes, 0);
  const to = new Uint32Array(4);
  readAddress(to, new DataView(bytes.buffer), 0, address.family === 4);
  return to;
}

export function keyOf(to: Uint32Array, address: Uint32Array, port: number, protocol: number): Uint32Array {
  to[0] = address[0]!;
  to[1] = address[1]!;
  to[2] = address[2]!;
  to[3] = address[3]!;
  to[4] = (port << 8) | protocol;
  return to;
}

export class World {
  readonly backends = new Map<number, Backend>();
  readonly frontends: Frontend[] = [];
  /** Addresses of ClusterIPs, whatever the port. */
  readonly clusterIPs: string[] = [];
  /** Those of them that another proxy serves. */
  readonly notOurs: string[] = [];
  readonly serviceRanges: string[] = [];
  readonly sources: { readonly service: number; readonly cidr: string }[] = [];
  readonly #index = new WordMap(5, 1024);
  readonly #wildcards = new WordMap(4, 1024);
  readonly #notOurs = new WordMap(4, 1024);
  readonly #ranges: Range[] = [];
  readonly #sources: Range[] = [];
  readonly #key = new Uint32Array(5);

  addBackend(
    text: string,
    port: number,
    options: { protocol: number; service: number; near?: boolean },
  ): number {
    const id = this.backends.size + 1;
    const near = options.near ? BACKEND.NEAR | BACKEND.LOCAL : 0;
    const { protocol, service } = options;
    const flags = BACKEND.USED | BACKEND.CLUSTER | near;
    this.backends.set(id, { id, text, address: words(text), port, protocol, service, flags });
    return id;
  }

  addFrontend(frontend: Frontend): void {
    this.#index.add(keyOf(this.#key, words(frontend.text), frontend.port, frontend.protocol));
    this.frontends.push(frontend);
  }

  addClusterIP(text: string): void {
    this.#wildcards.add(words(text));
    this.clusterIPs.push(text);
  }

  addNotOurs(text: string): void {
    this.#notOurs.add(words(text));
    this.notOurs.push(text);
  }

  addServiceRange(cidr: string): void {
    this.#ranges.push(rangeOf(cidr, 0));
    this.serviceRanges.push(cidr);
  }

  addSource(service: number, cidr: string): void {
    this.#sources.push(rangeOf(cidr, service));
    this.sources.push({ service, cidr });
  }

  frontendOf(address: Uint32Array, port: number, protocol: number): Frontend | undefined {
    const at = this.#index.find(keyOf(this.#key, address, port, protocol));
    return at < 0 ? undefined : this.frontends[at];
  }

  isClusterIP(address: Uint32Array): boolean {
    return this.#wildcards.find(address) >= 0;
  }

  inServiceRange(address: Uint32Array): boolean {
    for (const range of this.#ranges) if (contains(range, address)) return true;
    return false;
  }

  /** Whether an address of a Service range is nobody else's to serve. */
  answersFor(address: Uint32Array): boolean {
    return this.inServiceRange(address) && this.#notOurs.find(address) < 0;
  }

  allows(service: number, source: Uint32Array): boolean {
    for (const range of this.#sources) if (range.service === service && contains(range, source)) return true;
    return false;
  }
}

function rangeOf(text: string, service: number): Range {
  const { address, prefixLength, family } = parseCidr(text);
  const bits = prefixLength + (family === 4 ? 96 : 0);
  const mask = new Uint32Array(4).map((_, word) => {
    const own = Math.min(32, Math.max(0, bits - word * 32));
    return own === 0 ? 0 : (0xffff_ffff << (32 - own)) >>> 0;
  });
  return { address: words(address.toString()), mask, service };
}

function contains(range: Range, address: Uint32Array): boolean {
  for (let word = 0; word < 4; word++)
    if ((address[word]! & range.mask[word]!) >>> 0 !== range.address[word]!) return false;
  return true;
}
