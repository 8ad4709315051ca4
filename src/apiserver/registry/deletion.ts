/**
 * Deletion in its stages.
 *
 *   DELETE ► deletionTimestamp (when finalizers or a grace period hold the object) ► finalizers go, one by one,
 *            by updates of their owners ► the last update removes the object
 *
 * How dependents fare is a finalizer, too: `foregroundDeletion` waits for them, `orphan` cuts them loose, and
 * without either they are collected after their owner is gone (`lifecycle/garbage.ts`).
 */
import { apiError } from '../../errors/api.ts';
import type { KubeObject, Namespace } from '../../model/kubernetes.ts';
import type { Resource } from '../resources.ts';
import { timeText } from './objects.ts';
import { conflict, type Registry, type Written } from './registry.ts';

export type Propagation = 'Foreground' | 'Background' | 'Orphan';

export interface DeleteOptions {
  readonly dryRun?: boolean;
  readonly gracePeriodSeconds?: number;
  readonly propagation?: Propagation;
  readonly uid?: string;
  readonly resourceVersion?: string;
  /** Last look at the object before it is deleted; throws to refuse. */
  readonly check?: (object: KubeObject) => void;
}

export const FOREGROUND = 'foregroundDeletion';
export const ORPHAN = 'orphan';

/** Deletes one object, or marks it for deletion; `removed` says which. @throws API_NOT_FOUND, API_CONFLICT, API_FORBIDDEN */
export async function deleteObject(
  registry: Registry,
  resource: Resource,
  namespace: string | undefined,
  name: string,
  options: DeleteOptions,
): Promise<Written> {
  const strategy = registry.strategyOf(resource);
  return registry.update(
    resource,
    namespace,
    name,
    (current) => {
      const next = current!;
      const meta = next.metadata;
      options.check?.(next);
      if (options.uid !== undefined && options.uid !== meta.uid)
        throw conflict(
          resource,
          name,
          `Precondition failed: UID in precondition: ${options.uid}, UID in object meta: ${meta.uid}`,
        );
      if (options.resourceVersion !== undefined && options.resourceVersion !== meta.resourceVersion)
        throw conflict(
          resource,
          name,
          `Precondition failed: ResourceVersion in precondition: ${options.resourceVersion}, ResourceVersion in object meta: ${meta.resourceVersion}`,
        );
      const refusal = strategy.refuseDelete?.(next);
      if (refusal !== undefined)
        throw apiError('API_FORBIDDEN', {
          group: resource.schema.group,
          resource: resource.schema.plural,
          name,
          why: refusal,
        });
      markDeleted(
        next,
        registry.clock(),
        strategy.gracePeriodSeconds?.(next, options.gracePeriodSeconds) ?? 0,
      );
      setPropagation(next, options.propagation);
      if (resource.stored.kind === 'Namespace')
        (next as Namespace).status = { ...(next as Namespace).status, phase: 'Terminating' };
      return { next };
    },
    { subresource: 'delete', ...(options.dryRun && { dryRun: true }) },
  );
}

function markDeleted(object: KubeObject, now: Date, graceSeconds: number): void {
  const meta = object.metadata;
  const before = meta.deletionGracePeriodSeconds;
  // A later delete may shorten the wait, never lengthen it.
  if (meta.deletionTimestamp !== undefined && before !== undefined && graceSeconds >= before) return;
  if (meta.deletionTimestamp === undefined && meta.generation !== undefined) meta.generation++;
  meta.deletionTimestamp = timeText(new Date(now.getTime() + graceSeconds * 1000));
  meta.deletionGracePeriodSeconds = graceSeconds;
}

function setPropagation(object: KubeObject, propagation: Propagation | undefined): void {
  if (propagation === undefined) return;
  const kept = (object.metadata.finalizers ?? []).filter((name) => name !== FOREGROUND && name !== ORPHAN);
  if (propagation === 'Foreground') kept.push(FOREGROUND);
  if (propagation === 'Orphan') kept.push(ORPHAN);
  if (kept.length > 0) object.metadata.finalizers = kept;
  else delete object.metadata.finalizers;
}
