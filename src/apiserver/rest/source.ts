/** Where a resource's objects are read and watched: the store, or a view computed from it. */
import type { Store, StoreEntry, StoreEvent, Watch } from '../../store/types.ts';
import { keyOf, prefixOf, type Resource } from '../resources.ts';

export interface Source {
  readonly revision: number;
  get(namespace: string | undefined, name: string): StoreEntry | undefined;
  range(namespace: string | undefined, start?: string): Iterable<StoreEntry>;
  rangeAt(namespace: string | undefined, revision: number, start?: string): Iterable<StoreEntry>;
  count(namespace: string | undefined): number;
  watch(
    namespace: string | undefined,
    revision: number,
    listener: (events: readonly StoreEvent[]) => void,
  ): Watch;
}

export function storeSource(store: Store, resource: Resource): Source {
  const prefix = (namespace: string | undefined) => prefixOf(resource, namespace);
  return {
    get revision() {
      return store.revision;
    },
    get: (namespace, name) => store.get(keyOf(resource, namespace, name)),
    range: (namespace, start) => store.range(prefix(namespace), start),
    rangeAt: (namespace, revision, start) => store.rangeAt(prefix(namespace), revision, start),
    count: (namespace) => store.count(prefix(namespace)),
    watch: (namespace, revision, listener) => store.watch(prefix(namespace), revision, listener),
  };
}
