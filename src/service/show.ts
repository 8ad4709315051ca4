/** One Service with everything that is known of it here, from its plan and from what an engine observes. Pure. */
import { backendReason, ruleText, socketAddress } from './describe.ts';
import { mergeEndpoints } from './endpoint-sets.ts';
import type { Count, PortObservation } from './engine.ts';
import type {
  BackendPlan,
  Client,
  EndpointFacts,
  NodeContext,
  PortPlan,
  ServicePlan,
  SliceFacts,
} from './types.ts';
import { CLIENTS } from './types.ts';

export interface ShownFrontend {
  readonly kind: string;
  /** `10.96.0.10:80/TCP`. */
  readonly address: string;
  /** What a new connection of each kind of client gets: `forward cluster masquerade`, `drop`. */
  readonly rules: Readonly<Record<Client, string>>;
  /** The Service that owns this address and port already. */
  readonly shadowedBy?: string;
}

export interface ShownBackend {
  readonly address: string;
  readonly node: string;
  /** `ready`, `serving, terminating`, `terminating`, `not ready`. */
  readonly state: string;
  /** Sets that new connections choose from and that it is in. */
  readonly sets: readonly ('cluster' | 'local')[];
  readonly weight: number;
  /** Why it is in these sets, or in none. */
  readonly because: string;
  /** Number in the kernel; absent when it is not there. */
  readonly id?: number;
  readonly connections?: number;
  readonly connectionsPerSecond?: number;
  /** Now open: flows that are translated, and sockets that a Service connected to it. */
  readonly open?: number;
  readonly packets?: number;
  readonly bytes?: number;
}

export interface ShownPort {
  readonly port: string;
  readonly number?: number;
  readonly affinity: string;
  readonly algorithm: string;
  readonly connections: number;
  readonly connectionsPerSecond?: number;
  readonly refused: number;
  readonly frontends: readonly ShownFrontend[];
  readonly backends: readonly ShownBackend[];
  /** The kernel's map entries. */
  readonly entries: readonly string[];
}

export interface ShownService {
  readonly service: string;
  /** `done`, or why it is not programmed. */
  readonly state: string;
  /** Why it is not in the data path. */
  readonly ignored?: string;
  readonly connections: number;
  readonly connectionsPerSecond?: number;
  readonly refused: number;
  readonly ports: readonly ShownPort[];
  readonly healthCheck?: string;
  readonly problems: readonly string[];
}

export interface ShowInput {
  readonly plan: ServicePlan;
  readonly node: NodeContext;
  /** Those of the Service: endpoints that serve nobody are in no plan. */
  readonly slices: readonly SliceFacts[];
  readonly failure: Error | undefined;
  readonly now: ReadonlyMap<string, PortObservation>;
  /** An earlier look, for figures per second. */
  readonly before?: { readonly ports: ReadonlyMap<string, PortObservation>; readonly seconds: number };
  /** Sockets open now by backend id. */
  readonly sockets?: ReadonlyMap<number, number>;
}

export function showService(input: ShowInput): ShownService {
  const { plan, failure, before } = input;
  const ports = plan.ports.map((port) => showPort(port, input));
  const sum = (value: (port: ShownPort) => number) => ports.reduce((total, port) => total + value(port), 0);
  const problems = [...plan.problems, ...(failure ? [failure] : [])].map(({ message }) => message);
  const { healthCheck } = plan;
  return {
    service: plan.key,
    state: failure?.message ?? 'done',
    ...(plan.ignored === undefined ? {} : { ignored: plan.ignored }),
    connections: sum(({ connections }) => connections),
    ...(before ? { connectionsPerSecond: rounded(sum((port) => port.connectionsPerSecond ?? 0)) } : {}),
    refused: sum(({ refused }) => refused),
    ports,
    ...(healthCheck
      ? {
          healthCheck: `port ${healthCheck.port}: ${healthCheck.localReady} ready endpoints on this node`,
        }
      : {}),
    problems,
  };
}

