/**
 * Endpoints and backends as they are kept: a node with 10,000 Services has 100,000 of each, and nearly all of them
 * differ in nothing but the address. What they have in common is one object for all, so that each takes 40 bytes
 * instead of 80 and 64 (6 MB of the agent at that size, `npm run bench -- endpoints`). The same for lists of ports.
 */
import type { BackendPlan, EndpointFacts, ServicePortFacts, SliceFacts } from './types.ts';

/** What many endpoints have in common. */
export type EndpointState = Omit<EndpointFacts, 'address'>;

/** What many backends of one port have in common. */
export type BackendRole = Omit<BackendPlan, 'endpoint'>;

class KeptEndpoint implements EndpointFacts {
  readonly address: string;
  readonly #state: EndpointState;

  constructor(address: string, state: EndpointState) {
    this.address = address;
    this.#state = state;
  }

  get ready(): boolean {
    return this.#state.ready;
  }

  get serving(): boolean {
    return this.#state.serving;
  }

  get terminating(): boolean {
    return this.#state.terminating;
  }

  get nodeName(): string {
    return this.#state.nodeName;
  }

  get forZones(): readonly string[] {
    return this.#state.forZones;
  }

  get forNodes(): readonly string[] {
    return this.#state.forNodes;
  }
}

class KeptBackend implements BackendPlan {
  readonly endpoint: EndpointFacts;
  readonly #role: BackendRole;

  constructor(endpoint: EndpointFacts, role: BackendRole) {
    this.endpoint = endpoint;
    this.#role = role;
  }

  get port(): number {
    return this.#role.port;
  }

  get weight(): number {
    return this.#role.weight;
  }

  get inCluster(): boolean {
    return this.#role.inCluster;
  }

  get inLocal(): boolean {
    return this.#role.inLocal;
  }
}

const states = new Map<string, EndpointState>();
const roles = new Map<number, BackendRole>();

export function keptEndpoint(address: string, state: EndpointState): EndpointFacts {
  const { ready, serving, terminating, nodeName, forZones, forNodes } = state;
  const flags = (ready ? 4 : 0) | (serving ? 2 : 0) | (terminating ? 1 : 0);
  // No name of a node or zone has a space.
  const key = `${flags} ${nodeName} ${forZones.join(' ')}, ${forNodes.join(' ')}`;
  return new KeptEndpoint(address, known(states, key, state));
}

export function keptBackend(endpoint: EndpointFacts, role: BackendRole): BackendPlan {
  // Weights are at most 100, and ports have 16 bits.
  const key = role.port * 512 + role.weight * 4 + (role.inCluster ? 2 : 0) + (role.inLocal ? 1 : 0);
  return new KeptBackend(endpoint, known(roles, key, role));
}

const slicePorts = new Map<string, SliceFacts['ports']>();
const servicePorts = new Map<string, readonly ServicePortFacts[]>();

/** Most Services have one port, and most of these the same. */
export function keptSlicePorts(ports: SliceFacts['ports']): SliceFacts['ports'] {
  return known(
    slicePorts,
    ports.map(({ name, protocol, port }) => `${name} ${protocol} ${port}`).join(),
    ports,
  );
}

export function keptServicePorts(ports: readonly ServicePortFacts[]): readonly ServicePortFacts[] {
  const key = ports.map(({ name, protocol, port, nodePort }) => `${name} ${protocol} ${port} ${nodePort}`);
  return known(servicePorts, key.join(), ports);
}

const times = new Map<string, string>();

/** Many objects are made in one second. */
export const keptTime = (time: string): string => known(times, time, time);

/** Nodes come and go: what nobody asked for lately is let go all at once, and made again where it is still in use. */
const SHARED_LIMIT = 20_000;

function known<K, V>(shared: Map<K, V>, key: K, made: V): V {
  const found = shared.get(key);
  if (found !== undefined) return found;
  if (shared.size >= SHARED_LIMIT) shared.clear();
  shared.set(key, made);
  return made;
}
