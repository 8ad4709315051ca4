/** A request's object: right kind, right types, and what to do about fields that do not exist. */
import type { KubeObject } from '../../model/kubernetes.ts';
import type { Resource } from '../resources.ts';
import { type Decoded, decodeObject, duplicateFields, groupVersionOf } from '../schema/index.ts';
import { badRequest } from '../status.ts';
import { toStored } from './convert.ts';

export type FieldValidation = 'Strict' | 'Warn' | 'Ignore';

/** @throws API_BAD_REQUEST */
export function fieldValidationOf(query: URLSearchParams): FieldValidation {
  const value = query.get('fieldValidation') || 'Warn';
  if (value !== 'Strict' && value !== 'Warn' && value !== 'Ignore')
    throw badRequest(
      `fieldValidation: Unsupported value: "${value}": supported values: "Ignore", "Strict", "Warn"`,
    );
  return value;
}

export interface DecodeOptions {
  readonly validation: FieldValidation;
  /** The JSON text, where there is one: shows duplicate fields, which parsing hides. */
  readonly text?: string;
  readonly warnings: string[];
}

/**
 * Decodes the body of a create or update, or the outcome of a patch, into the stored version of the kind.
 * @throws API_BAD_REQUEST
 */
export function decodeBody(resource: Resource, json: unknown, options: DecodeOptions): KubeObject {
  const { schema } = resource;
  const apiVersion = groupVersionOf(schema);
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    throw badRequest(`couldn't get version/kind; the body is not an object`);
  const given = json as { apiVersion?: unknown; kind?: unknown };
  if (
    (given.kind !== undefined && given.kind !== schema.kind) ||
    (given.apiVersion !== undefined && given.apiVersion !== apiVersion)
  )
    throw badRequest(
      `${schema.kind} in version "${schema.version}" cannot be handled as a ${schema.kind}: the body is ${String(given.kind ?? 'of no kind')} in "${String(given.apiVersion ?? '')}", want ${schema.kind} in "${apiVersion}"`,
    );
  const decoded = decodeObject(schema, { ...json, apiVersion, kind: schema.kind });
  judgeDecoded(resource, decoded, options);
  return toStored(resource, decoded.object);
}

/** Refuses an object whose JSON was of wrong types, and tells of fields that are unknown. @throws API_BAD_REQUEST */
function judgeDecoded(
  resource: Resource,
  { typeErrors, unknownFields }: Decoded,
  options: DecodeOptions,
): void {
  const { schema } = resource;
  const cannot = `${schema.kind} in version "${schema.version}" cannot be handled as a ${schema.kind}: `;
  if (typeErrors.length > 0) throw badRequest(cannot + typeErrors.map((error) => error.message).join(', '));
  if (options.validation === 'Ignore') return;
  const faults = unknownFields.map((field) => `unknown field "${field}"`);
  if (options.text !== undefined)
    for (const field of duplicateFields(options.text)) faults.push(`duplicate field "${field}"`);
  if (faults.length > 0 && options.validation === 'Strict')
    throw badRequest(`${cannot}strict decoding error: ${faults.join(', ')}`);
  options.warnings.push(...faults);
}
