/** Maps and programs of the engine: adopted where an earlier process pinned them, else made and pinned. */
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { viewOf } from '../../../codec/index.ts';
import { isNetError, serviceError } from '../../../errors/index.ts';
import {
  adoptMap,
  BpfMap,
  type BpfObject,
  type BpfProgram,
  bpfFeatures,
  jiffiesPerSecond,
  loadObject,
  MAP_FLAG,
  MAP_TYPE,
  mapById,
  type NetnsLike,
  pageSize,
  possibleCpus,
  readObjectFile,
  requireNeeds,
  unpin,
} from '../../../kernel/bpf/index.ts';
import { netnsCookie } from '../../../kernel/netns/cookie.ts';
import { distPath } from '../../../kernel/paths.ts';
import { endpointStruct, frontendStruct, NAT_SLOTS } from './layout.ts';
import { INNER, InnerTypes, nextPin, type OutdatedMap, outdatedMap } from './map-types.ts';
import { keepNatSeed, NAT_PORTS, natConstants } from './nat.ts';
import { ENGINE_NEEDS } from './needs.ts';
import type { NodeHook } from './xdp-hooks.ts';

/** Entries of maps that have a size; all others grow. */
export interface EngineSizes {
  /** Frontends to begin with; the map grows to `frontendsLimit`. Default 16,384. */
  readonly frontends?: number;
  /** Default 16,777,216. */
  readonly frontendsLimit?: number;
  /** Places for translated flows to begin with; the table grows to `flowsLimit`. Default 32,768; 8,192 at least. */
  readonly flows?: number;
  /** Default 134,217,728. */
  readonly flowsLimit?: number;
  /** How far flows of datagrams whose clients may be forged make the table grow. Default 262,144 places. */
  readonly flowsUnproven?: number;
  /** Connected sockets that are open whose peer is a backend. Default 262,144; memory is taken when they are there. */
  readonly sockets?: number;
  /** Places for as many of them that are found without a lock, beside those; a power of two. Default 16,384: 1 MiB. */
  readonly socketPlaces?: number;
  /** Unconnected datagram sockets that are open. Default 65,536. */
  readonly datagrams?: number;
  /** Clients with affinity, the one not seen for longest given up first. Default 65,536. */
  readonly affinities?: number;
  /** Fragmented packets under way. Default 4,096. */
  readonly fragments?: number;
  /** Backends; default 16,777,216. Maps grow with what is in use, so this is no matter of memory. */
  readonly backendsLimit?: number;
  /** Lines of 16 table entries; default 16,777,216. */
  readonly linesLimit?: number;
  /** Source ranges of all Services together. Default 1,048,576. */
  readonly sourceRanges?: number;
  /** Kernel memory for counters of backends, and as much for those of Service ports. Default 64 MiB each; 0: none. */
  readonly counterBytes?: number;
  /** Count packets and bytes where packets are translated; default true. */
  readonly countPackets?: boolean;
  /** Ports for flows to backends on other nodes to begin with, 8 flows each. A power of two, default 16,384. */
  readonly natPorts?: number;
  /** Flows to backends on other nodes that there may be when the table has grown. Default about 1.8 million. */
  readonly natLimit?: number;
  /** Lines of 4 flows that each CPU keeps before those, in XDP; a power of two, 1 for none. Default: see hotLines(). */
  readonly hotLines?: number;
}

const SOCKET_PLACES = 16_384;
/** Places for flows, unless asked otherwise. */
export const FLOWS_BEGIN = 32_768;
/** The agent looks at the table of flows when new ones have taken one part in so many of the places it began with. */
const NEWS_PARTS = 8;

/**
 * New flows on one CPU after which programs wake the agent: a power of two, as they want it. On all CPUs together they
 * are an eighth of the places at most, so of the part at which the table grows not much is taken unseen. Pure.
 */
export function newsStep(places: number, cpus: number): number {
  return 2 ** Math.max(0, Math.floor(Math.log2(places / NEWS_PARTS / cpus)));
}

