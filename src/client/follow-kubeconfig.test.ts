import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { MemoryApi } from '../../test/lib/memory-api.ts';
import { eventually } from '../../test/lib/until.ts';
import type { ConfigMap } from '../model/kubernetes.ts';
import { ApiClient } from './api-client.ts';
import { followKubeconfig } from './follow-kubeconfig.ts';
import { loadKubeconfig } from './kubeconfig.ts';
import { Reflector } from './reflector.ts';
import { resources } from './resources.ts';

const config = (server: string) => `
apiVersion: v1
kind: Config
current-context: c
contexts: [{ name: c, context: { cluster: k, user: u } }]
clusters: [{ name: k, cluster: { server: "${server}" } }]
users: [{ name: u, user: {} }]
`;
const map: ConfigMap = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'a', namespace: 'default' } };
const quiet = { debug() {}, info() {}, warn() {}, error() {} };

test('a kubeconfig that changes is used for new calls, a broken one changes nothing', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'portolan-kubeconfig-'));
  const path = join(directory, 'config');
  const [first, second] = [await MemoryApi.start(), await MemoryApi.start()];
  const stop = new AbortController();
  try {
    writeFileSync(path, config(first.url));
    const access = loadKubeconfig(path);
    const client = new ApiClient(access);
    followKubeconfig({ path, access, client, signal: stop.signal, log: quiet, periodMs: 5 });
    await client.create(resources.configMaps, map);
    writeFileSync(path, 'half a fi');
    await delay(30);
    assert.equal(client.server, first.url);
    writeFileSync(path, config(second.url));
    await eventually('the other server', () => client.server === second.url);
    // The second server knows nothing of what the first one has.
    await client.create(resources.configMaps, map);
    client.close();
  } finally {
    stop.abort();
    await first.stop();
    await second.stop();
    rmSync(directory, { recursive: true, force: true });
  }
});

test('reconnect() loses no call and no watch', async () => {
  const api = await MemoryApi.start();
  const stop = new AbortController();
  const client = new ApiClient({ server: api.url });
  try {
    const maps = new Reflector({ client, resource: resources.configMaps, signal: stop.signal });
    maps.start();
    await maps.synced;
    for (let round = 0; round < 5; round++) {
      const asked = client.get(resources.configMaps, { namespace: 'default', name: `r${round}` });
      client.reconnect();
      await assert.rejects(asked, { code: 'CLIENT_NOT_FOUND' });
    }
    await client.create(resources.configMaps, map);
    await eventually('the watch goes on', () => maps.items.has('default/a'));
  } finally {
    stop.abort();
    client.close();
    await api.stop();
  }
});
