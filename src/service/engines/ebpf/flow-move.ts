/**
 * Flows of another layout: of a table whose structures changed, or of the map by client port that came before the
 * table. Each flow is read by the names of its members, and put where it belongs.
 */
import { viewOf } from '../../../codec/index.ts';
import { type Leaf, MAP_TYPE, mapById, type Translate, translator } from '../../../kernel/bpf/index.ts';
import type { FlowTable } from './flow-table.ts';
import { FLOW, flowStruct } from './layout.ts';
import type { OutdatedMap } from './map-types.ts';

const UDP = 17;

/** Puts flows that were used at `since` (jiffies, low half) or later into the table; all without. Returns how many had no place. */
export function moveFlows(old: OutdatedMap, table: FlowTable, since?: number): number {
  let lost = 0;
  const readers = flowReaders(old);
  const protocolAt = old.from?.key.find(({ name }) => name === 'protocol')?.offset;
  for (const [key, value] of entriesOf(old)) {
    for (const read of readers) {
      const bytes = read(value);
      const flow = flowStruct.decode(bytes);
      if ((flow.flags & FLOW.USED) === 0) continue;
      if (since !== undefined && (flow.seen - since) >>> 0 >= 0x8000_0000) continue;
      if (protocolAt !== undefined) flow.flags = flagsInTable(flow.flags, key[protocolAt]!);
      if (!table.put(flowStruct.encode(flow))) lost++;
    }
  }
  return lost;
}

/** Before the table, the key told the protocol, and bits from 9 on meant something else. What was answered counts as confirmed. */
function flagsInTable(flags: number, protocol: number): number {
  const KEPT = (1 << 9) - 1;
  const confirmed = (flags & FLOW.REPLIED) !== 0 ? FLOW.CONFIRMED : 0;
  return (flags & KEPT) | confirmed | (protocol === UDP ? FLOW.UDP : 0);
}

function* entriesOf({ map }: OutdatedMap): Generator<[Uint8Array, Uint8Array]> {
  if (map.type !== MAP_TYPE.ARRAY_OF_MAPS) {
    yield* map.entries();
    return;
  }
  const key = new Uint8Array(4);
  for (let chunk = 0; chunk < map.maxEntries; chunk++) {
    viewOf(key).setUint32(0, chunk, true);
    const value = map.get(key);
    const id = value ? viewOf(value).getUint32(0, true) : 0;
    if (id === 0) return;
    using inner = mapById(id, map.name);
    yield* inner.entries();
  }
}

/** How to read each flow of a value: `flow.0.vip`, `flow.1.vip`, and so on. */
function flowReaders({ from, to, map }: OutdatedMap): Translate[] {
  const leaves = (all: readonly Leaf[], at: number) =>
    all.flatMap((leaf) =>
      leaf.name.startsWith(`flow.${at}.`) ? { ...leaf, name: leaf.name.slice(`flow.${at}.`.length) } : [],
    );
  if (!from || !to) return [];
  const wanted = leaves(to.value, 0);
  const first = wanted[0]?.offset ?? 0;
  const target = wanted.map((leaf) => ({ ...leaf, offset: leaf.offset - first }));
  const readers: Translate[] = [];
  for (let at = 0; ; at++) {
    const source = leaves(from.value, at);
    if (source.length === 0) return readers;
    readers.push(
      translator({ leaves: source, size: map.valueSize }, { leaves: target, size: flowStruct.size }),
    );
  }
}