/** Lines of flows that a CPU keeps before the table of those to other nodes, each for 4 flows in 64 bytes. */
const HOT_LINES = 32_768;
/** Of all CPUs together: 64 MiB. */
const HOT_LINES_LIMIT = 1_048_576;

/** Lines for each CPU, a power of two: one, which stands for none, where there is no XDP to need them. Pure. */
export function hotLines(cpus: number, nodeHook: NodeHook | undefined): number {
  if (nodeHook === 'tc') return 1;
  return Math.min(HOT_LINES, 2 ** Math.floor(Math.log2(HOT_LINES_LIMIT / cpus)));
}

/** Kinds of flows (VIP, backend, way) that a CPU keeps with so many lines. Pure. */
export function hotKinds(lines: number): number {
  return Math.max(1, lines >>> 4);
}

/** What may be pinned under these names. The folder's name is the version of the layout. */
const SIZED: Readonly<Record<string, (sizes: EngineSizes) => number>> = {
  lb_sockets: (s) => s.sockets ?? 262_144,
  lb_socket_places: (s) => s.socketPlaces ?? SOCKET_PLACES,
  lb_datagrams: (s) => s.datagrams ?? 65_536,
  lb_affinities: (s) => s.affinities ?? 65_536,
  lb_fragments: (s) => s.fragments ?? 4_096,
  // Entries are made when written.
  lb_source_ranges: (s) => s.sourceRanges ?? 1_048_576,
  lb_nat_heads: (s) => s.natPorts ?? NAT_PORTS,
  lb_nat_flows: (s) => (s.natPorts ?? NAT_PORTS) * NAT_SLOTS,
};
export const SHARED = [
  'lb_frontends',
  'lb_tables',
  'lb_backends',
  'lb_affinities',
  'lb_config',
  'lb_counters',
  'lb_backend_counts',
  'lb_service_counts',
  'lb_sockets',
  'lb_socket_places',
  'lb_datagrams',
  'lb_flows',
  'lb_flow_table',
  'lb_flow_use',
  'lb_fragments',
  'lb_source_ranges',
  'lb_links',
  'lb_pod_sources',
  'lb_nat_heads',
  'lb_nat_flows',
  'lb_nat_more',
  'lb_nat_table',
  'lb_nat_epoch',
  'lb_interfaces',
  'lb_peers',
  'lb_passed',
] as const;

/** What programs of several objects share, and no later process needs: not pinned. */
const OWN = ['lb_flow_news', 'lb_flow_told', 'lb_nat_use'] as const;

export type MapName = (typeof SHARED)[number] | (typeof OWN)[number];

/**
 * Version of what the maps mean. A change of a structure needs no new one: maps carry their layout, and what they
 * hold is carried over (LayoutMove).
 */
export const LAYOUT_VERSION = 'v1';

/** Objects of bpf/, in the order in which they are loaded: the one that knows all structures makes the maps. */
const FILES = ['lb_pod', 'lb_socket', 'lb_flow', 'lb_node', 'lb_xdp'] as const;

export interface EngineObjects {
  /** Folder in bpffs. */
  readonly folder: string;
  readonly maps: Readonly<Record<MapName, BpfMap>>;
  readonly programs: ReadonlyMap<string, BpfProgram>;
  /** What XDP remembers of flows on each CPU, and of what they have in common; undefined where it is not loaded. */
  readonly hot: { readonly lines: BpfMap; readonly kinds: BpfMap } | undefined;
  /** Pinned maps of another layout, by name: `maps` has new ones in their place, see LayoutMove. */
  readonly outdated: ReadonlyMap<MapName, OutdatedMap>;
  /** Types of what lies in maps of maps. */
  readonly types: InnerTypes;
  close(): void;
}

/**
 * Loads programs on the maps that are there. Nothing is attached yet. Throws KERNEL_FEATURE_MISSING,
 * SERVICE_ENGINE_OPEN, SERVICE_LAYOUT_FOREIGN.
 */
