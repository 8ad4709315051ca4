/** A world with every kind of frontend there is, and the same put into the maps of loaded programs. */
import { readFileSync } from 'node:fs';
import { viewOf } from '../../src/codec/index.ts';
import { BpfMap, MAP_TYPE, mapById, readObjectFile } from '../../src/kernel/bpf/index.ts';
import { distPath } from '../../src/kernel/paths.ts';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import {
  BACKEND,
  backendStruct,
  CHUNK,
  encodeEndpoint,
  encodeSource,
  FRONTEND,
  frontendStruct,
  LINE_BYTES,
  LINE_ENTRIES,
  writeAddress,
} from '../../src/service/engines/ebpf/layout.ts';
import { InnerTypes } from '../../src/service/engines/ebpf/map-types.ts';
import { maglevTable } from '../../src/service/maglev.ts';
import { type Backend, type Frontend, type Table, World } from './lb-reference-world.ts';

const PROTOCOLS = [6, 17] as const;
const PRIME = 251;

/** Addresses of one family. */
export interface Family {
  readonly pods: readonly string[];
  readonly outside: readonly string[];
  readonly remote: readonly string[];
  readonly vip: (last: number) => string;
  readonly node: string;
  readonly balancer: string;
  /** In a Service range, and no Service's. */
  readonly nobody: string;
  /** A ClusterIP that another proxy serves. */
  readonly notOurs: string;
  readonly hairpin: string;
}

export const FAMILIES: readonly Family[] = [
  {
    pods: ['10.244.1.5', '10.244.1.6', '10.244.1.7'],
    outside: ['172.20.0.9', '172.20.0.10', '203.0.113.200'],
    remote: ['10.244.2.2', '10.244.2.3', '10.244.3.4'],
    vip: (last) => `10.96.0.${last}`,
    node: '192.168.77.1',
    balancer: '203.0.113.7',
    nobody: '10.96.3.99',
    notOurs: '10.96.0.16',
    hairpin: '169.254.112.111',
  },
  {
    pods: ['fd00:10:244:1::5', 'fd00:10:244:1::6', 'fd00:10:244:1::7'],
    outside: ['fd00:20::9', 'fd00:20::10', '2001:db8::200'],
    remote: ['fd00:10:244:2::2', 'fd00:10:244:2::3', 'fd00:10:244:3::4'],
    vip: (last) => `fd00:10:96::${last}`,
    node: 'fd77::1',
    balancer: 'fd00:113::7',
    nobody: 'fd00:10:96::399',
    notOurs: 'fd00:10:96::16',
    hairpin: '100::706f',
  },
];

/** What a world's builder has for those that add to it. */
export interface WorldTools {
  /** A new Service's backends: a pod here, the remote ones, and `more`. */
  members(more?: string[]): number[];
  table(ids: readonly number[], options?: Partial<Table>): Table;
  put(text: string, port: number, options?: Partial<Frontend>): void;
}

/** Ports of frontends. */
export const PORTS = { plain: 80, local: 81, node: 30_080 } as const;
export const BACKEND_PORT = 8080;

export function buildWorld(
  more?: (world: World, family: Family, protocol: number, tools: WorldTools) => void,
): World {
  const world = new World();
  world.addServiceRange('10.96.0.0/16');
  world.addServiceRange('fd00:10:96::/112');
  for (const family of FAMILIES) world.addNotOurs(family.notOurs);
  let service = 0;
  for (const family of FAMILIES)
    for (const protocol of PROTOCOLS) {
      const members = (more: string[] = []) => {
        service++;
        return [family.pods[0]!, ...family.remote, ...more].map((text) =>
          world.addBackend(text, BACKEND_PORT, { protocol, service, near: family.pods.includes(text) }),
        );
      };
      const maglev = (ids: readonly number[]): number[] => {
        const named = ids.map((id) => ({ name: world.backends.get(id)!.text, weight: 1 }));
        return [...maglevTable(named, PRIME)].map((at) => ids[at]!);
      };
      const table = (ids: readonly number[], options: Partial<Table> = {}): Table => ({
        ids: options.hash ? maglev(ids) : ids,
        hash: false,
        drop: false,
        local: false,
        ...options,
      });
      const put = (text: string, port: number, options: Partial<Frontend> = {}): void =>
        world.addFrontend({
          ...{
            text,
            port,
            protocol,
            service,
            affinity: false,
            keep: false,
            ranges: false,
            kind: 0,
            dsr: undefined,
          },
          ...{ inside: table([]), outside: table([]) },
          ...options,
        });
      const near = (ids: readonly number[]) =>
        ids.filter((id) => (world.backends.get(id)!.flags & BACKEND.NEAR) !== 0);

      // A ClusterIP with two ports before the same pods, and a nodePort of policy Cluster.
      const web = members();
      put(family.vip(10), PORTS.plain, { inside: table(web), outside: table(web, { hash: true }) });
      put(family.vip(10), PORTS.local, { inside: table(near(web), { local: true }) });
      put(family.node, PORTS.node, { inside: table(web), outside: table(web, { hash: true }) });
      // Another one before the same addresses: client ports pass from VIP to VIP.
      const second = members([family.pods[1]!]);
      // Among nodes a packet may be answered without showing who was chosen at random.
      const anyone = table(second, { hash: more !== undefined });
      put(family.vip(11), PORTS.plain, { inside: table(second), outside: anyone });
      // Affinity, by the client inside and by hash outside.
      const sticky = members();
      const outside = table(sticky, { hash: true });
      put(family.vip(12), PORTS.plain, { affinity: true, inside: table(sticky), outside });
      put(family.node, PORTS.node + 1, { affinity: true, inside: table(sticky), outside });
      // A load balancer's address with source ranges; the client's address is kept.
      const edge = members();
      const local = table(near(edge), { local: true, hash: true });
      put(family.balancer, PORTS.plain, { ranges: true, keep: true, inside: table(edge), outside: local });
      for (const cidr of ['172.20.0.0/24', 'fd00:20::/32', '10.244.1.5/32', 'fd00:10:244:1::5/128'])
        world.addSource(service, cidr);
      // The hash decides inside, too.
      const hashed = table(members(), { hash: true });
      put(family.vip(13), PORTS.plain, { inside: hashed, outside: hashed });
      // Nobody to forward to: refused, or dropped.
      service++;
      put(family.vip(14), PORTS.plain);
      const none = table([], { drop: true });
      put(family.vip(14), PORTS.local, { inside: none, outside: none });
      // Tables that name backends which are gone, or nobody.
      const partly = members();
      for (const id of partly.slice(2)) world.backends.get(id)!.flags = 0;
      put(family.vip(15), PORTS.plain, { inside: table(partly), outside: table(partly, { hash: true }) });
      put(family.vip(15), PORTS.local, { inside: table([0, partly[0]!]), outside: table([0]) });
      more?.(world, family, protocol, { members, table, put });
      for (const last of [10, 11, 12, 13, 14, 15]) if (protocol === 6) world.addClusterIP(family.vip(last));
    }
  return world;
}

