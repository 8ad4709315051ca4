/** Objects as text in the store and as values in memory, and the metadata that the server itself writes. */
import { randomInt, randomUUID } from 'node:crypto';
import type { KubeObject } from '../../model/kubernetes.ts';
import type { StoreEntry } from '../../store/types.ts';

/** What a writer may read and must not change; parsed once while anyone needs it. */
export function objectOf(entry: StoreEntry): KubeObject {
  const known = entry.memo?.deref();
  if (known) return known as KubeObject;
  const object = JSON.parse(entry.value) as KubeObject;
  entry.memo = new WeakRef(object);
  return object;
}

/** A private copy that may be changed. */
export const copyOf = (entry: StoreEntry): KubeObject => JSON.parse(entry.value) as KubeObject;

/** The text of an object as of `revision`, with apiVersion, kind and metadata first as people expect them. */
export function textOf(object: KubeObject, revision: number): string {
  const { apiVersion, kind, metadata, ...rest } = object;
  return JSON.stringify({
    apiVersion,
    kind,
    metadata: { ...metadata, resourceVersion: String(revision) },
    ...rest,
  });
}

/** RFC 3339 in UTC with whole seconds, as metav1.Time. */
export const timeText = (time: Date) => `${time.toISOString().slice(0, 19)}Z`;

/** RFC 3339 with microseconds, as metav1.MicroTime. */
export const microTimeText = (time: Date) => `${time.toISOString().slice(0, 23)}000Z`;

/** Letters and digits without vowels and look-alikes: apimachinery/pkg/util/rand. */
const NAME_ALPHABET = 'bcdfghjklmnpqrstvwxz2456789';
const MAX_GENERATED_PREFIX = 58;

export function generateName(prefix: string): string {
  let suffix = '';
  for (let i = 0; i < 5; i++) suffix += NAME_ALPHABET[randomInt(NAME_ALPHABET.length)];
  return prefix.slice(0, MAX_GENERATED_PREFIX) + suffix;
}

export const newUid = (): string => randomUUID();
