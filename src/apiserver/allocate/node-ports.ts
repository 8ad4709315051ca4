/** Which Service has which node port. A number belongs to one Service, for all its protocols. */
import { randomInt } from 'node:crypto';
import type { Service } from '../../model/kubernetes.ts';
import type { Store } from '../../store/types.ts';
import { objectOf } from '../registry/objects.ts';
import { prefixOf, resourceOfKind } from '../resources.ts';

const DRAWS = 64;

/** First and last node port. */
export interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** kube-apiserver's default of --service-node-port-range. */
export const NODE_PORTS: PortRange = { first: 30_000, last: 32_767 };

/** Reads `30000-32767`; undefined when it is none. */
export function parsePortRange(text: string): PortRange | undefined {
  const match = /^(\d{1,5})-(\d{1,5})$/.exec(text);
  const [first, last] = [Number(match?.[1]), Number(match?.[2])];
  return match && first >= 1 && first <= last && last <= 65_535 ? { first, last } : undefined;
}

export class NodePorts {
  readonly #owners = new Map<number, string>();

  readonly #store: Store;
  readonly range: PortRange;

  constructor(store: Store, range: PortRange = NODE_PORTS) {
    this.#store = store;
    this.range = range;
    for (const entry of store.range(prefixOf(resourceOfKind('Service'), undefined)))
      for (const port of nodePortsOf(objectOf(entry) as Service)) this.#owners.set(port, entry.key);
  }

  /** Takes a given port. @returns why it can't be had, or undefined */
  take(port: number, key: string): string | undefined {
    const { first, last } = this.range;
    if (port < first || port > last)
      return `provided port is not in the valid range. The range of valid ports is ${first}-${last}`;
    const owner = this.#owners.get(port);
    if (owner !== undefined && owner !== key) return 'provided port is already allocated';
    this.#owners.set(port, key);
    return undefined;
  }

  takeAny(key: string): number | undefined {
    const tryPort = (port: number) => {
      if (this.#owners.has(port)) return false;
      this.#owners.set(port, key);
      return true;
    };
    const { first, last } = this.range;
    const size = last - first + 1;
    // Handed out last, so that people may choose fixed ports there: KEP-3682.
    const reserved = size < 16 ? 0 : Math.min(Math.max(16, size >> 5), 128, size - 1);
    for (let draw = 0; draw < DRAWS; draw++) {
      const port = randomInt(first + reserved, last + 1);
      if (tryPort(port)) return port;
    }
    for (let port = last; port >= first; port--) if (tryPort(port)) return port;
    return undefined;
  }

  /** Notes whose a port is, whoever seemed to have it. */
  assign(port: number, key: string): void {
    this.#owners.set(port, key);
  }

  /** Gives back what no Service has. @returns the ports */
  sweep(): number[] {
    const before = [...this.#owners.keys()];
    for (const [port, key] of this.#owners) this.release(port, key);
    return before.filter((port) => !this.#owners.has(port));
  }

  /** Gives a port back, unless the Service of this key has it (again) by now. */
  release(port: number, key: string): void {
    if (this.#owners.get(port) !== key) return;
    const current = this.#store.latest(key);
    if (current && nodePortsOf(objectOf(current) as Service).includes(port)) return;
    this.#owners.delete(port);
  }
}

/** Node ports of a Service, with that of its health check. */
export function nodePortsOf({ spec }: Service): number[] {
  const ports = (spec.ports ?? []).map((port) => port.nodePort ?? 0);
  return [...new Set([...ports, spec.healthCheckNodePort ?? 0].filter((port) => port > 0))];
}
