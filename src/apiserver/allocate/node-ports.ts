/** Which Service has which node port. A number belongs to one Service, for all its protocols. */
import { randomInt } from 'node:crypto';
import type { Service } from '../../model/kubernetes.ts';
import type { Store } from '../../store/types.ts';
import { objectOf } from '../registry/objects.ts';
import { prefixOf, resourceOfKind } from '../resources.ts';

const FIRST = 30000;
const LAST = 32767;
/** Handed out last, so that people may choose fixed ports there: KEP-3682, min(max(16, size/32), 128). */
const RESERVED = 86;
const DRAWS = 64;

export class NodePorts {
  readonly #owners = new Map<number, string>();

  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
    for (const entry of store.range(prefixOf(resourceOfKind('Service'), undefined)))
      for (const port of nodePortsOf(objectOf(entry) as Service)) this.#owners.set(port, entry.key);
  }

  /** Takes a given port. @returns why it can't be had, or undefined */
  take(port: number, key: string): string | undefined {
    if (port < FIRST || port > LAST)
      return `provided port is not in the valid range. The range of valid ports is ${FIRST}-${LAST}`;
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
    for (let draw = 0; draw < DRAWS; draw++) {
      const port = randomInt(FIRST + RESERVED, LAST + 1);
      if (tryPort(port)) return port;
    }
    for (let port = LAST; port >= FIRST; port--) if (tryPort(port)) return port;
    return undefined;
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
