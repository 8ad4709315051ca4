/** What the rest of the API server may use of the schemas. */
export { absentKinds } from './absent-kinds.ts';
export { type Decoded, decodeObject, type FieldError, type FieldErrorType } from './decode.ts';
export { applyDefaults } from './defaults/index.ts';
export { duplicateFields } from './duplicate-fields.ts';
export { findKind, groupVersionOf, type KindSchema, kinds } from './kinds.ts';
export { PROTOBUF_TYPE, protobufToJson } from './protobuf/decode.ts';
export { validateCreate, validateUpdate } from './validate/index.ts';

import type { KubeObject } from '../../model/kubernetes.ts';
import type { FieldError } from './decode.ts';

/** What became of a request's object. */
export interface Verdict {
  readonly object: KubeObject;
  readonly errors: FieldError[];
  readonly warnings: string[];
}
