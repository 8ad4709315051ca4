/** Builds field errors with the wording of apimachinery `util/validation/field` v1.32. */
import type { FieldError } from '../decode.ts';

/** A value as Go prints it in such messages: strings quoted, the rest as JSON. */
function shown(value: unknown): string {
  if (value === undefined || value === null) return 'null';
  return typeof value === 'string' ? JSON.stringify(value) : JSON.stringify(value);
}

export const invalid = (field: string, value: unknown, detail: string): FieldError => ({
  type: 'FieldValueInvalid',
  field,
  message: `Invalid value: ${shown(value)}${detail ? `: ${detail}` : ''}`,
});
export const required = (field: string, detail = ''): FieldError => ({
  type: 'FieldValueRequired',
  field,
  message: `Required value${detail ? `: ${detail}` : ''}`,
});
export const forbidden = (field: string, detail: string): FieldError => ({
  type: 'FieldValueForbidden',
  field,
  message: `Forbidden: ${detail}`,
});
export const duplicate = (field: string, value: unknown): FieldError => ({
  type: 'FieldValueDuplicate',
  field,
  message: `Duplicate value: ${shown(value)}`,
});
export const notSupported = (field: string, value: unknown, supported: readonly string[]): FieldError => ({
  type: 'FieldValueNotSupported',
  field,
  message: `Unsupported value: ${shown(value)}: supported values: ${[...supported]
    .sort()
    .map((v) => JSON.stringify(v))
    .join(', ')}`,
});
/** A name that refers to nothing. */
export const notFound = (field: string, value: unknown): FieldError => ({
  type: 'FieldValueNotFound',
  field,
  message: `Not found: ${shown(value)}`,
});
/** Limits are told without the value, which may be huge. */
export const tooMany = (field: string, actual: number, limit: number): FieldError => ({
  type: 'FieldValueInvalid',
  field,
  message: `Too many: ${actual}: must have at most ${limit} items`,
});
export const tooLong = (field: string, limit: number): FieldError => ({
  type: 'FieldValueInvalid',
  field,
  message: `Too long: may not be more than ${limit} bytes`,
});

/** Faults of one value as errors of its field. */
export const invalidEach = (field: string, value: unknown, faults: readonly string[]): FieldError[] =>
  faults.map((fault) => invalid(field, value, fault));

/** Required, and one of a few words. */
export function oneOf(field: string, value: unknown, supported: readonly string[]): FieldError[] {
  if (value === undefined || value === '') return [required(field)];
  return supported.includes(value as string) ? [] : [notSupported(field, value, supported)];
}
/** Absent, or one of a few words. */
export function optionalOneOf(field: string, value: unknown, supported: readonly string[]): FieldError[] {
  return value === undefined ? [] : oneOf(field, value, supported);
}

/** Not negative. */
export const nonNegative = (field: string, value: number | undefined): FieldError[] =>
  (value ?? 0) < 0 ? [invalid(field, value, 'must be greater than or equal to 0')] : [];

/** Deep equality of JSON values; the order of members does not matter. */
export function equalJson(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a) || Array.isArray(b)) {
    if (!Array.isArray(a) || !Array.isArray(b) || a.length !== b.length) return false;
    return a.every((item, i) => equalJson(item, b[i]));
  }
  const left = a as Record<string, unknown>;
  const right = b as Record<string, unknown>;
  const keys = Object.keys(left).filter((key) => left[key] !== undefined);
  const others = Object.keys(right).filter((key) => right[key] !== undefined);
  return keys.length === others.length && keys.every((key) => equalJson(left[key], right[key]));
}

export const immutableMessage = 'field is immutable';
/** An error when a field changed that must not. */
export function immutable(field: string, next: unknown, old: unknown): FieldError[] {
  return equalJson(next, old) ? [] : [invalid(field, next, immutableMessage)];
}
