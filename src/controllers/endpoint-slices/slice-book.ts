/**
 * Our slices by Service, including what we wrote a moment ago and the watch has not told us yet. Without this the
 * next reconcile would plan on old data: create a second slice beside the first, or write over its own update.
 */
import type { Reflector } from '../../client/index.ts';
import type { EndpointSlice } from '../../model/kubernetes.ts';
import type { SliceView } from './types.ts';

const keyOfSlice = (slice: SliceView) => `${slice.namespace}/${slice.name}`;
const serviceKeyOf = (slice: SliceView) => `${slice.namespace}/${slice.serviceName}`;

/** True if `a` was written before `b`; revisions are decimal numbers of any length. */
export function isOlder(a: string, b: string): boolean {
  return a.length === b.length ? a < b : a.length < b.length;
}

export class SliceBook {
  readonly #reflector: Pick<Reflector<EndpointSlice, SliceView>, 'items' | 'resourceVersion'>;
  /** Slice key to what is known of it. */
  readonly #slices = new Map<string, SliceView>();
  /** Slice key to the uid that we deleted. */
  readonly #deleted = new Map<string, string>();
  readonly #byService = new Map<string, Set<string>>();

  constructor(reflector: Pick<Reflector<EndpointSlice, SliceView>, 'items' | 'resourceVersion'>) {
    this.#reflector = reflector;
  }

  /** Slices of a Service. */
  of(serviceKey: string): SliceView[] {
    return [...(this.#byService.get(serviceKey) ?? [])].sort().map((key) => this.#slices.get(key)!);
  }

  /** The watch told of a slice. Returns the Services concerned, none when it was our own write coming back. */
  changed(key: string): string[] {
    const told = this.#reflector.items.get(key);
    const known = this.#slices.get(key);
    if (!told) {
      const ours = this.#deleted.delete(key);
      if (known) this.#drop(key, known);
      return known && !ours ? [serviceKeyOf(known)] : [];
    }
    if (this.#deleted.get(key) === told.uid) return [];
    if (known && known.uid === told.uid && !isOlder(known.version, told.version)) return [];
    if (known) this.#drop(key, known);
    this.#add(key, told);
    const concerned = new Set([serviceKeyOf(told)]);
    if (known) concerned.add(serviceKeyOf(known));
    return [...concerned];
  }

  /** We wrote a slice and got this back. False when the watch has already told that it is gone again. */
  written(slice: SliceView): boolean {
    const key = keyOfSlice(slice);
    const known = this.#slices.get(key);
    const seen = this.#reflector.resourceVersion;
    if (!this.#reflector.items.has(key) && seen !== undefined && !isOlder(seen, slice.version)) {
      if (known) this.#drop(key, known);
      return false;
    }
    if (known && known.uid === slice.uid && isOlder(slice.version, known.version)) return true;
    if (known) this.#drop(key, known);
    this.#deleted.delete(key);
    this.#add(key, slice);
    return true;
  }

  /** What the server has now counts, even if it looks older. */
  reread(slice: SliceView): void {
    const key = keyOfSlice(slice);
    const known = this.#slices.get(key);
    if (known) this.#drop(key, known);
    this.#add(key, slice);
  }

  /** We deleted a slice, or found it gone. */
  removed(slice: SliceView): void {
    const key = keyOfSlice(slice);
    const known = this.#slices.get(key);
    if (known?.uid === slice.uid) this.#drop(key, known);
    if (this.#reflector.items.get(key)?.uid === slice.uid) this.#deleted.set(key, slice.uid);
  }

  #add(key: string, slice: SliceView): void {
    this.#slices.set(key, slice);
    const service = serviceKeyOf(slice);
    this.#byService.set(service, (this.#byService.get(service) ?? new Set()).add(key));
  }

  #drop(key: string, slice: SliceView): void {
    this.#slices.delete(key);
    const service = serviceKeyOf(slice);
    const keys = this.#byService.get(service);
    if (keys?.delete(key) && keys.size === 0) this.#byService.delete(service);
  }
}