export function openObjects(
  bpffsDir: string,
  sizes: EngineSizes,
  place: { readonly netns?: NetnsLike | undefined; readonly nodeHook?: NodeHook | undefined } = {},
): EngineObjects {
  const folder = join(bpffsDir, `lb-${LAYOUT_VERSION}`);
  const step = <T>(name: string, work: () => T): T => {
    try {
      return work();
    } catch (cause) {
      if (isNetError(cause, 'BPF_PIN_MISMATCH')) {
        const { path, pinned, wanted } = cause.context as { path: string; pinned: string; wanted: string };
        throw serviceError('SERVICE_LAYOUT_FOREIGN', { path, want: wanted, found: pinned }, cause);
      }
      throw serviceError('SERVICE_ENGINE_OPEN', { engine: 'ebpf', step: name }, cause);
    }
  };
  requireNeeds(ENGINE_NEEDS);
  step(`creating "${folder}"`, () => mkdirSync(folder, { recursive: true, mode: 0o700 }));

  const maps: Record<string, BpfMap> = {};
  const outdated = new Map<MapName, OutdatedMap>();
  const objects: BpfObject[] = [];
  const close = () => {
    for (const object of objects) object.close();
    for (const map of Object.values(maps)) map.close();
    for (const { map } of outdated.values()) map.close();
    types?.close();
  };
  let types: InnerTypes | undefined;
  try {
    step(`adopting maps of "${folder}"`, () => {
      for (const name of SHARED) {
        const map = adoptMap(join(folder, name), name);
        if (!map) continue;
        maps[name] = map;
      }
    });
    const files = step('reading programs', () =>
      FILES.map((file) => readObjectFile(readFileSync(distPath(`bpf/${file}.bpf.o`)), file)),
    );
    step(`comparing layouts of "${folder}"`, () => {
      for (const name of SHARED) {
        const found = maps[name] && outdatedMap(name, maps[name], files, name in SIZED);
        if (!found) continue;
        delete maps[name];
        outdated.set(name, { ...found, resumed: false });
      }
      for (const name of SHARED) {
        const path = nextPin(folder, name);
        const next = adoptMap(path, name);
        if (!next) continue;
        const old = outdated.get(name);
        if (old && !outdatedMap(name, next, files, name in SIZED)) {
          maps[name] = next;
          outdated.set(name, { ...old, resumed: true });
        } else {
          next.close();
          unpin(path);
        }
      }
    });
    const nat = natConstants(
      place.netns,
      maps['lb_nat_heads'] ?? outdated.get('lb_nat_heads')?.map,
      sizes.natPorts ?? NAT_PORTS,
    );
    const flows = {
      lb_hz: jiffiesPerSecond(),
      lb_flow_step: newsStep(sizes.flows ?? FLOWS_BEGIN, possibleCpus()) - 1,
    };
    const placesBefore = (maps['lb_socket_places'] ?? outdated.get('lb_socket_places')?.map)?.maxEntries;
    const lines = sizes.hotLines ?? hotLines(possibleCpus(), place.nodeHook);
    const counting = { lb_count_packets: sizes.countPackets ?? true, ...flows };
    const natting = {
      ...nat,
      lb_nat_step: newsStep((nat['lb_nat_mask'] as number) * NAT_SLOTS, possibleCpus()) - 1,
    };
    const constants = {
      lb_socket: {
        lb_socket_mask: (placesBefore ?? sizes.socketPlaces ?? SOCKET_PLACES) - 1,
        lb_sets_errors: bpfFeatures.socketErrors.available() !== false,
        lb_node_netns: netnsCookie(typeof place.netns === 'object' ? place.netns.fd : place.netns) ?? 0n,
      },
      lb_flow: { ...natting, ...flows },
      lb_pod: counting,
      lb_node: { ...natting, ...counting },
      lb_xdp: { ...natting, ...counting, lb_hot_mask: lines - 1, lb_hot_kind_mask: hotKinds(lines) - 1 },
    };
    const xdpProgram = place.nodeHook === 'generic' ? 'lb_xdp_generic' : 'lb_xdp';
    for (const file of FILES) {
      // XDP is a short cut: what lacks it has tc.
      if (file === 'lb_xdp' && bpfFeatures.xdpFrags.available() === false) continue;
      const object = step(`loading ${file}`, () => {
        const wanted: Record<string, BpfMap | { maxEntries: number }> = { ...maps };
        for (const [name, size] of Object.entries(SIZED)) {
          const old = outdated.get(name as MapName)?.map.maxEntries;
          wanted[name] ??= { maxEntries: old ?? size(sizes) };
        }
        wanted['lb_hot_lines'] = { maxEntries: lines };
        wanted['lb_hot_kinds'] = { maxEntries: hotKinds(lines) };
        // A ring has whole pages.
        wanted['lb_flow_news'] ??= { maxEntries: pageSize() };
        return loadObject(distPath(`bpf/${file}.bpf.o`), {
          maps: wanted,
          rodata: constants[file],
          innerTypes: INNER,
          ...(file === 'lb_xdp' && { programs: [xdpProgram] }),
        });
      });
      objects.push(object);
      for (const name of SHARED) {
        const map = object.maps.get(name);
        if (!map || maps[name]) continue;
        if (name === 'lb_nat_heads') keepNatSeed(map, nat['lb_nat_seed'] as bigint);
        step(`pinning ${name}`, () =>
          map.pin(outdated.has(name) ? nextPin(folder, name) : join(folder, name)),
        );
        maps[name] = map;
      }
      for (const name of OWN) {
        const map = object.maps.get(name);
        if (map) maps[name] ??= map;
      }
    }
    const typesOf = (file: (typeof FILES)[number], program: string, others?: InnerTypes) => {
      const at = FILES.indexOf(file);
      return new InnerTypes(files[at]!.btf, objects[at]!.program(program), others);
    };
    types = typesOf('lb_pod', 'lb_from_pod', typesOf('lb_flow', 'lb_flow_sweep'));
    // What close() sees lives as long as the process, and these are 3 MB.
    files.length = 0;
  } catch (error) {
    close();
    throw error;
  }
  const xdp = objects[FILES.indexOf('lb_xdp')]?.maps;
  return {
    folder,
    outdated,
    types,
    hot: xdp && { lines: xdp.get('lb_hot_lines')!, kinds: xdp.get('lb_hot_kinds')! },
    maps: maps as Record<MapName, BpfMap>,
    programs: new Map(objects.flatMap((object) => [...object.programs])),
    close,
  };
}

