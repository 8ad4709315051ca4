/**
 * What the API said last about nodes, kept for an agent that starts while the API server is away: with it the overlay
 * heals and pods can be added; without it the node would wait. It stands in only until the Nodes have been listed, and
 * nothing is ever removed because of it.
 */
import { hash } from 'node:crypto';
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import type { Log } from '../client/index.ts';
import type { NodeRecord } from '../overlay/index.ts';
import { isRecord, isTexts, keptText, parseKeptText, readKept } from './kept-text.ts';

export interface LastSeen {
  /** Whose view it is. */
  node: string;
  /** Pod CIDRs of this node. */
  podCidrs: readonly string[];
  /** The other nodes. */
  peers: readonly NodeRecord[];
}

const VERSION = 1;
/** So long changes are gathered; what a crash in between loses is asked of the API again. */
const GATHER_MS = 500;

/** The text of the file. */
export function lastSeenText({ node, podCidrs, peers }: LastSeen): string {
  return keptText({ version: VERSION, node }, { podCidrs, peers });
}

/** Reads such a text; undefined for another node's, another version's, and whatever else is not of this shape. */
export function parseLastSeen(text: string, node: string): LastSeen | undefined {
  const { podCidrs, peers } = parseKeptText(text, { version: VERSION, node }) ?? {};
  if (!isTexts(podCidrs) || !Array.isArray(peers) || !peers.every(isNodeRecord)) return undefined;
  return { node, podCidrs, peers };
}

function isNodeRecord(value: unknown): value is NodeRecord {
  if (!isRecord(value)) return false;
  const { name, annotations, podCidrs } = value;
  return (
    typeof name === 'string' &&
    isTexts(podCidrs) &&
    isRecord(annotations) &&
    isTexts(Object.values(annotations))
  );
}

/** The file, written a moment after a change and never half. Failures are logged once: it is only a help. */
export class LastSeenFile {
  readonly #path: string;
  readonly #node: string;
  readonly #log: Log;
  /** Digest of what the file holds. */
  #written: string | undefined;
  #next: (() => Omit<LastSeen, 'node'>) | undefined;
  #timer: NodeJS.Timeout | undefined;
  #failed = false;

  constructor(path: string, node: string, log: Log) {
    this.#path = path;
    this.#node = node;
    this.#log = log;
  }

  /** What an earlier agent of this node saw; undefined when there is nothing of use. */
  read(): LastSeen | undefined {
    return readKept(this.#path, (text) => parseLastSeen(text, this.#node));
  }

  /** Writes what `seen` says in a moment: to put a thousand peers together is not for every change of one. */
  save(seen: () => Omit<LastSeen, 'node'>): void {
    this.#next = seen;
    this.#timer ??= setTimeout(() => this.#write(), GATHER_MS).unref();
  }

  /** Writes what is still to be written. */
  close(): void {
    if (this.#timer) this.#write();
  }

  #write(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const text = lastSeenText({ ...this.#next!(), node: this.#node });
    const digest = hash('sha1', text);
    if (digest === this.#written) return;
    const draft = `${this.#path}.new`;
    try {
      writeFileSync(draft, text, { mode: 0o600 });
      renameSync(draft, this.#path);
      this.#written = digest;
    } catch (error) {
      rmSync(draft, { force: true });
      if (!this.#failed)
        this.#log.warn({ error: (error as Error).message }, 'what the API says cannot be kept for a restart');
      this.#failed = true;
    }
  }
}
