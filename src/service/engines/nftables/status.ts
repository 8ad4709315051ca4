/** Figures of the engine for `status` and metrics. */
import { FAMILIES } from '../../../addr/index.ts';
import type { StoreStatus } from '../../engine.ts';
import type { NftKernel } from './kernel.ts';
import type { Ledger } from './ledger.ts';

/** Names of counters by the comment of the rule that counts. */
const REASONS: readonly (readonly [comment: string, name: string])[] = [
  ['forward', 'forward-nat'],
  ['reject: no endpoint, or no such port', 'reject-no-endpoint'],
  ['drop: policy Local, and no endpoint on this node', 'drop-no-local-endpoint'],
  ['drop: the source is in no range of the load balancer', 'drop-source-range'],
  ['drop: an address of a Service range that no Service has', 'drop-no-service'],
  ['drop: to 127.0.0.0/8 from outside', 'drop-loopback'],
  ['drop: a segment of a pod that belongs to no connection', 'drop-invalid'],
];

/** Size of an element beside key and data: hash node, extension header, comment (kernel 6.18). */
const ELEMENT_BYTES = 96;
const LIMIT = 0xffff_ffff;

/** Packets that opened something, by what became of them. */
export function countersOf(kernel: NftKernel): Record<string, number> {
  const counters: Record<string, number> = Object.fromEntries(REASONS.map(([, name]) => [name, 0]));
  for (const family of FAMILIES) {
    const found = kernel.counters(family);
    for (const [comment, name] of REASONS) counters[name] = counters[name]! + (found.get(comment) ?? 0);
  }
  return counters;
}

/** Elements by kind; the kernel does not tell their memory, so it is computed. */
export function storesOf(ledger: Ledger, kernel: NftKernel): StoreStatus[] {
  let frontends = 0;
  let slots = 0;
  for (const port of ledger.ports.values()) {
    frontends += port.entries.length;
    for (const { sets } of port.fronts) for (const set of sets) slots += port.slots[set].length;
  }
  const clients = FAMILIES.reduce((sum, family) => sum + (kernel.list(family, 'affinity')?.length ?? 0), 0);
  const store = (name: string, entries: number, limit = LIMIT): StoreStatus => ({
    name,
    entries,
    limit,
    bytes: entries * ELEMENT_BYTES,
  });
  return [store('frontends', frontends), store('slots', slots), store('affinity', clients, 2 * 262_144)];
}