const FIRST = new Uint8Array(4);

/** The frontend hash that is in use now, made when there is none. */
export function openFrontends(outer: BpfMap, entries: number, types: InnerTypes): BpfMap {
  const current = outer.get(FIRST);
  const id = current ? viewOf(current).getUint32(0, true) : 0;
  return id !== 0 ? mapById(id, 'lb_frontends') : putFrontends(outer, createFrontends(entries, types));
}

/** Copies all frontends into a larger hash and puts that in place. Programs see the one or the other, both whole. */
export function growFrontends(outer: BpfMap, old: BpfMap, entries: number, types: InnerTypes): BpfMap {
  const larger = createFrontends(entries, types);
  larger.setMany(old.entries());
  putFrontends(outer, larger);
  old.close();
  return larger;
}

export function createFrontends(maxEntries: number, types: InnerTypes): BpfMap {
  return BpfMap.create(
    {
      name: 'lb_frontends',
      type: MAP_TYPE.HASH,
      keySize: endpointStruct.size,
      valueSize: frontendStruct.size,
      maxEntries,
      flags: MAP_FLAG.NO_PREALLOC,
    },
    types.of('lb_frontends'),
  );
}

function putFrontends(outer: BpfMap, inner: BpfMap): BpfMap {
  outer.setFd(FIRST, inner);
  return inner;
}
