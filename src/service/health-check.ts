/**
 * The health check of Services with external policy Local: an outside load balancer asks each node over HTTP whether
 * it has endpoints of its own. 200 with at least one ready endpoint here, else 503; endpoints that terminate do not
 * count, so that a node drains while it still serves.
 */
import { createServer, type Server } from 'node:http';
import type { PlanDelta, ServicePlan } from './types.ts';

interface Check {
  readonly service: string;
  readonly server: Server;
  localReady: number;
  /** The failure that was told; told again when it is another one, and when it is over. */
  failure?: string;
  retry?: NodeJS.Timeout;
}

/** After the port was taken, doubling up to the last. */
const FIRST_RETRY_MS = 1000;
const LAST_RETRY_MS = 30_000;

export interface HealthCheckOptions {
  /** Whether this node serves at all: programmed, and up to date. */
  readonly healthy: () => boolean;
  /** Called when a port can't be opened, and when it can; it is tried again until it can. */
  readonly onResult?: (service: string, error: Error | undefined) => void;
  /** Address to listen on; default all. */
  readonly host?: string;
  /** Listens in another way: in another namespace, for tests of several nodes. */
  readonly listen?: (server: Server, port: number) => void;
}

/** Listens on the health check ports that plans ask for. Use `apply` as `onApplied` of the controller. */
export class HealthCheckServers {
  readonly #options: HealthCheckOptions;
  readonly #checks = new Map<number, Check>();
  readonly #portOf = new Map<string, number>();

  constructor(options: HealthCheckOptions) {
    this.#options = options;
  }

  /** Ports that are open, with their Services. */
  get ports(): ReadonlyMap<number, string> {
    return new Map([...this.#checks].map(([port, { service }]) => [port, service]));
  }

  apply(delta: PlanDelta): void {
    for (const service of delta.remove) this.#close(service);
    if (delta.full) {
      const kept = new Set(delta.upsert.map(({ key }) => key));
      for (const service of [...this.#portOf.keys()]) if (!kept.has(service)) this.#close(service);
    }
    for (const plan of delta.upsert) this.#update(plan);
  }

  async close(): Promise<void> {
    const checks = [...this.#checks.values()];
    for (const { retry } of checks) clearTimeout(retry);
    const servers = checks.map(({ server }) => server);
    this.#checks.clear();
    this.#portOf.clear();
    await Promise.all(
      servers.map((server) => {
        server.closeAllConnections();
        return new Promise((resolve) => server.close(resolve));
      }),
    );
  }

  #update({ key, healthCheck }: ServicePlan): void {
    const before = this.#portOf.get(key);
    if (before !== healthCheck?.port) this.#close(key);
    if (!healthCheck) return;
    const present = this.#checks.get(healthCheck.port);
    if (present) {
      if (present.service === key) present.localReady = healthCheck.localReady;
      return;
    }
    this.#open(key, healthCheck.port, healthCheck.localReady);
  }

  #open(service: string, port: number, localReady: number): void {
    const [namespace, name] = service.split('/') as [string, string];
    const server = createServer((_request, response) => {
      const serviceProxyHealthy = this.#options.healthy();
      const up = serviceProxyHealthy && check.localReady > 0;
      response.writeHead(up ? 200 : 503, {
        'Content-Type': 'application/json',
        'X-Content-Type-Options': 'nosniff',
        'X-Load-Balancing-Endpoint-Weight': String(check.localReady),
      });
      response.end(
        JSON.stringify({
          service: { namespace, name },
          localEndpoints: check.localReady,
          serviceProxyHealthy,
        }),
      );
    });
    const check: Check = { service, server, localReady };
    const { listen, host, onResult } = this.#options;
    let pauseMs = FIRST_RETRY_MS;
    const open = () => {
      if (listen) listen(server, port);
      else server.listen({ port, ...(host ? { host } : {}) });
    };
    server.on('listening', () => {
      delete check.failure;
      onResult?.(service, undefined);
    });
    server.on('error', (error) => {
      if (check.failure !== error.message) onResult?.(service, error);
      check.failure = error.message;
      if (this.#checks.get(port) !== check) return;
      check.retry = setTimeout(open, pauseMs).unref();
      pauseMs = Math.min(2 * pauseMs, LAST_RETRY_MS);
    });
    open();
    server.unref();
    this.#checks.set(port, check);
    this.#portOf.set(service, port);
  }

  #close(service: string): void {
    const port = this.#portOf.get(service);
    if (port === undefined) return;
    this.#portOf.delete(service);
    const { server, retry } = this.#checks.get(port)!;
    clearTimeout(retry);
    this.#checks.delete(port);
    server.close();
    server.closeAllConnections();
  }
}
