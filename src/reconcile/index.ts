export { type Difference, difference } from './diff.ts';
export { Reconciler, type ReconcilerOptions } from './reconciler.ts';
export { type ObjectStatus, PENDING, statusText } from './status.ts';
