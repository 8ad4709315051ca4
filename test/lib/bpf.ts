/** Compiles the objects of bpf/tests and asks bpftool what the kernel thinks of them. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, globSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const sources = join(import.meta.dirname, '../../bpf/tests');

/** Path of the compiled object of bpf/tests/NAME.bpf.c; compiled once for each state of the source. */
export function testObject(name: string): string {
  const source = join(sources, `${name}.bpf.c`);
  const parts = [source, ...globSync(join(sources, '../{*.bpf.c,include/*.h}')).sort()];
  const hash = createHash('sha256');
  for (const part of parts) hash.update(readFileSync(part));
  const digest = hash.digest('hex').slice(0, 16);
  const folder = join(tmpdir(), 'portolan-bpf-tests');
  const output = join(folder, `${name}-${digest}.bpf.o`);
  if (existsSync(output)) return output;
  mkdirSync(folder, { recursive: true });
  const temporary = `${output}.${process.pid}`;
  const machine = process.arch === 'arm64' ? 'aarch64' : 'x86_64';
  execFileSync('clang', [
    ...['-O2', '-g', '-Wall', '-Wextra', '-Werror', '-target', 'bpf', '-mcpu=v3'],
    `-I/usr/include/${machine}-linux-gnu`,
    `-I${join(sources, '../include')}`,
    ...['-c', source, '-o', temporary],
  ]);
  renameSync(temporary, output);
  return output;
}

/** What bpftool prints as JSON. */
export function bpftool(...args: (string | number)[]): unknown {
  return JSON.parse(execFileSync('bpftool', ['-j', ...args.map(String)], { encoding: 'utf8' }) || 'null');
}

/** Bytes as bpftool prints them: `["0x01","0x00"]`. */
export function fromHex(bytes: readonly string[]): number[] {
  return bytes.map((byte) => Number.parseInt(byte, 16));
}

/** The content of a map as bpftool sees it: entries sorted by key. */
export function dumpMap(id: number): { key: number[]; value: number[] }[] {
  const dumped = bpftool('map', 'dump', 'id', id) as { key: string[]; value?: string[] }[];
  return dumped
    .map(({ key, value }) => ({ key: fromHex(key), value: fromHex(value ?? []) }))
    .sort((a, b) => Buffer.compare(Buffer.from(a.key), Buffer.from(b.key)));
}

/** A 32-bit number as the 4 bytes of a key or value. */
export function u32Bytes(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}

/** The reverse, for 4 or 8 bytes. */
export function numberOf(bytes: Uint8Array | undefined): number {
  if (!bytes) return Number.NaN;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return bytes.length === 8 ? Number(view.getBigUint64(0, true)) : view.getUint32(0, true);
}
