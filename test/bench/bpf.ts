/**
 * BPF maps from TypeScript: single elements, batches and bpftool, and loading an object beside bpftool. Root.
 *
 *   node test/bench/bpf.ts [--json]
 */
import { execFileSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pad, struct, u8, u16, u32, u64 } from '../../src/codec/index.ts';
import { BpfMap, ensureBpffs, loadObject, MAP_TYPE, unpin } from '../../src/kernel/bpf/index.ts';
import { testObject } from '../lib/bpf.ts';
import { type BenchRow, medians, printRows, startedAlone } from './measure.ts';

const COUNT = 100_000;
const BY_BPFTOOL = 1_000;
const ROUNDS = 5;

const key = struct('key', [
  ['address', u32],
  ['port', u16],
  ['proto', u8],
  ['pad', pad(1)],
]);
const value = struct('value', [
  ['id', u64],
  ['address', u32],
  ['port', u16],
  ['flags', u16],
]);

export async function bench(): Promise<BenchRow[]> {
  const pins = ensureBpffs('/sys/fs/bpf', `pt-bench-${process.pid}`);
  const commands = join(tmpdir(), `pt-bench-${process.pid}.bpftool`);
  try {
    using map = BpfMap.create({
      name: 'bench',
      type: MAP_TYPE.HASH,
      keySize: 8,
      valueSize: 16,
      maxEntries: COUNT * 2,
    });
    const typed = map.typed(key, value);
    let round = 0;
    const entry = (n: number) =>
      [
        { address: n, port: 80, proto: 6 },
        { id: BigInt(n), address: round, port: 8080, flags: 0 },
      ] as const;
    function* all() {
      round++;
      for (let n = 0; n < COUNT; n++) yield entry(n);
    }
    const single = () => {
      for (const [k, v] of all()) typed.set(k, v);
    };
    const batch = () => typed.setMany(all());
    const lookup = () => {
      for (let n = 0; n < COUNT; n++) map.get(key.encode(entry(n)[0]));
    };
    const dump = () => [...map.entries()].length;
    const [one, many, looked, dumped] = await medians(ROUNDS, [single, batch, lookup, dump]);

    const pinned = join(pins, 'bench');
    map.pin(pinned);
    const hex = (bytes: Uint8Array) => [...bytes].map((byte) => `0x${byte.toString(16)}`).join(' ');
    writeFileSync(
      commands,
      Array.from({ length: BY_BPFTOOL }, (_, n) => {
        const [k, v] = entry(n);
        return `map update pinned ${pinned} key ${hex(key.encode(k))} value ${hex(value.encode(v))}`;
      }).join('\n'),
    );
    const [byTool, few] = await medians(ROUNDS, [
      () => execFileSync('bpftool', ['batch', 'file', commands], { stdio: 'ignore' }),
      () => typed.setMany(Iterator.from(all()).take(BY_BPFTOOL)),
    ]);
    const [dumpTool] = await medians(ROUNDS, [
      () =>
        JSON.parse(
          String(execFileSync('bpftool', ['-j', 'map', 'dump', 'pinned', pinned], { maxBuffer: 1 << 30 })),
        ),
    ]);
    const [load, loadTool] = await medians(ROUNDS, [
      () => loadObject(testObject('plain')).close(),
      () => {
        execFileSync('bpftool', ['prog', 'load', testObject('plain'), join(pins, 'plain'), 'type', 'xdp']);
        unpin(join(pins, 'plain'));
      },
    ]);
    return [
      { name: `write ${COUNT} entries in batches`, ms: many!, baseline: 'one by one', baselineMs: one! },
      { name: `read ${COUNT} entries in batches`, ms: dumped!, baseline: 'one by one', baselineMs: looked! },
      {
        name: `read ${COUNT} entries in batches`,
        ms: dumped!,
        baseline: 'bpftool -j map dump',
        baselineMs: dumpTool!,
      },
      { name: `write ${BY_BPFTOOL} entries`, ms: few!, baseline: 'bpftool batch', baselineMs: byTool! },
      {
        name: 'load an XDP program with its map',
        ms: load!,
        baseline: 'bpftool prog load',
        baselineMs: loadTool!,
      },
    ];
  } finally {
    rmSync(commands, { force: true });
    rmSync(pins, { recursive: true, force: true });
  }
}

if (startedAlone(import.meta.url)) printRows(await bench(), process.argv.includes('--json'));
