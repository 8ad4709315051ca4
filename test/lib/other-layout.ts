/**
 * A version of the engine with other structures: a copy of the sources in which structures that programs and user
 * space share have new members, at the beginning, in the middle and at the end.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const root = join(import.meta.dirname, '../..');

const EDITS: Readonly<Record<string, readonly (readonly [before: string, after: string])[]>> = {
  'bpf/include/lb_types.h': [
    ['struct lb_flow {\n', 'struct lb_flow {\n\t__u32 added[4];\n'],
    ['struct lb_peer {\n\t__be32 vip[4];\n', 'struct lb_peer {\n\t__be32 vip[4];\n\t__u32 added[2];\n'],
    ['struct lb_affinity {\n', 'struct lb_affinity {\n\t__u64 added;\n'],
    ['\t__u32 spare[2];\n', '\t__u32 spare[10];\n'],
    ['\t__u32 outside_size;\n', '\t__u32 outside_size;\n\t__u32 added[8];\n'],
    ['\t__u64 connections; ', '\t__u64 added;\n\t__u64 connections; '],
  ],
  'src/service/engines/ebpf/layout.ts': [
    ["struct('lb_flow', [\n", "struct('lb_flow', [\n  ['added', bytes(16)],\n"],
    [
      "struct('lb_peer', [\n  ['vip', bytes(16)],\n",
      "struct('lb_peer', [\n  ['vip', bytes(16)],\n  ['added', bytes(8)],\n",
    ],
    ["struct('lb_affinity', [\n", "struct('lb_affinity', [\n  ['added', u64],\n"],
    ["['spare', bytes(8)]", "['spare', bytes(40)]"],
    ["  ['outside_size', u32],\n", "  ['outside_size', u32],\n  ['added', bytes(32)],\n"],
    ["struct('lb_count', [\n", "struct('lb_count', [\n  ['added', u64],\n"],
  ],
  // Where an encoder is given all members by name.
  'src/service/engines/ebpf/frontend-store.ts': [
    ['    outside_size: 0,\n', '    outside_size: 0,\n    added: new Uint8Array(32),\n'],
    [
      '          outside_size: outside.ids.length,\n',
      '          outside_size: outside.ids.length,\n          added: new Uint8Array(32),\n',
    ],
  ],
  'src/service/engines/ebpf/counters.ts': [['cpu + at * 8', 'cpu + 8 + at * 8']],
};

/** The copy, built: `file()` gives paths in it. Disposing takes it away. */
export function otherLayout(): { file(path: string): string; [Symbol.dispose](): void } {
  const folder = mkdtempSync(join(tmpdir(), 'portolan-layout-'));
  for (const part of [
    'bpf',
    'src',
    'tools',
    'test/lib',
    'native',
    'package.json',
    'tsconfig.json',
    'dist/native',
  ])
    cpSync(join(root, part), join(folder, part), { recursive: true });
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  for (const [path, edits] of Object.entries(EDITS)) {
    let text = readFileSync(join(folder, path), 'utf8');
    for (const [before, after] of edits) {
      if (text.split(before).length !== 2) throw new Error(`${path} has no single "${before}"`);
      text = text.replace(before, after);
    }
    writeFileSync(join(folder, path), text);
  }
  execFileSync(process.execPath, [join(folder, 'tools/build.ts'), '--only', 'bpf'], { stdio: 'ignore' });
  return {
    file: (path) => join(folder, path),
    [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }),
  };
}
