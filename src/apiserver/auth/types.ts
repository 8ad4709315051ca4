/** Who asks. */
export interface User {
  /** As in the certificate's CN, e.g. `system:node:n1`. */
  readonly name: string;
  /** As in the certificate's O, e.g. `system:masters`. */
  readonly groups: readonly string[];
}

/** What someone wants to do, in the words of RBAC. */
export interface Attributes {
  /** get list watch create update patch delete deletecollection */
  readonly verb: string;
  readonly group: string;
  readonly resource: string;
  readonly subresource: string;
  readonly namespace: string;
  readonly name: string;
}

export const ANONYMOUS: User = { name: 'system:anonymous', groups: ['system:unauthenticated'] };
/** The server's own background work. */
export const SERVER: User = { name: 'system:apiserver', groups: ['system:masters'] };
