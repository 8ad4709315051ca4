/**
 * Tells people about objects through core/v1 Events. The same event again raises the count of the first instead of
 * making a new object, and one object may cause only a burst of 25 and then one in five minutes (client-go's
 * spam filter), so that a failing loop cannot fill the store. Recording never throws and never waits.
 */
import { isNetError } from '../errors/net-error.ts';
import type { Event, KubeObject, ObjectReference } from '../model/kubernetes.ts';
import type { ApiClient } from './api-client.ts';
import type { Log } from './reflector.ts';
import { type Resource, resources } from './resources.ts';

/** Options of an {@link EventRecorder}. */
export interface EventRecorderOptions {
  client: ApiClient;
  /** Who reports, e.g. `portolan-agent`. */
  component: string;
  /** Name of the node that reports. */
  host?: string;
  log?: Log;
  /** Milliseconds since the epoch, Date.now by default. */
  now?: () => number;
  /** How many events an object may cause at once, 25 by default. */
  burst?: number;
}

/** What happened; same type, reason and message about the same object are one event. */
export interface Occurrence {
  type: 'Normal' | 'Warning';
  /** One CamelCase word. */
  reason: string;
  message: string;
}

interface Known {
  namespace: string;
  name: string;
  count: number;
  seenAt: number;
}

const refillMs = 300_000;
const forgetMs = 3_600_000;
const knownLimit = 4096;
/** core/v1 validation: a note has at most 1024 bytes. */
const messageLimit = 1024;
const queueLimit = 1000;

/** A reference to an object as Events carry it. */
export function referenceTo(object: KubeObject): ObjectReference {
  const { name, namespace, uid, resourceVersion } = object.metadata;
  return {
    apiVersion: object.apiVersion,
    kind: object.kind,
    name,
    ...(namespace && { namespace }),
    ...(uid && { uid }),
    ...(resourceVersion && { resourceVersion }),
  };
}

const sourceOf = ({ kind, namespace, name, uid }: ObjectReference) =>
  `${kind}/${namespace ?? ''}/${name}/${uid ?? ''}`;

const kindsByName: ReadonlyMap<string, Resource<KubeObject>> = new Map(
  Object.values(resources).map((of) => [`${of.group ? `${of.group}/` : ''}${of.version}/${of.kind}`, of]),
);

export class EventRecorder {
  readonly #options: EventRecorderOptions;
  readonly #now: () => number;
  readonly #known = new Map<string, Known>();
  readonly #tokens = new Map<string, { left: number; at: number }>();
  readonly #queue: (() => Promise<void>)[] = [];
  #working: Promise<void> | undefined;
  #serial = 0;

  constructor(options: EventRecorderOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /** Records that something happened to `about`. */
  record(about: ObjectReference, what: Occurrence): void {
    const now = this.#now();
    if (!this.#mayTell(sourceOf(about), now) || this.#queue.length >= queueLimit) return;
    this.#queue.push(() => this.#write(about, what, now));
    this.#working ??= this.#work();
  }

  /** Resolves when everything recorded so far was written or given up. */
  async flush(): Promise<void> {
    while (this.#working) await this.#working;
  }

  #mayTell(source: string, now: number): boolean {
    const burst = this.#options.burst ?? 25;
    const bucket = this.#tokens.get(source) ?? { left: burst, at: now };
    const refilled = Math.min(burst, bucket.left + (now - bucket.at) / refillMs);
    this.#tokens.delete(source);
    this.#tokens.set(source, { left: Math.max(0, refilled >= 1 ? refilled - 1 : refilled), at: now });
    if (this.#tokens.size > knownLimit) this.#tokens.delete(this.#tokens.keys().next().value!);
    return refilled >= 1;
  }

  async #work(): Promise<void> {
    for (let job = this.#queue.shift(); job !== undefined; job = this.#queue.shift()) {
      try {
        await job();
      } catch (error) {
        this.#options.log?.debug({ error: (error as Error).message }, 'an event could not be written');
      }
    }
    this.#working = undefined;
  }

  /**
   * The reference with the object's uid, without which `kubectl describe` does not find its Events. Agents know
   * thousands of objects by name only, and few cause Events.
   */
  async #identified(about: ObjectReference): Promise<ObjectReference> {
    const of = kindsByName.get(`${about.apiVersion}/${about.kind}`);
    if (about.uid || !of || !about.name) return about;
    const { name, namespace } = about;
    try {
      const found = await this.#options.client.get(
        of,
        { name, ...(namespace && { namespace }) },
        { retryForMs: 0 },
      );
      return { ...about, ...(found.metadata.uid && { uid: found.metadata.uid }) };
    } catch {
      // It is gone, or not ours to read: an Event without the uid is better than none.
      return about;
    }
  }

  async #write(named: ObjectReference, what: Occurrence, now: number): Promise<void> {
    const { client, component, host } = this.#options;
    const about = await this.#identified(named);
    const message = what.message.slice(0, messageLimit);
    const key = `${sourceOf(about)}/${what.type}/${what.reason}/${message}`;
    const known = this.#known.get(key);
    const at = new Date(now).toISOString().replace(/\.\d+Z$/, 'Z');
    if (known !== undefined && now - known.seenAt < forgetMs) {
      known.count++;
      known.seenAt = now;
      try {
        await client.patch(resources.events, known, { count: known.count, lastTimestamp: at });
        return;
      } catch (error) {
        if (!isNetError(error, 'CLIENT_NOT_FOUND')) throw error;
      }
    }
    // Events about cluster-scoped objects live in namespace default, as Kubernetes has it.
    const namespace = about.namespace ?? 'default';
    const name = `${about.name}.${(now * 1000 + (this.#serial++ % 1000)).toString(16)}`;
    const event: Event = {
      apiVersion: 'v1',
      kind: 'Event',
      metadata: { name, namespace },
      involvedObject: about,
      type: what.type,
      reason: what.reason,
      message,
      source: { component, ...(host && { host }) },
      firstTimestamp: at,
      lastTimestamp: at,
      count: 1,
      reportingComponent: component,
      reportingInstance: host ?? '',
    };
    await client.create(resources.events, event);
    this.#known.delete(key);
    this.#known.set(key, { namespace, name, count: 1, seenAt: now });
    if (this.#known.size > knownLimit) this.#known.delete(this.#known.keys().next().value!);
  }
}
