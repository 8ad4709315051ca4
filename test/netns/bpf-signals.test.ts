/**
 * Signals that arrive while the kernel looks at a program end its load (EAGAIN). Once that counted as a kernel without
 * eBPF, and a node whose agent had just been started lost its Services to the other engine for as long as it lived.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import test from 'node:test';
import { bpfFeatures } from '../../src/kernel/bpf/index.ts';
import { firstLine } from '../lib/soak.ts';

const ROUNDS = 40;
const STORM = `
import os, sys
try:
    while True: os.kill(int(sys.argv[1]), 12)
except ProcessLookupError: pass
`;

test('a storm of signals does not make the kernel look as if it lacked something', async () => {
  const missing = Object.entries(bpfFeatures).flatMap(([name, feature]) =>
    feature.available() === false ? name : [],
  );
  const script = join(import.meta.dirname, '../lib/probe-under-signals.ts');
  const child = spawn(process.execPath, [script, String(ROUNDS)], { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (said += text));
  const ended = new Promise((resolve) => child.once('close', resolve));
  assert.equal(await firstLine(child), 'ready');
  const storm = spawn('python3', ['-c', STORM, String(child.pid)], { stdio: 'ignore' });
  try {
    await ended;
  } finally {
    storm.kill('SIGKILL');
    child.kill('SIGKILL');
  }
  const seen = JSON.parse(said.trim().split('\n').at(-1)!) as {
    tried: number;
    ended: number;
    denied: string[];
  };
  console.log(`${seen.ended} of ${seen.tried} loads were ended by a signal`);
  assert.ok(seen.ended > 0, 'no load met a signal: nothing was tried');
  assert.deepEqual(seen.denied, missing);
});
