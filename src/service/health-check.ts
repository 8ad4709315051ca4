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
}

export interface HealthCheckOptions {
  /** Whether this node serves at all: programmed, and up to date. */
  readonly healthy: () => boolean;
  /** Called when a port can't be opened, and when it can again. */
  readonly onResult?: (service: string, error: Error | undefined) => void;
  /** Address to listen on; default all. */
  readonly host?: string;
  /** Listens in another way: in another namespace, for tests of several nodes. */
  readonly listen?: (server: Server, port: number, done: () => void) => void;
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
    const servers = [...this.#checks.values()].map(({ server }) => server);
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
    server.on('error', (error) => {
      this.#options.onResult?.(service, error);
      if (this.#checks.get(port) === check) this.#close(service);
    });
    const { listen, host } = this.#options;
    const done = () => this.#options.onResult?.(service, undefined);
    if (listen) listen(server, port, done);
    else server.listen({ port, ...(host ? { host } : {}) }, done);
    server.unref();
    this.#checks.set(port, check);
    this.#portOf.set(service, port);
  }

  #close(service: string): void {
    const port = this.#portOf.get(service);
    if (port === undefined) return;
    this.#portOf.delete(service);
    const { server } = this.#checks.get(port)!;
    this.#checks.delete(port);
    server.close();
    server.closeAllConnections();
  }
}