/** Writes maps directly, so that they hold also what no plan asks for. */
export class WorldMaps {
  readonly #frontends: BpfMap;
  readonly #backends: BpfMap;
  readonly #tables: BpfMap;

  constructor(engine: EbpfEngine) {
    const { maps, programs } = engine;
    const { btf } = readObjectFile(readFileSync(distPath('bpf/lb_pod.bpf.o')), 'lb_pod');
    const types = new InnerTypes(btf, programs.get('lb_from_pod')!);
    const first = maps.lb_frontends.get(new Uint8Array(4))!;
    this.#frontends = mapById(viewOf(first).getUint32(0, true), 'lb_frontends');
    const chunk = (outer: BpfMap, valueSize: number): BpfMap => {
      const made = BpfMap.create(
        { name: outer.name, type: MAP_TYPE.ARRAY, keySize: 4, valueSize, maxEntries: CHUNK },
        types.of(outer.name),
      );
      outer.setFd(new Uint8Array(4), made);
      return made;
    };
    this.#backends = chunk(maps.lb_backends, backendStruct.size);
    this.#tables = chunk(maps.lb_tables, LINE_BYTES);
    types.close();
  }

  write(world: World, engine: EbpfEngine): void {
    engine.setServiceRanges(world.serviceRanges);
    for (const backend of world.backends.values()) this.writeBackend(backend);
    const one = new Uint8Array(4).fill(1, 0, 1);
    for (const { service, cidr } of world.sources)
      engine.maps.lb_source_ranges.set(encodeSource(service, cidr), one);
    const addressAsSuch = (flags: number) =>
      frontendStruct.encode({
        ...{ id: 1, service: 0, flags, affinity_s: 0 },
        ...{ inside_line: 0, inside_size: 0, outside_line: 0, outside_size: 0 },
      });
    for (const text of world.clusterIPs)
      this.#frontends.set(encodeEndpoint(text, 0, 0), addressAsSuch(FRONTEND.WILDCARD));
    for (const text of world.notOurs)
      this.#frontends.set(encodeEndpoint(text, 0, 0), addressAsSuch(FRONTEND.WILDCARD | FRONTEND.NOT_OURS));
    let line = 1;
    const putTable = ({ ids }: Table): number => {
      const first = line;
      for (let at = 0; at < ids.length; at += LINE_ENTRIES) {
        const value = new Uint8Array(LINE_BYTES);
        for (const [place, id] of ids.slice(at, at + LINE_ENTRIES).entries())
          viewOf(value).setUint32(place * 4, id, true);
        this.#tables.set(u32(line++), value);
      }
      return first;
    };
    world.frontends.forEach((frontend, at) => {
      const { inside, outside } = frontend;
      const flags =
        (inside.drop ? FRONTEND.INSIDE_DROP : 0) |
        (outside.drop ? FRONTEND.OUTSIDE_DROP : 0) |
        (inside.hash ? FRONTEND.INSIDE_HASH : 0) |
        (outside.hash ? FRONTEND.OUTSIDE_HASH : 0) |
        (inside.local ? FRONTEND.INSIDE_LOCAL : 0) |
        (outside.local ? FRONTEND.OUTSIDE_LOCAL : 0) |
        (frontend.keep ? FRONTEND.OUTSIDE_KEEP : 0) |
        (frontend.ranges ? FRONTEND.RANGES : 0) |
        (frontend.dsr ? FRONTEND.DSR : 0) |
        (frontend.dsr === 'option' ? FRONTEND.DSR_OPTION : 0) |
        (frontend.kind << FRONTEND.KIND_SHIFT);
      const value = frontendStruct.encode({
        id: at + 2,
        service: frontend.service,
        flags,
        affinity_s: frontend.affinity ? 10_800 : 0,
        inside_line: putTable(inside),
        inside_size: inside.ids.length,
        outside_line: putTable(outside),
        outside_size: outside.ids.length,
      });
      this.#frontends.set(encodeEndpoint(frontend.text, frontend.port, frontend.protocol), value);
    });
  }

  writeBackend({ id, text, port, protocol, service, flags }: Backend): void {
    const address = new Uint8Array(16);
    writeAddress(address, 0, text);
    const value = backendStruct.encode({ address, port, protocol, flags, service, spare: new Uint8Array(8) });
    this.#backends.set(u32(id), value);
  }

  close(): void {
    for (const map of [this.#frontends, this.#backends, this.#tables]) map.close();
  }
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value, true);
  return bytes;
}
