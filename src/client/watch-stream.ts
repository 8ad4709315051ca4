/**
 * A watch is an endless answer of JSON objects, one a line:
 *
 *     {"type":"ADDED","object":{...}}\n{"type":"BOOKMARK","object":{...}}\n
 *
 * Chunks of the connection end anywhere, also within a UTF-8 sequence, so lines are cut on bytes and only whole
 * lines are decoded.
 */
import { clientError } from '../errors/client.ts';
import type { KubeObject } from '../model/kubernetes.ts';

/** One event; a BOOKMARK's object has only kind, apiVersion and resourceVersion; an ERROR's is a Status. */
export interface WatchEvent<T extends KubeObject = KubeObject> {
  type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK' | 'ERROR';
  object: T;
}

const eventTypes: ReadonlySet<string> = new Set(['ADDED', 'MODIFIED', 'DELETED', 'BOOKMARK', 'ERROR']);
const newline = 0x0a;

/** Larger than any object that etcd takes (1.5 MiB), with room for JSON escapes. */
export const defaultLineLimitBytes = 8 * 1024 * 1024;

/** Cuts a byte stream into lines. Bytes of an unfinished line are kept, each byte is searched once. */
export class LineSplitter {
  readonly #limitBytes: number;
  readonly #request: string;
  #parts: Buffer[] = [];
  #kept = 0;

  constructor(request: string, limitBytes: number = defaultLineLimitBytes) {
    this.#request = request;
    this.#limitBytes = limitBytes;
  }

  /** Lines that `chunk` completes, without their newline. Throws CLIENT_LINE_TOO_LONG. */
  push(chunk: Buffer): string[] {
    const lines: string[] = [];
    let from = 0;
    for (let at = chunk.indexOf(newline); at >= 0; at = chunk.indexOf(newline, from)) {
      this.#keep(chunk.subarray(from, at));
      lines.push(this.#take());
      from = at + 1;
    }
    if (from < chunk.length) this.#keep(chunk.subarray(from));
    return lines;
  }

  /** Bytes of the line that has not ended. */
  get pendingBytes(): number {
    return this.#kept;
  }

  #keep(part: Buffer): void {
    this.#kept += part.length;
    if (this.#kept > this.#limitBytes)
      throw clientError('CLIENT_LINE_TOO_LONG', { request: this.#request, limitBytes: this.#limitBytes });
    this.#parts.push(part);
  }

  #take(): string {
    const line = this.#parts.length === 1 ? this.#parts[0]! : Buffer.concat(this.#parts);
    this.#parts = [];
    this.#kept = 0;
    return line.toString('utf8');
  }
}

/** Decodes one line of a watch. Throws CLIENT_BAD_RESPONSE for anything that is not an event. */
export function parseWatchLine(request: string, line: string): WatchEvent {
  let json: unknown;
  try {
    json = JSON.parse(line);
  } catch (cause) {
    throw clientError(
      'CLIENT_BAD_RESPONSE',
      { request, why: `a watch event is not JSON: ${line.slice(0, 80)}` },
      cause,
    );
  }
  const event = json as Partial<WatchEvent> | null;
  if (
    typeof event !== 'object' ||
    event === null ||
    typeof event.type !== 'string' ||
    !eventTypes.has(event.type) ||
    typeof event.object !== 'object' ||
    event.object === null
  )
    throw clientError('CLIENT_BAD_RESPONSE', {
      request,
      why: `a watch event lacks type or object: ${line.slice(0, 80)}`,
    });
  if (event.type !== 'ERROR' && typeof event.object.metadata?.resourceVersion !== 'string')
    throw clientError('CLIENT_BAD_RESPONSE', { request, why: 'an object lacks metadata.resourceVersion' });
  return event as WatchEvent;
}
