import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { agentError, isNetError } from '../errors/index.ts';
import { askAgent, serveSocket } from './socket.ts';

test('an agent socket is private, answers in JSON, and tells errors with their message', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'agent-socket-'));
  const path = join(folder, 'agent.sock');
  const server = await serveSocket(path, {
    'GET /echo': (query) => ({ said: query.get('say'), big: 1n }),
    'POST /fail': () => {
      throw agentError('AGENT_NO_ROUTE', { family: 'IPv4' });
    },
  });
  try {
    assert.equal(statSync(path).mode & 0o777, 0o600);
    assert.deepEqual(await askAgent(path, 'GET', '/echo?say=hi'), { said: 'hi', big: '1' });
    await assert.rejects(
      askAgent(path, 'POST', '/fail', {}),
      (error) => isNetError(error, 'AGENT_REFUSED') && /default route/.test(error.message),
    );
    await assert.rejects(askAgent(path, 'GET', '/nothing'), (error) => isNetError(error, 'AGENT_REFUSED'));
  } finally {
    await server.close();
    rmSync(folder, { recursive: true });
  }
  await assert.rejects(askAgent(path, 'GET', '/echo'), (error) => isNetError(error, 'AGENT_NOT_RUNNING'));
});
