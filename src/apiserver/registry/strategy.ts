/** What the server itself does with the objects of one kind, beyond schema, defaulting and validation. */
import type { FieldCause } from '../../errors/api.ts';
import type { KubeObject } from '../../model/kubernetes.ts';

/** Something taken for an object that is not written yet. */
export interface Reservation {
  /** Gives back what was taken; called when the write did not happen. */
  undo(): void;
  /** Gives back what the object no longer has; called when the write is durable. */
  commit(): void;
}

export interface Strategy {
  /** Counts changes of everything but metadata and status in metadata.generation. */
  readonly generation?: boolean;
  /** PUT of a missing object creates it. */
  readonly createOnUpdate?: boolean;
  /** Resets what only the server or its controllers write. */
  prepareCreate?(object: KubeObject): void;
  /** The same for a change of the main resource; `next` starts with the status of `old` where the kind has one. */
  prepareUpdate?(next: KubeObject, old: KubeObject): void;
  /** For a change through the status subresource: `next` is `old` with the new status. */
  prepareStatus?(next: KubeObject, old: KubeObject): void;
  /** Refuses what depends on other objects. @returns causes for an Invalid answer */
  admit?(next: KubeObject, old: KubeObject | undefined): FieldCause[];
  /** Takes addresses, ports and the like, and writes them into `next`. @throws API_INVALID */
  allocate?(next: KubeObject, old: KubeObject | undefined): Reservation | undefined;
  /** Gives back what a removed object had. */
  release?(object: KubeObject): void;
  /** Why this object may not be deleted, or undefined. */
  refuseDelete?(object: KubeObject): string | undefined;
  /** Seconds that a deleted object stays for someone else to finish it; 0 removes it at once. */
  gracePeriodSeconds?(object: KubeObject, asked: number | undefined): number;
}
