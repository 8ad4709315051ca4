/**
 * What the API said last about egress addresses, for an agent that starts while the API server is away: pods keep their
 * address, and new ones get it. It stands in only until Namespaces and Nodes have been listed.
 */
import { tryParseCidr, tryParseIp } from '../addr/index.ts';
import { claimsText, type EgressNode, readClaims } from '../egress/index.ts';
import { writeAtomically } from '../overlay/index.ts';
import { isRecord, isTexts, keptText, parseKeptText, readKept } from './kept-text.ts';

export interface EgressSeen {
  /** Annotations of the namespaces that have one. */
  readonly namespaces: ReadonlyMap<string, string>;
  readonly nodes: readonly EgressNode[];
}

const VERSION = 1;

export function egressSeenText(seen: EgressSeen, node: string): string {
  const nodes = seen.nodes.map(({ name, podCidrs, addresses, claims }) => ({
    name,
    podCidrs: podCidrs.map(String),
    addresses: addresses.map(String),
    held: claimsText(claims),
  }));
  const namespaces = Object.fromEntries(seen.namespaces);
  return keptText({ version: VERSION, node }, { namespaces, nodes });
}

/** Reads such a text; undefined for another node's, another version's, and whatever else is not of this shape. */
export function parseEgressSeen(text: string, node: string): EgressSeen | undefined {
  const { namespaces, nodes } = parseKeptText(text, { version: VERSION, node }) ?? {};
  if (!isRecord(namespaces) || !isTexts(Object.values(namespaces)) || !Array.isArray(nodes)) return undefined;
  const read = nodes.map(readNode);
  if (read.includes(undefined)) return undefined;
  return {
    namespaces: new Map(Object.entries(namespaces) as [string, string][]),
    nodes: read as EgressNode[],
  };
}

function readNode(value: unknown): EgressNode | undefined {
  if (!isRecord(value)) return undefined;
  const { name, podCidrs, addresses, held } = value;
  if (typeof name !== 'string' || !isTexts(podCidrs) || !isTexts(addresses) || typeof held !== 'string')
    return undefined;
  return {
    name,
    podCidrs: podCidrs.flatMap((text) => tryParseCidr(text) ?? []),
    addresses: addresses.flatMap((text) => tryParseIp(text) ?? []),
    claims: readClaims(held),
  };
}

export class EgressSeenFile {
  readonly #path: string;
  readonly #node: string;
  #written: string | undefined;

  constructor(path: string, node: string) {
    this.#path = path;
    this.#node = node;
  }

  read(): EgressSeen | undefined {
    return readKept(this.#path, (text) => parseEgressSeen(text, this.#node));
  }

  /** Failures do no harm now: it is only a help after a restart. */
  save(seen: EgressSeen): void {
    const text = egressSeenText(seen, this.#node);
    if (text === this.#written) return;
    try {
      writeAtomically(this.#path, text);
      this.#written = text;
    } catch {
      // The state directory's own trouble is told by whoever needs it.
    }
  }
}
