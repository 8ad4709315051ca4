/**
 * What finding and opening a flow costs: the table of translated flows beside an LRU hash of the shape that was there
 * before, both net of a program that only names the client. Every run is another client's. Root.
 *
 *   node test/bench/flows.ts [--quick]
 */
import { viewOf } from '../../src/codec/index.ts';
import { loadObject, mapMemoryBytes } from '../../src/kernel/bpf/index.ts';
import { FlowTable } from '../../src/service/engines/ebpf/flow-table.ts';
import type { EngineObjects } from '../../src/service/engines/ebpf/objects.ts';
import { testObject } from '../lib/bpf.ts';
import { type AreaOptions, type Figure, lineOf, median } from './figure.ts';
import { startedAlone } from './measure.ts';

const FIRST = new Uint8Array(4);
/** Half of the places of a table are in use when it grows. */
const PLACES_A_CLIENT = 2;
/** Then all places that a new flow may have are taken once in about a million; an agent had made room before. */
const REFUSED_SHARE = 1e-4;

export function benchFlows({ quick }: AreaOptions): Figure[] {
  const figures: Figure[] = [];
  const rounds = quick ? 3 : 9;
  for (const clients of quick ? [1, 65_536] : [1, 65_536, 524_288]) {
    using object = loadObject(testObject('lb_flow_bench'), {
      maps: { bench_lru: { maxEntries: Math.max(16_384, clients * PLACES_A_CLIENT) } },
    });
    const objects = {
      maps: Object.fromEntries(object.maps),
      programs: object.programs,
      types: { of: () => ({}) },
    } as unknown as EngineObjects;
    const table = new FlowTable(objects, { sizes: { flows: clients * PLACES_A_CLIENT } });
    try {
      const setting = object.maps.get('bench_setting')!;
      /** Of the clients, those whose flows found no place. */
      let refused = 0;
      const run = (name: string, repeat: number): number => {
        const value = new Uint8Array(16);
        viewOf(value).setUint32(0, clients, true);
        setting.set(FIRST, value);
        const { durationNs } = object.programs.get(name)!.run({ data: new Uint8Array(64), repeat });
        const failed = Number(viewOf(setting.get(FIRST)!).getBigUint64(8, true));
        if (name === 'bench_table_open') refused = failed;
        // Who found no place is looked for in vain each time, and nobody else.
        const allowed =
          name === 'bench_table_open'
            ? Math.floor(clients * REFUSED_SHARE)
            : refused * Math.ceil(repeat / clients);
        // An LRU hash gives up flows although it is twice as large as needed: those are looked for in vain.
        if (failed > allowed && !name.startsWith('bench_lru'))
          throw new Error(`${name}: ${failed} failed of ${repeat}, ${allowed} may`);
        return durationNs;
      };
      const nothing: number[] = [];
      const opened = { table: run('bench_table_open', clients), lru: run('bench_lru_open', clients) };
      const found = { table: [] as number[], lru: [] as number[] };
      for (let round = 0; round < rounds; round++) {
        nothing.push(run('bench_nothing', 1_000_000));
        found.table.push(run('bench_table_find', 1_000_000));
        found.lru.push(run('bench_lru_find', 1_000_000));
      }
      const empty = median(nothing);
      const net = (ns: number) => Math.max(0, ns - empty) / 1000;
      const label = clients === 1 ? '1 flow' : `${clients / 1024}k flows`;
      figures.push({
        name: `a flow is found, ${label}`,
        value: net(median(found.table)),
        unit: 'us',
        baseline: { name: 'LRU hash', value: net(median(found.lru)) },
      });
      if (clients > 1)
        figures.push(
          {
            name: `new flows without a place in a table half full, ${label}`,
            value: (refused / clients) * 100,
            unit: '%',
          },
          {
            name: `a flow is opened, ${label}`,
            value: net(opened.table),
            unit: 'us',
            baseline: { name: 'LRU hash', value: net(opened.lru) },
          },
          {
            name: `memory for ${label}`,
            value: table.bytes / 1024 / 1024,
            unit: 'MiB',
            baseline: {
              name: 'LRU hash',
              value: mapMemoryBytes(object.maps.get('bench_lru')!) / 1024 / 1024,
            },
          },
        );
    } finally {
      table.close();
    }
  }
  return figures;
}

if (startedAlone(import.meta.url))
  for (const figure of benchFlows({ quick: process.argv.includes('--quick') })) console.log(lineOf(figure));
