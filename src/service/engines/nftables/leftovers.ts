/** What an earlier process left in a table, read once at start, so that plans find their slots and numbers again. Pure. */
import type { NftElement } from '../../../kernel/nft/index.ts';
import { backendText, type PortAffinity, type SlotBackend, type Slots } from './compile.ts';
import type { SetContents } from './kernel.ts';
import { LOCAL_SLOT } from './layout.ts';
import type { Leftover } from './ledger.ts';
import { parseAffine, parseEndpointName } from './target-chains.ts';

export interface Leftovers {
  /** By the key of the frontend, as entryId() writes it. */
  readonly fronts: ReadonlyMap<string, Leftover>;
  readonly lastPort: number;
  readonly lastEndpoint: number;
}

interface OpenSlots {
  readonly cluster: SlotBackend[];
  readonly local: SlotBackend[];
}

/** Chain that an element of a verdict map goes to. */
export function chainOf({ data }: NftElement): string {
  return data !== undefined && 'verdict' in data && 'chain' in data ? data.chain : '';
}

/** `to 10.244.1.2:8080` or `to [fd00::2]:8080`, the comment of an endpoint's rule. */
export function endpointOf(looks: string | undefined): SlotBackend | undefined {
  const groups = /^to (?:\[(?<six>[^\]]+)\]|(?<four>[\d.]+)):(?<port>\d+)$/m.exec(looks ?? '')?.groups;
  const address = groups?.['six'] ?? groups?.['four'];
  return address === undefined ? undefined : { address, port: Number(groups!['port']) };
}

export function leftoversOf(sets: SetContents, chains: ReadonlyMap<string, string>): Leftovers {
  const bySlot = new Map<string, OpenSlots>();
  const put = (front: string, slot: number, backend: SlotBackend) => {
    const slots = bySlot.get(front) ?? { cluster: [], local: [] };
    bySlot.set(front, slots);
    if (slot >= LOCAL_SLOT) slots.local[slot - LOCAL_SLOT] = backend;
    else slots.cluster[slot] = backend;
  };
  for (const { key, data } of [...(sets.slots ?? []), ...(sets['nodeport-slots'] ?? [])])
    if (Array.isArray(data))
      put(key.slice(0, -1).join(' '), key.at(-1) as number, {
        address: String(data[0]),
        port: data[1] as number,
      });
  const ids = new Map<number, Map<string, number>>();
  let lastPort = 0;
  let lastEndpoint = 0;
  for (const element of sets['affinity-slots'] ?? []) {
    const [number, slot] = element.key as [number, number];
    const name = chainOf(element);
    const id = parseEndpointName(name);
    const backend = endpointOf(chains.get(name));
    lastPort = Math.max(lastPort, number);
    if (id === undefined || !backend) continue;
    lastEndpoint = Math.max(lastEndpoint, id);
    put(affine(number), slot, backend);
    const known = ids.get(number) ?? new Map<string, number>();
    ids.set(number, known.set(backendText(backend), id));
  }
  const fronts = new Map<string, Leftover>();
  for (const element of [...(sets.vips ?? []), ...(sets.nodeports ?? [])]) {
    const front = element.key.join(' ');
    const number = parseAffine(chainOf(element))?.number;
    const slots = bySlot.get(number === undefined ? front : affine(number)) ?? { cluster: [], local: [] };
    // A table that somebody edited may have holes.
    if (hasHole(slots)) continue;
    const affinity: PortAffinity | undefined =
      number === undefined ? undefined : { number, ids: ids.get(number) ?? new Map() };
    fronts.set(front, { slots, affinity });
  }
  return { fronts, lastPort, lastEndpoint };
}

function affine(number: number): string {
  return `affinity ${number}`;
}

function hasHole({ cluster, local }: Slots): boolean {
  return cluster.includes(undefined as never) || local.includes(undefined as never);
}
