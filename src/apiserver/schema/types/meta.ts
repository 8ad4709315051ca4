/** meta/v1: what every object carries, and the shapes that only requests and answers have. */
import {
  bool,
  int32,
  int64,
  list,
  obj,
  ptr,
  raw,
  req,
  type StructType,
  str,
  stringMap,
  strings,
  struct,
  time,
} from './field.ts';

export const ownerReference = struct(
  'meta.v1.OwnerReference',
  'Identifies an object that owns this one, in the same namespace or cluster-scoped.',
  {
    apiVersion: req(str('API version of the owner.')),
    kind: req(str('Kind of the owner.')),
    name: req(str('Name of the owner.')),
    uid: req(str('UID of the owner; an owner of the same name but another UID does not count.')),
    controller: ptr(bool('True when the owner is the managing controller; at most one owner may say so.')),
    blockOwnerDeletion: ptr(
      bool('True keeps the owner until this object is gone, when the owner is deleted in the foreground.'),
    ),
  },
  { atomic: true },
);

export const managedFieldsEntry = struct(
  'meta.v1.ManagedFieldsEntry',
  'The fields that one manager set with one kind of request.',
  {
    manager: str('Name of the client that set the fields.'),
    operation: str('Apply or Update.'),
    apiVersion: str('API version in which the fields are named.'),
    time: ptr(time('When the manager last changed its set of fields.')),
    fieldsType: str('Format of fieldsV1; always FieldsV1.'),
    fieldsV1: ptr(obj(() => fieldsV1, 'The fields, as a tree of f:, k: and v: members.')),
    subresource: str('Subresource through which the fields were set, empty for the object itself.'),
  },
);

/** A FieldsV1 tree is free JSON to everyone but the field-set code. */
export const fieldsV1 = struct(
  'meta.v1.FieldsV1',
  'A set of fields, as a tree of f:, k: and v: members.',
  {},
);

export const objectMeta = struct('meta.v1.ObjectMeta', 'Data that every stored object has.', {
  name: str('Name, unique within the namespace and the kind. Cannot be changed.'),
  generateName: str('Prefix for a name that the server makes unique, used when name is empty.'),
  namespace: str('Namespace that holds the object; empty for cluster-scoped kinds. Cannot be changed.'),
  selfLink: str('Not set any more.'),
  uid: str('Identity of this object in time and space, set by the server.'),
  resourceVersion: str('Opaque version of the object; send it back to update only if nothing changed since.'),
  generation: int64('Counts changes of the desired state, set by the server.'),
  creationTimestamp: time('When the object was created, set by the server.'),
  deletionTimestamp: ptr(time('When deletion was asked for; the object goes once its finalizers are gone.')),
  deletionGracePeriodSeconds: ptr(
    int64('Seconds that the object may take to end after deletion was asked for.'),
  ),
  labels: stringMap('Keys and values by which objects are selected.'),
  annotations: stringMap('Keys and values for tools; not selectable.'),
  ownerReferences: list(
    () => ownerReference,
    { keys: ['uid'], merge: 'uid' },
    'Objects that own this one; it is deleted when all of them are gone.',
  ),
  finalizers: strings('What must happen before the object may go; removed by those who do it.', {
    set: true,
    merge: true,
  }),
  managedFields: ptr(
    list(() => managedFieldsEntry, {}, 'Who set which fields; kept by the server for apply.'),
  ),
});

export const listMeta = struct('meta.v1.ListMeta', 'Data that every list has.', {
  selfLink: str('Not set any more.'),
  resourceVersion: str('Version of the store at which the list was read; start a watch from it.'),
  continue: str('Token for the next page; empty on the last page.'),
  remainingItemCount: ptr(int64('Items after this page, when the server knows.')),
});

export const labelSelectorRequirement = struct(
  'meta.v1.LabelSelectorRequirement',
  'One requirement on a label.',
  {
    key: req(str('Label key.')),
    operator: req(str('In, NotIn, Exists or DoesNotExist.')),
    values: strings('Values for In and NotIn; empty for the others.'),
  },
);

