/** In which form a client wants objects: whole, metadata only, or as a table. */
import { apiError } from '../../errors/api.ts';

export interface ObjectFormat {
  readonly as: 'object' | 'partial' | 'table';
  /** Version of meta.k8s.io for `partial` and `table`. */
  readonly version: 'v1' | 'v1beta1';
}

const OFFERED = 'application/json';

/** One alternative of an Accept header with its parameters, in lower case. */
export interface MediaRange {
  readonly type: string;
  readonly parameters: Readonly<Record<string, string>>;
}

/** The alternatives of an Accept header, best first (by q, then by order). */
export function parseAccept(header: string | undefined): MediaRange[] {
  if (header === undefined || header.trim() === '') return [{ type: '*/*', parameters: {} }];
  const ranges = header.split(',').map((part) => {
    const [type, ...rest] = part.split(';').map((piece) => piece.trim());
    const parameters = Object.fromEntries(
      rest.map((piece) => {
        const [name, value = ''] = piece.split('=', 2) as [string, string?];
        return [name.trim().toLowerCase(), value.trim().replace(/^"|"$/g, '')];
      }),
    );
    return { type: type!.toLowerCase(), parameters };
  });
  const quality = (range: MediaRange) => {
    const q = Number(range.parameters['q'] ?? 1);
    return Number.isNaN(q) ? 1 : q;
  };
  return ranges.filter((range) => quality(range) > 0).sort((a, b) => quality(b) - quality(a));
}

export const acceptsJson = (type: string) => type === OFFERED || type === '*/*' || type === 'application/*';

/** The first form in the Accept header that can be served. @throws API_NOT_ACCEPTABLE */
export function objectFormat(header: string | undefined): ObjectFormat {
  for (const { type, parameters } of parseAccept(header)) {
    if (!acceptsJson(type)) continue;
    const as = parameters['as'];
    if (as === undefined) return { as: 'object', version: 'v1' };
    const version = parameters['v'];
    if (parameters['g'] !== 'meta.k8s.io' || (version !== 'v1' && version !== 'v1beta1')) continue;
    if (as === 'Table') return { as: 'table', version };
    if (as === 'PartialObjectMetadata' || as === 'PartialObjectMetadataList')
      return { as: 'partial', version };
  }
  throw apiError('API_NOT_ACCEPTABLE', { accept: header ?? '', offered: OFFERED });
}
