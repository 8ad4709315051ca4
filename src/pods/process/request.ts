import { podsError } from '../../errors/index.ts';

/** One mount instruction of the shim, in order; see native/pod-shim-mounts.h. */
export type MountOp =
  | { kind: 'layer'; source: string; places: { path: string; file: boolean }[] }
  | { kind: 'bind'; source: string; target: string; readonly: boolean }
  | { kind: 'shared'; source: string; target: string; readonly: boolean }
  | { kind: 'tmpfs'; target: string; size: string; mode: string }
  | { kind: 'proc' | 'dev' | 'mqueue' | 'mask' | 'readonly'; target: string }
  | { kind: 'sysfs'; target: string; readonly: boolean };

/** Fields of a request; lists are repeated, undefined ones left out. Names are those of native/pod-shim-request.h. */
export type ShimFields = Record<
  string,
  string | number | bigint | boolean | readonly (string | number)[] | undefined
>;

/** A request larger than this is refused by the shim. */
export const REQUEST_MAX_BYTES = 1 << 20;

/**
 * Encodes a request: NUL-ended words, `portolan-pod/1`, `key=value`, and an empty word at the end.
 * Throws PODS_BAD_REQUEST for a value with NUL in it and for a request above 1 MiB.
 */
export function encodeRequest(fields: ShimFields, mounts: readonly MountOp[] = []): Buffer {
  const words = ['portolan-pod/1'];
  const put = (key: string, value: string | number | bigint | boolean) => {
    const text = typeof value === 'boolean' ? (value ? '1' : '0') : String(value);
    if (text.includes('\0')) throw podsError('PODS_BAD_REQUEST', { field: key, why: 'it holds a NUL byte' });
    words.push(`${key}=${text}`);
  };
  for (const [key, value] of Object.entries(fields)) {
    if (value === undefined) continue;
    if (Array.isArray(value)) for (const one of value) put(key, one);
    else put(key, value as string | number | bigint | boolean);
  }
  for (const mount of mounts) {
    put('mount', mount.kind);
    if ('source' in mount) put('source', mount.source);
    put('target', 'target' in mount ? mount.target : mount.source);
    if ('size' in mount) put('size', mount.size);
    if ('mode' in mount) put('mode', mount.mode);
    if ('readonly' in mount) put('readonly', mount.readonly);
    if ('places' in mount)
      for (const place of mount.places) put(place.file ? 'place-file' : 'place-folder', place.path);
  }
  const request = Buffer.from(`${words.join('\0')}\0\0`);
  if (request.length > REQUEST_MAX_BYTES)
    throw podsError('PODS_BAD_REQUEST', {
      field: 'command and env',
      why: `they take ${request.length} bytes, at most ${REQUEST_MAX_BYTES}`,
    });
  return request;
}
