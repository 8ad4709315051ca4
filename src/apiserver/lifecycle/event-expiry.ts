/** Events are notes, not state: they go an hour after they were last seen, as in Kubernetes (--event-ttl). */
import { isNetError } from '../../errors/net-error.ts';
import type { Event } from '../../model/kubernetes.ts';
import { deleteObject } from '../registry/deletion.ts';
import { objectOf } from '../registry/objects.ts';
import type { Registry } from '../registry/registry.ts';
import { prefixOf, resourceOfKind } from '../resources.ts';

const TTL_MS = 3_600_000;

interface AnyEvent extends Event {
  series?: { lastObservedTime?: string };
}

const lastSeen = (event: AnyEvent) =>
  Date.parse(
    event.series?.lastObservedTime ??
      event.lastTimestamp ??
      event.eventTime ??
      event.metadata.creationTimestamp ??
      '',
  );

/** Deletes what is older; returns how many went. */
export async function expireEvents(registry: Registry): Promise<number> {
  const resource = resourceOfKind('Event');
  const limit = registry.clock().getTime() - TTL_MS;
  const old = [...registry.store.range(prefixOf(resource, undefined))]
    .map((entry) => objectOf(entry) as AnyEvent)
    .filter((event) => !(lastSeen(event) > limit));
  for (const { metadata } of old)
    await deleteObject(registry, resource, metadata.namespace, metadata.name, {}).catch((error: unknown) => {
      if (!isNetError(error, 'API_NOT_FOUND')) throw error;
    });
  return old.length;
}
