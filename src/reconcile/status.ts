/** Where an object stands between what is wanted and what the kernel has. */
export type ObjectStatus =
  | { readonly state: 'pending' }
  | { readonly state: 'done'; readonly sinceMs: number }
  | { readonly state: 'error'; readonly error: Error; readonly sinceMs: number; readonly tries: number };

export const PENDING: ObjectStatus = { state: 'pending' };

/** One word and the reason, as tables print it. */
export function statusText(status: ObjectStatus): string {
  return status.state === 'error' ? `error: ${status.error.message}` : status.state;
}
