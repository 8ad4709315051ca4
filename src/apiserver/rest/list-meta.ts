/** What an answer says of a list beside its items (meta.k8s.io ListMeta). */
export interface ListMeta {
  readonly resourceVersion: string;
  readonly continue?: string;
  readonly remainingItemCount?: number;
}
