/** POST, PUT, PATCH and DELETE of objects. */
import { apiError } from '../../errors/api.ts';
import type { KubeObject } from '../../model/kubernetes.ts';
import { mediaTypeOf, parseBody, parseObjectBody, parseText } from '../http/body.ts';
import { type ApiRequest, flag, type ResourcePath, wholeNumber } from '../http/request.ts';
import { type ApiResponse, jsonResponse, textResponse, warningHeader } from '../http/response.ts';
import { applyPatch, type PatchType } from '../patch/index.ts';
import { type DeleteOptions, deleteObject, type Propagation } from '../registry/deletion.ts';
import { objectOf } from '../registry/objects.ts';
import type { Registry, Written } from '../registry/registry.ts';
import type { Resource } from '../resources.ts';
import { badRequest } from '../status.ts';
import { fromStored } from './convert.ts';
import { decodeBody, fieldValidationOf } from './decode.ts';
import { listEntries } from './list.ts';
import type { Presenter } from './present.ts';
import type { Source } from './source.ts';

export interface WriteContext {
  readonly registry: Registry;
  readonly resource: Resource;
  readonly source: Source;
  readonly path: ResourcePath;
  readonly request: ApiRequest;
  readonly presenter: Presenter;
}

const PATCH_TYPES: Readonly<Record<string, PatchType>> = {
  'application/json-patch+json': 'json',
  'application/merge-patch+json': 'merge',
  'application/strategic-merge-patch+json': 'strategic',
  'application/apply-patch+yaml': 'apply',
  'application/apply-patch+cbor': 'apply',
};

/** Who changes fields: the fieldManager parameter, else the name of the program (user agent up to the slash). */
function managerOf(request: ApiRequest): string {
  const asked = request.query.get('fieldManager');
  if (asked) {
    if (asked.length > 128 || /[^\x20-\x7e]/.test(asked))
      throw badRequest('fieldManager: Invalid value: must be at most 128 printable characters');
    return asked;
  }
  return (request.headers['user-agent'] ?? 'unknown').split('/', 1)[0]!.slice(0, 128) || 'unknown';
}

/** @throws API_BAD_REQUEST */
function dryRunOf(query: URLSearchParams): boolean {
  const values = query.getAll('dryRun').filter((value) => value !== '');
  const wrong = values.find((value) => value !== 'All');
  if (wrong !== undefined) throw badRequest(`dryRun: Unsupported value: "${wrong}": supported values: "All"`);
  return values.length > 0;
}

/** The stored object, or what a dry run would have stored, in the client's form. */
function writtenResponse(
  context: WriteContext,
  status: number,
  written: Written,
  warnings: readonly string[],
): ApiResponse {
  const { presenter, resource } = context;
  const text = written.entry
    ? presenter.one(written.entry)
    : JSON.stringify(presenter.oneValue(fromStored(resource, written.object)));
  const response = textResponse(status, text, presenter.contentType);
  return { ...response, headers: { ...response.headers, ...warningHeader(warnings) } };
}

/** A last look at what a request is about; throws to refuse. For deletes with the grace period that was asked for. */
export type WriteCheck = (object: KubeObject, gracePeriodSeconds?: number) => void;

/** The object in the body of a request, and what is odd about it but no reason to refuse. */
function sentObject({ request, resource }: WriteContext): { object: KubeObject; warnings: string[] } {
  const warnings: string[] = [];
  const { json, text } = parseBody(request.body, request.headers['content-type']);
  const object = decodeBody(resource, json, {
    validation: fieldValidationOf(request.query),
    ...(text !== undefined && { text }),
    warnings,
  });
  return { object, warnings };
}

export async function createResponse(context: WriteContext, check?: WriteCheck): Promise<ApiResponse> {
  const { request, resource, registry, path } = context;
  const { object, warnings } = sentObject(context);
  if (resource.schema.namespaced && path.namespace === undefined)
    throw apiError('API_METHOD_NOT_ALLOWED', { method: 'POST' });
  check?.(object);
  const written = await registry.create(resource, path.namespace, object, {
    dryRun: dryRunOf(request.query),
    manager: managerOf(request),
  });
  return writtenResponse(context, 201, written, warnings);
}

export async function updateResponse(context: WriteContext, check?: WriteCheck): Promise<ApiResponse> {
  const { request, resource, registry, path } = context;
  const { object, warnings } = sentObject(context);
  const subresource = path.subresource === 'status' ? 'status' : '';
  const written = await registry.update(
    resource,
    path.namespace,
    path.name!,
    () => {
      const next = structuredClone(object);
      next.metadata.name ||= path.name!;
      check?.(next);
      return { next };
    },
    {
      subresource,
      dryRun: dryRunOf(request.query),
      manager: managerOf(request),
      createMissing: subresource === '' && registry.strategyOf(resource).createOnUpdate === true,
    },
  );
  return writtenResponse(context, written.created ? 201 : 200, written, warnings);
}

