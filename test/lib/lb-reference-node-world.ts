/** The network around a node, for the reference of its packet programs: links, routes, neighbours, other nodes. */
import { parseCidr } from '../../src/addr/index.ts';
import { words } from './lb-reference-world.ts';

export interface Link {
  readonly name: string;
  readonly mtu: number;
  readonly mac: string;
  /** Addresses by which other nodes' backends answer, by family; none on a link that is no node's. */
  readonly source4?: string;
  readonly source6?: string;
  readonly overlay: boolean;
  /** Whether the programs know it as an interface of the node. */
  readonly known: boolean;
}

/** A route; without a link it is unreachable. Without `mac` the next hop is not known. */
export interface RouteSpec {
  readonly cidr: string;
  readonly link?: string;
  readonly via?: string;
  readonly mac?: string;
  /** The kernel makes it with the link's address. */
  readonly connected?: boolean;
}

export interface Way {
  readonly link: Link;
  /** Target and source of the frame; undefined: the kernel asks for the neighbour first. */
  readonly macs: Uint8Array | undefined;
  readonly gateway: boolean;
}

interface Route extends RouteSpec {
  readonly address: Uint32Array;
  readonly mask: Uint32Array;
  readonly bits: number;
  readonly way: Way | undefined;
}

export class Surroundings {
  readonly links: ReadonlyMap<string, Link>;
  readonly peers: readonly Uint32Array[];
  readonly routes: readonly Route[];

  constructor(links: readonly Link[], routes: readonly RouteSpec[], peers: readonly string[]) {
    this.links = new Map(links.map((link) => [link.name, link]));
    this.peers = peers.map(words);
    this.routes = routes.map((route) => this.#route(route)).sort((a, b) => b.bits - a.bits);
  }

  /** The longest prefix decides. Linux has no IPv6 route for what comes from a multicast address. */
  to(address: Uint32Array, from: Uint32Array): Way | undefined {
    const { routes } = this;
    if (from[0]! >>> 24 === 0xff) return undefined;
    for (let at = 0; at < routes.length; at++) {
      const { address: net, mask, way } = routes[at]!;
      let fits = true;
      for (let word = 3; word >= 0 && fits; word--)
        fits = (address[word]! & mask[word]!) >>> 0 === net[word]!;
      if (fits) return way;
    }
    return undefined;
  }

  #route(route: RouteSpec): Route {
    const { address, prefixLength, family } = parseCidr(route.cidr);
    const bits = prefixLength + (family === 4 ? 96 : 0);
    const mask = new Uint32Array(4).map((_, word) => {
      const own = Math.min(32, Math.max(0, bits - word * 32));
      return own === 0 ? 0 : (0xffff_ffff << (32 - own)) >>> 0;
    });
    const link = route.link === undefined ? undefined : this.links.get(route.link)!;
    const macs = link && route.mac ? Uint8Array.from([...macOf(route.mac), ...macOf(link.mac)]) : undefined;
    const way = link && { link, macs, gateway: route.via !== undefined };
    return { ...route, address: words(address.toString()), mask, bits, way };
  }
}

export function macOf(text: string): Uint8Array {
  return Uint8Array.from(text.split(':').map((byte) => Number.parseInt(byte, 16)));
}
