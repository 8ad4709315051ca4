import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Node } from '../model/kubernetes.ts';
import { serveHealthz } from './healthz.ts';
import { slimNode } from './sources.ts';

const log = { debug() {}, info() {}, warn() {}, error() {} };
const plain: Node = { apiVersion: 'v1', kind: 'Node', metadata: { name: 'n1' }, spec: {} };
const tainted: Node = {
  ...plain,
  spec: { taints: [{ key: 'ToBeDeletedByClusterAutoscaler', effect: 'NoSchedule', value: '1700000000' }] },
};
const deleted: Node = { ...plain, metadata: { name: 'n1', deletionTimestamp: '2026-01-01T00:00:00Z' } };
const cordoned: Node = { ...plain, spec: { unschedulable: true } };

test('healthz is about new clients, livez about the agent', async () => {
  let node: Node | undefined;
  let programmed = false;
  const served = serveHealthz({
    host: '127.0.0.1',
    port: 0,
    programmed: () => programmed,
    // As the agent keeps its own Node.
    node: () => node && slimNode(node, 'n1'),
    log: log as never,
  });
  try {
    const port = await served.listening;
    const ask = async (path: string) => {
      const response = await fetch(`http://127.0.0.1:${port}${path}`, { headers: { connection: 'close' } });
      const body = (await response.json()) as {
        nodeEligible: boolean;
        lastUpdated: string;
        currentTime: string;
      };
      assert.ok(Date.parse(body.lastUpdated) > 0 && Date.parse(body.currentTime) > 0);
      return [response.status, body.nodeEligible];
    };
    assert.deepEqual(
      [await ask('/healthz'), await ask('/livez')],
      [
        [503, true],
        [503, true],
      ],
    );
    programmed = true;
    assert.deepEqual(
      [await ask('/healthz'), await ask('/livez')],
      [
        [200, true],
        [200, true],
      ],
    );
    for (const leaving of [tainted, deleted]) {
      node = leaving;
      assert.deepEqual(
        [await ask('/healthz?x=1'), await ask('/livez')],
        [
          [503, false],
          [200, false],
        ],
      );
    }
    node = cordoned;
    assert.deepEqual(await ask('/healthz'), [200, true]);
    assert.equal((await fetch(`http://127.0.0.1:${port}/metrics`)).status, 404);
  } finally {
    await served.close();
  }
});
