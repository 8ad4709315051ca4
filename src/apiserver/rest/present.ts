/** Stored entries as the text that a client asked for. */
import type { KubeObject } from '../../model/kubernetes.ts';
import type { StoreEntry } from '../../store/types.ts';
import { objectOf } from '../registry/objects.ts';
import type { Resource } from '../resources.ts';
import { groupVersionOf } from '../schema/index.ts';
import { type IncludeObject, tableOf } from '../table/table.ts';
import { fromStored } from './convert.ts';
import type { ObjectFormat } from './formats.ts';
import type { ListMeta } from './list-meta.ts';

/** Pieces of a long list are joined up to this many characters: few writes, and no list in one string. */
const PIECE_CHARACTERS = 1 << 18;

export class Presenter {
  readonly #resource: Resource;
  readonly #format: ObjectFormat;
  readonly #includeObject: IncludeObject;
  readonly #now: () => Date;
  readonly #raw: boolean;

  constructor(resource: Resource, format: ObjectFormat, includeObject: IncludeObject, now: () => Date) {
    this.#resource = resource;
    this.#format = format;
    this.#includeObject = includeObject;
    this.#now = now;
    this.#raw = format.as === 'object' && resource.stored === resource.schema;
  }

  get contentType(): string {
    if (this.#format.as === 'object') return 'application/json';
    const as = this.#format.as === 'table' ? 'Table' : 'PartialObjectMetadata';
    return `application/json;as=${as};g=meta.k8s.io;v=${this.#format.version}`;
  }

  /** One object. `headers` is false for all but the first event of a watch: tables then leave out the columns. */
  one(entry: StoreEntry, headers = true): string {
    if (this.#raw) return entry.value;
    return JSON.stringify(this.oneValue(this.object(entry), headers));
  }

  /** The same for an object that is not stored, such as the result of a dry run. */
  oneValue(object: KubeObject, headers = true): unknown {
    switch (this.#format.as) {
      case 'object':
        return object;
      case 'partial':
        return this.#partial(object);
      case 'table':
        return this.#table([object], { resourceVersion: object.metadata.resourceVersion ?? '' }, headers);
    }
  }

  /** The object as the client's version of the kind has it. */
  object(entry: StoreEntry): KubeObject {
    return fromStored(this.#resource, objectOf(entry));
  }

  *list(entries: readonly StoreEntry[], meta: ListMeta): Generator<string> {
    const { schema } = this.#resource;
    if (this.#format.as === 'table') {
      yield JSON.stringify(
        this.#table(
          entries.map((entry) => this.object(entry)),
          meta,
          true,
        ),
      );
      return;
    }
    const [apiVersion, kind] =
      this.#format.as === 'partial'
        ? [`meta.k8s.io/${this.#format.version}`, 'PartialObjectMetadataList']
        : [groupVersionOf(schema), `${schema.kind}List`];
    let piece = `{"kind":"${kind}","apiVersion":"${apiVersion}","metadata":${JSON.stringify(meta)},"items":[`;
    for (let i = 0; i < entries.length; i++) {
      if (i > 0) piece += ',';
      piece += this.one(entries[i]!);
      if (piece.length < PIECE_CHARACTERS) continue;
      yield piece;
      piece = '';
    }
    yield `${piece}]}`;
  }

  /** The object of a BOOKMARK event: nothing but a revision. */
  bookmark(revision: number, initialEnd: boolean): string {
    const metadata = {
      ...(initialEnd && { annotations: { 'k8s.io/initial-events-end': 'true' } }),
      resourceVersion: String(revision),
      creationTimestamp: null,
    };
    if (this.#format.as === 'table')
      return JSON.stringify(this.#table([], { resourceVersion: String(revision) }, false));
    const [apiVersion, kind] =
      this.#format.as === 'partial'
        ? [`meta.k8s.io/${this.#format.version}`, 'PartialObjectMetadata']
        : [groupVersionOf(this.#resource.schema), this.#resource.schema.kind];
    return JSON.stringify({ kind, apiVersion, metadata });
  }

  #partial(object: KubeObject): unknown {
    return {
      kind: 'PartialObjectMetadata',
      apiVersion: `meta.k8s.io/${this.#format.version}`,
      metadata: object.metadata,
    };
  }

  #table(objects: readonly KubeObject[], meta: ListMeta, headers: boolean): unknown {
    return tableOf(this.#resource.schema, objects, {
      version: this.#format.version,
      meta,
      headers,
      includeObject: this.#includeObject,
      now: this.#now(),
    });
  }
}
