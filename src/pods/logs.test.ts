import assert from 'node:assert/strict';
import { appendFileSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import fc from 'fast-check';
import { type LogOptions, logOptions, parseLogLine, readLog } from './logs.ts';

let folder = '';
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'pt-logs-'));
});
after(() => rmSync(folder, { recursive: true, force: true }));

const line = (second: number, text: string, stream = 'stdout', tag = 'F') =>
  `2026-01-01T00:00:${String(second).padStart(2, '0')}.000000000Z ${stream} ${tag} ${text}\n`;

async function read(path: string, query: string, ended = () => true): Promise<string> {
  const options: LogOptions = logOptions(new URLSearchParams(query), Date.parse('2026-01-01T00:00:10Z'));
  const parts: Uint8Array[] = [];
  for await (const part of readLog(path, options, AbortSignal.timeout(5_000), ended)) parts.push(part);
  return Buffer.concat(parts).toString();
}

test('readLog() joins parts and rotated files, and honours the options of kubectl', async () => {
  const path = join(folder, '0.log');
  writeFileSync(`${path}.1`, line(1, 'one') + line(2, 'two', 'stderr'));
  writeFileSync(path, line(3, 'thr', 'stdout', 'P') + line(4, 'ee') + line(5, 'grüße'));
  const cases: [string, string][] = [
    ['', 'one\ntwo\nthree\ngrüße\n'],
    ['tailLines=1', 'grüße\n'],
    ['tailLines=2', 'three\ngrüße\n'],
    ['tailLines=0', ''],
    ['tailLines=99', 'one\ntwo\nthree\ngrüße\n'],
    ['limitBytes=6', 'one\ntw'],
    ['stream=Stderr', 'two\n'],
    ['sinceSeconds=6', 'ee\ngrüße\n'],
    ['sinceTime=2026-01-01T00:00:05Z', 'grüße\n'],
    ['tailLines=1&timestamps=true', '2026-01-01T00:00:05.000000000Z grüße\n'],
  ];
  for (const [query, want] of cases) assert.equal(await read(path, query), want, query);
  for (const bad of ['tailLines=x', 'limitBytes=-1', 'sinceTime=soon'])
    assert.throws(() => logOptions(new URLSearchParams(bad), 0), /Cannot hand/);
});

test('following goes on over a rotation, and ends with the container', async () => {
  const path = join(folder, '1.log');
  writeFileSync(path, line(1, 'a'));
  let over = false;
  const reading = read(path, 'follow=true', () => over);
  const pause = () => new Promise((resolve) => setTimeout(resolve, 20));
  await pause();
  appendFileSync(path, line(2, 'b'));
  await pause();
  renameSync(path, `${path}.1`);
  writeFileSync(path, line(3, 'c'));
  await pause();
  appendFileSync(path, line(4, 'd'));
  over = true;
  assert.equal(await reading, 'a\nb\nc\nd\n');
});

test('parseLogLine() takes CRI lines and refuses all others', () => {
  assert.deepEqual(parseLogLine('T stdout F a b'), {
    time: 'T',
    stream: 'stdout',
    partial: false,
    text: 'a b',
  });
  assert.deepEqual(parseLogLine('T stderr P '), { time: 'T', stream: 'stderr', partial: true, text: '' });
  for (const bad of ['', 'x', 'T stdin F a', 'T stdout X a']) assert.equal(parseLogLine(bad), undefined, bad);
  fc.assert(fc.property(fc.string(), (text) => parseLogLine(text) === undefined || text.includes(' ')));
});
