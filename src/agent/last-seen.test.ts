import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import fc from 'fast-check';
import { type LastSeen, LastSeenFile, lastSeenText, parseLastSeen } from './last-seen.ts';

const seen: LastSeen = {
  node: 'node1',
  podCidrs: ['10.244.0.0/24'],
  peers: [{ name: 'node2', annotations: { a: 'b' }, podCidrs: ['10.244.1.0/24'] }],
};
const log = { debug() {}, info() {}, warn() {}, error() {} };

test('parseLastSeen() reads what lastSeenText() writes', () => {
  assert.deepEqual(parseLastSeen(lastSeenText(seen), 'node1'), seen);
});

test("parseLastSeen() refuses another node's view, another version, and what has another shape", () => {
  const object = JSON.parse(lastSeenText(seen)) as Record<string, unknown>;
  assert.equal(parseLastSeen(lastSeenText(seen), 'node2'), undefined);
  for (const wrong of [
    { version: 2 },
    { podCidrs: '10.244.0.0/24' },
    { podCidrs: [1] },
    { peers: {} },
    { peers: [null] },
    { peers: [{ name: 'x', annotations: { a: 1 }, podCidrs: [] }] },
    { peers: [{ name: 'x', podCidrs: [] }] },
  ])
    assert.equal(parseLastSeen(JSON.stringify({ ...object, ...wrong }), 'node1'), undefined);
});

test('parseLastSeen() survives any text, and every cut of a good one', () => {
  const good = lastSeenText(seen);
  for (let length = 0; length < good.length - 1; length++)
    assert.equal(parseLastSeen(good.slice(0, length), 'node1'), undefined);
  fc.assert(fc.property(fc.string(), (text) => parseLastSeen(text, 'node1') === undefined));
  fc.assert(fc.property(fc.json(), (text) => parseLastSeen(text, 'node1') === undefined));
});

test('the file is private, whole, written at close, and only when something changed', () => {
  const folder = mkdtempSync(join(tmpdir(), 'last-seen-'));
  const path = join(folder, 'last-seen.json');
  try {
    const file = new LastSeenFile(path, 'node1', log);
    assert.equal(file.read(), undefined);
    file.close();
    assert.deepEqual(readdirSync(folder), [], 'nothing seen, nothing written');
    let asked = 0;
    file.save(() => {
      asked++;
      return { ...seen, peers: [] };
    });
    file.save(() => seen);
    file.close();
    assert.equal(asked, 0, 'only the last view is put together');
    assert.deepEqual(file.read(), seen);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    writeFileSync(path, 'edited');
    file.save(() => seen);
    file.close();
    assert.equal(readFileSync(path, 'utf8'), 'edited', 'the same view is not written twice');
    assert.deepEqual(readdirSync(folder), ['last-seen.json']);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a folder that cannot be written to is told once and stops nothing', () => {
  const told: string[] = [];
  const file = new LastSeenFile('/nonexistent/last-seen.json', 'node1', {
    ...log,
    warn: (_context, message) => told.push(message),
  });
  for (const podCidrs of [['10.0.0.0/24'], ['10.0.1.0/24']]) {
    file.save(() => ({ podCidrs, peers: [] }));
    file.close();
  }
  assert.equal(told.length, 1);
});