export async function patchResponse(context: WriteContext, check?: WriteCheck): Promise<ApiResponse> {
  const { request, resource, registry, path } = context;
  const media = mediaTypeOf(request.headers['content-type']);
  const type = PATCH_TYPES[media];
  if (type === undefined)
    throw apiError('API_UNSUPPORTED_MEDIA_TYPE', {
      sent: media,
      accepted: Object.keys(PATCH_TYPES).join(', '),
    });
  const text = request.body.toString('utf8');
  const patch = parseText(text, type === 'apply');
  const validation = fieldValidationOf(request.query);
  const force = flag(request.query, 'force');
  if (type === 'apply' && !request.query.get('fieldManager'))
    throw badRequest(
      'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch',
    );
  if (type !== 'apply' && force)
    throw badRequest(
      'PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch',
    );
  const subresource = path.subresource === 'status' ? 'status' : '';
  const fieldManager = managerOf(request);
  let warnings: string[] = [];
  const written = await registry.update(
    resource,
    path.namespace,
    path.name!,
    (stored) => {
      warnings = [];
      const current = stored && fromStored(resource, stored);
      if (type === 'apply') {
        // The applied configuration itself is checked, not the merged outcome.
        decodeBody(resource, patch, { validation, warnings });
        checkApplied(patch, path);
      }
      const { object } = applyPatch({
        schema: resource.schema,
        type,
        patch,
        current,
        fieldManager,
        force,
        subresource,
        now: registry.clock(),
      });
      const next = decodeBody(resource, object, {
        validation: type === 'apply' ? 'Ignore' : validation,
        ...(type === 'merge' && { text }),
        warnings,
      });
      next.metadata.name ||= path.name!;
      check?.(next);
      return { next, managed: type === 'apply' };
    },
    {
      subresource,
      dryRun: dryRunOf(request.query),
      manager: fieldManager,
      createMissing: type === 'apply' && subresource === '',
    },
  );
  return writtenResponse(context, written.created ? 201 : 200, written, warnings);
}

/** An apply names the object that the URL names. @throws API_BAD_REQUEST */
function checkApplied(patch: unknown, path: ResourcePath): void {
  const name = (patch as { metadata?: { name?: unknown } } | null)?.metadata?.name;
  if (name !== undefined && name !== path.name)
    throw badRequest(
      `name in URL (${path.name}) does not match the name in the applied object (${String(name)})`,
    );
}

/** DeleteOptions come as a body, as query parameters, or both. @throws API_BAD_REQUEST */
function deleteOptionsOf(request: ApiRequest): DeleteOptions {
  const body = (
    request.body.length === 0 ? {} : parseObjectBody(request.body, request.headers['content-type'])
  ) as {
    gracePeriodSeconds?: unknown;
    propagationPolicy?: unknown;
    orphanDependents?: unknown;
    preconditions?: { uid?: unknown; resourceVersion?: unknown } | null;
    dryRun?: unknown;
  } | null;
  if (typeof body !== 'object' || body === null || Array.isArray(body))
    throw badRequest('DeleteOptions must be an object');
  const { query } = request;
  const grace = wholeNumber(query, 'gracePeriodSeconds') ?? body.gracePeriodSeconds ?? undefined;
  if (grace !== undefined && (!Number.isSafeInteger(grace) || (grace as number) < 0))
    throw badRequest('gracePeriodSeconds: Invalid value: must be greater than or equal to 0');
  const orphan = query.get('orphanDependents') ?? body.orphanDependents;
  const policy =
    query.get('propagationPolicy') ??
    body.propagationPolicy ??
    (orphan === true || orphan === 'true'
      ? 'Orphan'
      : orphan === false || orphan === 'false'
        ? 'Background'
        : undefined);
  if (policy !== undefined && policy !== 'Foreground' && policy !== 'Background' && policy !== 'Orphan')
    throw badRequest(
      `DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: ${JSON.stringify(policy)}: supported values: "Background", "Foreground", "Orphan", "nil"`,
    );
  const dryRun = dryRunOf(query) || (Array.isArray(body.dryRun) && body.dryRun.includes('All'));
  const { uid, resourceVersion } = body.preconditions ?? {};
  return {
    ...(dryRun && { dryRun }),
    ...(grace !== undefined && { gracePeriodSeconds: grace as number }),
    ...(policy !== undefined && { propagation: policy as Propagation }),
    ...(typeof uid === 'string' && { uid }),
    ...(typeof resourceVersion === 'string' && { resourceVersion }),
  };
}

export async function deleteResponse(context: WriteContext, check?: WriteCheck): Promise<ApiResponse> {
  const { request, resource, registry, path } = context;
  const options = deleteOptionsOf(request);
  const deleted = await deleteObject(registry, resource, path.namespace, path.name!, {
    ...options,
    ...(check && { check: (object) => check(object, options.gracePeriodSeconds) }),
  });
  if (!deleted.removed) return writtenResponse(context, 200, deleted, []);
  // A pod that went gracefully answers with itself, so that clients know its uid and node.
  if (resource.stored.kind === 'Pod' || resource.stored.kind === 'Namespace')
    return writtenResponse(context, 200, deleted, []);
  return jsonResponse(200, deletedStatus(resource, deleted.object));
}

function deletedStatus(resource: Resource, object: KubeObject) {
  const { group, plural } = resource.schema;
  const { name, uid } = object.metadata;
  return {
    kind: 'Status',
    apiVersion: 'v1',
    metadata: {},
    status: 'Success',
    details: { name, ...(group !== '' && { group }), kind: plural, uid },
  };
}

export async function deleteCollectionResponse(context: WriteContext): Promise<ApiResponse> {
  const { request, resource, registry, path, source, presenter } = context;
  const options = deleteOptionsOf(request);
  const { entries, meta } = listEntries(resource, source, path.namespace, request.query);
  const results = await Promise.allSettled(
    entries.map((entry) => {
      const { namespace, name } = objectOf(entry).metadata;
      return deleteObject(registry, resource, namespace, name, options);
    }),
  );
  for (const result of results) {
    const reason = result.status === 'rejected' ? (result.reason as { code?: string }) : undefined;
    if (reason && reason.code !== 'API_NOT_FOUND') throw reason;
  }
  return {
    status: 200,
    headers: { 'content-type': presenter.contentType },
    body: presenter.list(entries, meta),
  };
}