export const labelSelector = struct(
  'meta.v1.LabelSelector',
  'Selects objects by label; all requirements must hold. An empty selector matches everything.',
  {
    matchLabels: stringMap('Labels that must have exactly these values.'),
    matchExpressions: list(() => labelSelectorRequirement, {}, 'Further requirements.'),
  },
  { atomic: true },
);

export const condition = struct('meta.v1.Condition', 'One aspect of the current state of an object.', {
  type: req(str('Name of the condition, CamelCase.')),
  status: req(str('True, False or Unknown.')),
  observedGeneration: int64('metadata.generation that the condition was computed from.'),
  lastTransitionTime: req(time('When the status last changed.')),
  reason: req(str('Why, one CamelCase word.')),
  message: req(str('Details for a person.')),
});

export const statusCause = struct('meta.v1.StatusCause', 'One cause of a failure.', {
  reason: str('Machine readable cause.'),
  message: str('Cause for a person.'),
  field: str('Path of the field at fault.'),
});

export const statusDetails = struct('meta.v1.StatusDetails', 'Further data about a failure.', {
  name: str('Name of the object.'),
  group: str('Group of the object.'),
  kind: str('Kind of the object.'),
  uid: str('UID of the object.'),
  causes: list(() => statusCause, {}, 'All causes.'),
  retryAfterSeconds: int32('Try again after this many seconds.'),
});

export const status = struct('meta.v1.Status', 'The answer to a request that returns no object.', {
  apiVersion: str('Version of this schema.'),
  kind: str('Status.'),
  metadata: obj(() => listMeta, 'Standard list metadata.'),
  status: str('Success or Failure.'),
  message: str('What happened, for a person.'),
  reason: str('Machine readable reason of a failure.'),
  details: ptr(obj(() => statusDetails, 'Further data, by reason.')),
  code: int32('HTTP status code.'),
});

export const preconditions = struct('meta.v1.Preconditions', 'What must hold before a deletion.', {
  uid: ptr(str('UID that the object must have.')),
  resourceVersion: ptr(str('resourceVersion that the object must have.')),
});

export const deleteOptions = struct('meta.v1.DeleteOptions', 'Options of a DELETE request.', {
  apiVersion: str('Version of this schema.'),
  kind: str('DeleteOptions.'),
  gracePeriodSeconds: ptr(int64('Seconds until the object must be gone; 0 is at once.')),
  preconditions: ptr(obj(() => preconditions, 'What must hold, else the answer is 409.')),
  orphanDependents: ptr(bool('Older form of propagationPolicy Orphan.')),
  propagationPolicy: ptr(str('Orphan, Background or Foreground.')),
  dryRun: strings('"All" checks the request without storing anything.'),
  ignoreStoreReadErrorWithClusterBreakingPotential: ptr(bool('Not supported by this server.')),
});

export const watchEvent = struct('meta.v1.WatchEvent', 'One event of a watch stream.', {
  type: req(str('ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.')),
  object: req(raw('The object after the change, or a Status for ERROR.')),
});

/** The table of a top-level kind: apiVersion, kind and metadata around its own fields. */
export function topLevel(
  name: string,
  doc: string,
  fields: Record<string, ReturnType<typeof str>>,
): StructType {
  return struct(name, doc, {
    apiVersion: str('Version of the schema of this object.'),
    kind: str('Kind of this object.'),
    metadata: obj(() => objectMeta, 'Standard object metadata.'),
    ...fields,
  });
}

/** The table of the list of a kind. */
export function listOf(item: StructType): StructType {
  return struct(`${item.name}List`, `A list of ${item.name.split('.').at(-1)} objects.`, {
    apiVersion: str('Version of the schema of this list.'),
    kind: str('Kind of this list.'),
    metadata: obj(() => listMeta, 'Standard list metadata.'),
    items: req(list(item, {}, 'The objects.')),
  });
}
