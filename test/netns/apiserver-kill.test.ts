/**
 * kill -9 at fifty random moments while clients write: whatever was acknowledged is there after the restart, at its
 * revision, and the revision counter never goes back.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Access, accessOf, call } from '../lib/api-access.ts';

const KILLS = 50;
const WRITERS = 8;
const program = new URL('../lib/apiserver-process.ts', import.meta.url).pathname;

interface Meta {
  name: string;
  resourceVersion: string;
}
interface ConfigMap {
  metadata: Meta;
  data?: Record<string, string>;
}

/** A port that is free now. */
function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

async function start(dataDir: string, port: number): Promise<ChildProcess> {
  const child = spawn(process.execPath, [program, dataDir, String(port)], {
    stdio: ['ignore', 'pipe', 'inherit'],
    // Fifty starts: most of each is reading TypeScript.
    env: { ...process.env, NODE_COMPILE_CACHE: join(dataDir, 'compiled') },
  });
  await new Promise<void>((resolve, reject) => {
    child.once('exit', (code) => reject(new Error(`the server ended with ${code}`)));
    child.stdout!.once('data', () => resolve());
  });
  return child;
}

function kill(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    child.once('exit', () => resolve());
    child.kill('SIGKILL');
  });
}

/** What a writer was told: the newest acknowledged value and revision of each name, `gone` for a delete. */
interface Known {
  readonly value: string | 'gone';
  readonly revision: number;
}

/** Creates, changes and deletes its own ConfigMaps until the server is gone. */
async function write(
  access: Access,
  writer: number,
  known: Map<string, Known>,
  unsure: Set<string>,
): Promise<void> {
  for (let step = 0; ; step++) {
    const name = `w${writer}-${Math.floor(Math.random() * 12)}`;
    const path = '/api/v1/namespaces/default/configmaps';
    const value = `${Date.now()}-${step}`;
    const before = known.get(name);
    const exists = before !== undefined && before.value !== 'gone';
    unsure.add(name);
    try {
      const body = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name }, data: { value } };
      const remove = exists && step % 5 === 0;
      const answer = remove
        ? await call(access, 'DELETE', `${path}/${name}`)
        : exists
          ? await call(access, 'PUT', `${path}/${name}`, body)
          : await call(access, 'POST', path, body);
      assert.ok(answer.status < 300, JSON.stringify(answer.body));
      const revision = remove
        ? (before?.revision ?? 0)
        : Number((answer.body as ConfigMap).metadata.resourceVersion);
      known.set(name, { value: remove ? 'gone' : value, revision });
      unsure.delete(name);
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      return;
    }
  }
}

test(`${KILLS} kills during concurrent writes lose nothing that was acknowledged`, {
  timeout: 120_000,
}, async () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'portolan-kill-'));
  const port = await freePort();
  let child = await start(dataDir, port);
  let writes = 0;
  try {
    let newest = 0;
    const known = new Map<string, Known>();
    for (let round = 0; round < KILLS; round++) {
      const access = accessOf(join(dataDir, 'admin.kubeconfig'));
      const unsure = new Set<string>();
      const writers = Array.from({ length: WRITERS }, (_, i) => write(access, i, known, unsure));
      await new Promise((resolve) => setTimeout(resolve, 5 + Math.random() * 120));
      await kill(child);
      await Promise.all(writers);
      access.agent.destroy();
      child = await start(dataDir, port);
      const again = accessOf(join(dataDir, 'admin.kubeconfig'));
      const { status, body } = await call(again, 'GET', '/api/v1/namespaces/default/configmaps');
      again.agent.destroy();
      assert.equal(status, 200);
      const list = body as { metadata: Meta; items: ConfigMap[] };
      const revision = Number(list.metadata.resourceVersion);
      const acknowledged = Math.max(0, ...[...known.values()].map((k) => k.revision));
      assert.ok(revision >= newest, `revision ${revision} went back below ${newest}`);
      assert.ok(revision >= acknowledged, `revision ${revision} is below the acknowledged ${acknowledged}`);
      writes += revision - newest;
      newest = revision;
      const found = new Map(list.items.map((item) => [item.metadata.name, item]));
      for (const [name, { value, revision: at }] of known) {
        const item = found.get(name);
        if (unsure.has(name)) continue;
        if (value === 'gone') assert.equal(item, undefined, `${name} came back`);
        else {
          assert.ok(item, `${name} of revision ${at} is lost`);
          assert.equal(item.data?.['value'], value, `${name} has another value`);
          assert.equal(Number(item.metadata.resourceVersion), at);
        }
      }
      // What was in flight may have happened or not: go on from what is there.
      for (const name of unsure) {
        const item = found.get(name);
        known.set(
          name,
          item
            ? { value: item.data?.['value'] ?? '', revision: Number(item.metadata.resourceVersion) }
            : { value: 'gone', revision: 0 },
        );
      }
    }
    assert.ok(writes > KILLS, `only ${writes} writes happened`);
  } finally {
    await kill(child);
    rmSync(dataDir, { recursive: true, force: true });
  }
});
