/** Tables of backends' ids in lines of the map: each whole and in one piece, written before a frontend names it. */
import { viewOf } from '../../../codec/index.ts';
import type { BpfMap } from '../../../kernel/bpf/index.ts';
import type { PortPlan } from '../../types.ts';
import { RangeAllocator } from './allocate.ts';
import { type Attempt, takeNumbers } from './attempt.ts';
import { ChunkedArray } from './chunked-array.ts';
import { type CompiledFrontend, compileTable, type TableName } from './compile.ts';
import { named, type Table } from './frontend-store.ts';
import { CHUNK, encodeEndpoint, LINE_BYTES, LINE_ENTRIES, PROTOCOL_NUMBER } from './layout.ts';
import { type Leftovers, textOf, VALUE } from './leftovers.ts';
import type { InnerTypes } from './map-types.ts';

const linesOf = (entries: number) => Math.ceil(entries / LINE_ENTRIES);

/** Where tables of an earlier process are, and the value of one of its frontends. */
export interface LeftTables {
  readonly left: Leftovers;
  readonly frontend: (key: string) => DataView | undefined;
}

export interface TableStoreOptions {
  readonly linesLimit: number;
  readonly now: () => number;
  readonly types: InnerTypes;
}

export class TableStore {
  readonly array: ChunkedArray;
  readonly #lines: RangeAllocator;
  /** Staged, see release(). */
  #gone: Omit<Table, 'name'>[] = [];

  constructor(map: BpfMap, { linesLimit, now, types }: TableStoreOptions) {
    this.array = new ChunkedArray(map, { valueSize: LINE_BYTES, created: types.of('lb_tables') });
    this.#lines = new RangeAllocator({ limit: Math.min(linesLimit, this.array.limit), now });
  }

  usage(): { used: number; limit: number } {
    return { used: this.#lines.used, limit: this.#lines.limit };
  }

  reserve(more: number): void {
    this.array.reserve(Math.min(this.#lines.limit, this.#lines.top + more));
  }

  adopt({ tables }: Leftovers): void {
    this.#lines.reset(tables, 0);
  }

  dropLeftovers({ tables }: Leftovers): void {
    for (const [line, lines] of tables)
      this.#gone.push({ line, ids: new Array<number>(lines * LINE_ENTRIES) });
  }

  /** The tables of a port: those that it had where they are the same. Throws SERVICE_MAP_FULL. */
  put(
    plan: PortPlan,
    compiled: readonly CompiledFrontend[],
    before: readonly Table[] | undefined,
    ids: readonly number[],
    { leftovers, attempt }: { readonly leftovers: LeftTables | undefined; readonly attempt: Attempt },
  ): Table[] {
    const tables: Table[] = [];
    for (const { inside, outside } of compiled)
      for (const name of [inside, outside]) {
        if (name === undefined || named(tables, name)) continue;
        const entries = compileTable(plan, name);
        let wanted: readonly number[] = Array.from(entries, (entry) => ids[entry]!);
        // One list instead of two alike for each of ten thousand ports.
        if (sameNumbers(wanted, ids)) wanted = ids;
        const kept = named(before, name);
        tables.push(
          kept && sameNumbers(kept.ids, wanted)
            ? kept
            : ((leftovers && adoptTable(plan, compiled, { name, ids: wanted }, leftovers, attempt)) ??
                this.#newTable(plan, name, wanted, attempt)),
        );
      }
    return tables.slice();
  }

  #newTable(plan: PortPlan, name: TableName, ids: readonly number[], { undo, write }: Attempt): Table {
    const lines = linesOf(ids.length);
    const line = takeNumbers(this.#lines, lines, plan, 'lb_tables');
    undo.push(() => this.#lines.give(line, lines));
    write.push(() => {
      for (let at = 0; at < lines; at++) {
        const view = viewOf(this.array.stage(line + at));
        const entries = Math.min(LINE_ENTRIES, ids.length - at * LINE_ENTRIES);
        for (let entry = 0; entry < entries; entry++)
          view.setUint32(entry * 4, ids[at * LINE_ENTRIES + entry]!, true);
      }
    });
    return { name, line, ids };
  }

  /** Stages the end of tables that are not among those of now. */
  retire(before: readonly Table[], tables: readonly Table[]): void {
    for (const table of before) if (named(tables, table.name)?.line !== table.line) this.#gone.push(table);
  }

  flush(): void {
    this.array.flush();
  }

  /** Once no frontend names them any more: their lines are free. */
  release(): void {
    for (const { line, ids } of this.#gone) this.#lines.give(line, linesOf(ids.length));
    this.#gone = [];
  }

  /** See Writer.foreign(). */
  *foreign(repair: boolean): Generator<string[]> {
    for (const found of this.array.foreign(repair))
      yield found.map(({ index, value }) =>
        value === undefined
          ? `lb_tables: the chunk of line ${index} is not in its place`
          : `lb_tables[${index}] was changed`,
      );
  }

  /** Gives back memory at the end of what is in use; returns how many chunks that were. */
  trim(): number {
    // One chunk stays for what comes next.
    if (this.array.capacity - this.#lines.used <= 2 * CHUNK) return 0;
    return this.array.trim(this.#lines.trim() + CHUNK);
  }

  close(): void {
    this.array.close();
  }
}

/** A table that the kernel has already under one of this port's frontends. */
function adoptTable(
  plan: PortPlan,
  compiled: readonly CompiledFrontend[],
  { name, ids }: { readonly name: TableName; readonly ids: readonly number[] },
  { left, frontend: leftover }: LeftTables,
  { undo }: Attempt,
): Table | undefined {
  for (const frontend of compiled) {
    const sides = [
      [frontend.inside, VALUE.insideLine, VALUE.insideSize],
      [frontend.outside, VALUE.outsideLine, VALUE.outsideSize],
    ] as const;
    for (const [table, lineAt, sizeAt] of sides) {
      if (table !== name) continue;
      const key = textOf(encodeEndpoint(frontend.address, frontend.port, PROTOCOL_NUMBER[plan.protocol]!));
      const view = leftover(key);
      if (!view) continue;
      const line = view.getUint32(lineAt, true);
      if (!left.tables.has(line) || !left.hasTable(line, view.getUint32(sizeAt, true), ids)) continue;
      const lines = left.tables.get(line)!;
      left.tables.delete(line);
      undo.push(() => left.tables.set(line, lines));
      return { name, line, ids };
    }
  }
  return undefined;
}

function sameNumbers(a: ArrayLike<number>, b: ArrayLike<number>): boolean {
  if (a.length !== b.length) return false;
  for (let at = 0; at < a.length; at++) if (a[at] !== b[at]) return false;
  return true;
}