function showPort(port: PortPlan, input: ShowInput): ShownPort {
  const now = input.now.get(port.key);
  const planned = new Set(port.backends.map(({ endpoint }) => endpoint));
  const useless = mergeEndpoints(input.slices, port, port.family).filter(
    ({ endpoint }) => !planned.has(endpoint),
  );
  const rate = rateOf(now?.count, input.before?.ports.get(port.key)?.count, input.before?.seconds);
  return {
    port: port.key,
    ...(now ? { number: now.number } : {}),
    affinity:
      port.affinitySeconds === 0 ? 'none' : `ClientIP, ${port.affinitySeconds} s after the last connection`,
    algorithm: port.algorithm,
    connections: now?.count.connections ?? 0,
    ...(rate === undefined ? {} : { connectionsPerSecond: rate }),
    refused: now?.count.refused ?? 0,
    frontends: port.frontends.map((frontend) => ({
      kind: frontend.kind,
      address: `${socketAddress(frontend.address, frontend.port)}/${port.protocol}`,
      rules: Object.fromEntries(
        CLIENTS.map((client) => [client, ruleText(frontend.rules[client])]),
      ) as Record<Client, string>,
      ...(frontend.shadowedBy === undefined ? {} : { shadowedBy: frontend.shadowedBy }),
    })),
    backends: [
      ...port.backends.map((backend, at) => showBackend(backend, at, port, input)),
      ...useless.map(({ endpoint, port: number }) => ({
        address: socketAddress(endpoint.address, number),
        node: endpoint.nodeName,
        state: stateOf(endpoint),
        sets: [],
        weight: 1,
        because: endpoint.terminating ? 'terminating and not serving' : 'not ready',
      })),
    ],
    entries: now?.entries ?? [],
  };
}

function showBackend(backend: BackendPlan, at: number, port: PortPlan, input: ShowInput): ShownBackend {
  const { endpoint, weight } = backend;
  const now = input.now.get(port.key)?.backends[at];
  const earlier = now && input.before?.ports.get(port.key)?.backends.find(({ id }) => id === now.id);
  const rate = rateOf(now?.count, earlier?.count, input.before?.seconds);
  const sets = (['cluster', 'local'] as const).filter((set) =>
    weight === 0 ? false : set === 'cluster' ? backend.inCluster : backend.inLocal,
  );
  // Both sets of the same reason are told once.
  const used = usedSets(port);
  const reasons = new Set(used.map((set) => backendReason(backend, port, set, input.node)));
  const because =
    reasons.size <= 1
      ? [...reasons].join('')
      : used.map((set) => `${set}: ${backendReason(backend, port, set, input.node)}`).join('; ');
  return {
    address: socketAddress(endpoint.address, backend.port),
    node: endpoint.nodeName,
    state: stateOf(endpoint),
    sets,
    weight,
    because,
    ...(now
      ? {
          id: now.id,
          connections: now.count.connections,
          ...(rate === undefined ? {} : { connectionsPerSecond: rate }),
          open: now.flows + (input.sockets?.get(now.id) ?? 0),
          packets: now.count.packets,
          bytes: now.count.bytes,
        }
      : {}),
  };
}

/** Sets that some frontend's rules name. */
function usedSets(port: PortPlan): ('cluster' | 'local')[] {
  return (['cluster', 'local'] as const).filter((set) =>
    port.frontends.some(({ rules }) => CLIENTS.some((client) => rules[client].set === set)),
  );
}

function stateOf({ ready, serving, terminating }: EndpointFacts): string {
  if (terminating) return serving ? 'terminating, serving' : 'terminating';
  if (ready) return 'ready';
  return serving ? 'serving' : 'not ready';
}

/** A number that was given anew meanwhile begins at zero. */
function rateOf(now: Count | undefined, before: Count | undefined, seconds = 0): number | undefined {
  if (!now || !before || seconds <= 0) return undefined;
  return rounded(Math.max(0, now.connections - before.connections) / seconds);
}

function rounded(value: number): number {
  return Math.round(value * 10) / 10;
}
