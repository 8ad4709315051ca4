import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:net';
import test from 'node:test';
import { HealthCheckServers } from './health-check.ts';
import type { PlanDelta, ServicePlan } from './types.ts';

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

const plan = (key: string, port: number | undefined, localReady = 0): ServicePlan => ({
  key,
  ignored: undefined,
  ports: [],
  healthCheck: port === undefined ? undefined : { port, localReady },
  problems: [],
});
const delta = (upsert: ServicePlan[], remove: string[] = []): PlanDelta => ({ full: false, upsert, remove });

test('the health check answers 200 with ready endpoints here, 503 without, and goes with its Service', async () => {
  const port = await freePort();
  const opened = Promise.withResolvers<void>();
  let healthy = true;
  const servers = new HealthCheckServers({
    healthy: () => healthy,
    host: '127.0.0.1',
    onResult: (_service, error) => (error ? opened.reject(error) : opened.resolve()),
  });
  try {
    const ask = async () => {
      const response = await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } });
      return [
        response.status,
        response.headers.get('x-load-balancing-endpoint-weight'),
        await response.json(),
      ];
    };
    servers.apply(delta([plan('default/web', port, 2)]));
    await opened.promise;
    const service = { namespace: 'default', name: 'web' };
    assert.deepEqual(await ask(), [200, '2', { service, localEndpoints: 2, serviceProxyHealthy: true }]);
    servers.apply(delta([plan('default/web', port, 0)]));
    assert.deepEqual(await ask(), [503, '0', { service, localEndpoints: 0, serviceProxyHealthy: true }]);
    servers.apply(delta([plan('default/web', port, 1)]));
    healthy = false;
    assert.equal((await ask())[0], 503);
    servers.apply(delta([plan('default/web', undefined)]));
    await assert.rejects(ask());
    assert.equal(servers.ports.size, 0);
  } finally {
    await servers.close();
  }
});

test('a port that is taken is told once, and opened when it is free', async () => {
  const taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  const { port } = taken.address() as { port: number };
  const told: (string | undefined)[] = [];
  const results = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const servers = new HealthCheckServers({
    healthy: () => true,
    host: '127.0.0.1',
    onResult: (_service, error) => {
      told.push((error as NodeJS.ErrnoException | undefined)?.code);
      results[told.length - 1]?.resolve();
    },
  });
  servers.apply(delta([plan('default/web', port, 1)]));
  await results[0]!.promise;
  taken.close();
  // What changes meanwhile is known when it opens.
  servers.apply(delta([plan('default/web', port, 3)]));
  // Retries alone do not keep a process alive.
  const alive = setInterval(() => {}, 1000);
  await results[1]!.promise;
  clearInterval(alive);
  assert.deepEqual(told, ['EADDRINUSE', undefined]);
  const response = await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } });
  assert.equal(response.headers.get('x-load-balancing-endpoint-weight'), '3');
  await servers.close();
});
