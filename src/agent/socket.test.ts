import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { agentError, isNetError } from '../errors/index.ts';
import { askAgent, serveSocket } from './socket.ts';

test('an agent socket is private, answers in JSON, and tells errors with code, message and remedy', async () => {
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
      (error) =>
        isNetError(error, 'AGENT_NO_ROUTE') &&
        /default route/.test(error.message) &&
        /--node-ip/.test(error.remedy),
    );
    await assert.rejects(askAgent(path, 'GET', '/nothing'), (error) => isNetError(error, 'AGENT_REFUSED'));
  } finally {
    await server.close();
    rmSync(folder, { recursive: true });
  }
  await assert.rejects(askAgent(path, 'GET', '/echo'), (error) => isNetError(error, 'AGENT_NOT_RUNNING'));
});

test('what is no URL is a question without an answer, and a body that is no JSON is refused', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'agent-socket-'));
  const path = join(folder, 'agent.sock');
  const server = await serveSocket(path, { 'POST /echo': (_query, body) => body });
  try {
    for (const url of ['//', '/%', '/?=&&', '/constructor', '/echo/../x'])
      await assert.rejects(askAgent(path, 'GET', url), (error) => isNetError(error, 'AGENT_REFUSED'), url);
    assert.deepEqual(await askAgent(path, 'POST', '/echo', { a: [1] }), { a: [1] });
    await assert.rejects(
      askAgent(path, 'POST', '/echo', 'x'.repeat(1 << 20)),
      (error) => isNetError(error, 'AGENT_REFUSED') || isNetError(error, 'AGENT_NOT_RUNNING'),
    );
  } finally {
    await server.close();
    rmSync(folder, { recursive: true });
  }
});

test('an agent that ends in the middle of an answer, or never answers, does not keep its asker', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'agent-socket-'));
  const path = join(folder, 'agent.sock');
  const half = 'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"a":';
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', (data) => {
      if (data.includes('/half')) socket.end(half);
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  try {
    await assert.rejects(
      askAgent(path, 'GET', '/half'),
      (error) => isNetError(error, 'AGENT_NOT_RUNNING') && /while it answered/.test(error.message),
    );
    await assert.rejects(
      askAgent(path, 'GET', '/never', undefined, 50),
      (error) => isNetError(error, 'AGENT_NOT_RUNNING') && /no answer within/.test(error.message),
    );
  } finally {
    await new Promise((resolve) => server.close(resolve));
    rmSync(folder, { recursive: true });
  }
});
