/** `Table` answers (meta.k8s.io): what `kubectl get` prints. */
import type { KubeObject } from '../../model/kubernetes.ts';
import type { ListMeta } from '../rest/list-meta.ts';
import type { KindSchema } from '../schema/index.ts';
import { columnsOf } from './columns.ts';

export type IncludeObject = 'None' | 'Metadata' | 'Object';

export interface TableOptions {
  readonly version: 'v1' | 'v1beta1';
  readonly meta: ListMeta;
  /** Without headers in all but the first event of a watch. */
  readonly headers: boolean;
  readonly includeObject: IncludeObject;
  readonly now: Date;
}

export function tableOf(schema: KindSchema, objects: readonly KubeObject[], options: TableOptions): unknown {
  const { columns, cells } = columnsOf(schema);
  const apiVersion = `meta.k8s.io/${options.version}`;
  const included = (object: KubeObject) => {
    if (options.includeObject === 'Object') return { object };
    if (options.includeObject === 'None') return {};
    return { object: { kind: 'PartialObjectMetadata', apiVersion, metadata: object.metadata } };
  };
  return {
    kind: 'Table',
    apiVersion,
    metadata: options.meta,
    columnDefinitions: options.headers ? columns : null,
    rows: objects.map((object) => ({ cells: cells(object, options.now), ...included(object) })),
  };
}
