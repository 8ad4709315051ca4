/** Answers as values, so that handlers can be tested without sockets. */

export interface ApiResponse {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string | readonly string[]>>;
  /** Pieces are joined without separator; a long list comes as an iterable so that it is never one string. */
  readonly body?: string | Uint8Array | Iterable<string>;
  /** Takes over the connection after the head is sent: watches and logs. */
  readonly stream?: (sink: StreamSink) => void | Promise<void>;
}

/** Where a streaming answer goes. */
export interface StreamSink {
  /** False when the client is so far behind that the stream was cut. */
  write(text: string | Uint8Array): boolean;
  end(): void;
  /** Aborts when the client went away or the server stops. */
  readonly signal: AbortSignal;
}

export const JSON_TYPE = 'application/json';

export function jsonResponse(
  status: number,
  value: unknown,
  headers?: Record<string, string | readonly string[]>,
): ApiResponse {
  return { status, headers: { 'content-type': JSON_TYPE, ...headers }, body: JSON.stringify(value) };
}

/** JSON text that exists already. */
export function textResponse(status: number, text: string | Iterable<string>, type = JSON_TYPE): ApiResponse {
  return { status, headers: { 'content-type': type }, body: text };
}

/** Values of the `Warning` header: RFC 9111 section 5.5, as kubectl prints them. */
export function warningHeader(warnings: readonly string[]): Record<string, readonly string[]> {
  if (warnings.length === 0) return {};
  return {
    warning: warnings.map(
      (text) => `299 - "${text.replace(/["\\]/g, '\\$&').replace(/[^\x20-\x7e]/g, '?')}"`,
    ),
  };
}
