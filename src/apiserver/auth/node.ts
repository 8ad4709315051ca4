/**
 * What a node may do, after the NodeRestriction and Node authorizer of Kubernetes: read what it needs, and change
 * its own Node and Lease, the status of Pods bound to it, and Events. It can't delete or edit anything else, so a
 * stolen node credential reaches no further than that node.
 */
import type { Event, KubeObject, Pod } from '../../model/kubernetes.ts';
import { NODE_PREFIX } from '../pki/credentials.ts';
import type { Attributes, User } from './types.ts';

const READ = new Set(['get', 'list', 'watch']);
const CHANGE = new Set(['update', 'patch']);
const LEASE_NAMESPACE = 'kube-node-lease';
/** Leases by which nodes agree on who announces a load balancer address: each of them may take each. */
const ANNOUNCEMENT = { namespace: 'kube-system', prefix: 'portolan-l2-' };
const ANNOUNCEMENT_VERBS = new Set(['create', 'update', 'patch', 'delete']);

export function nodeNameOf(user: User): string | undefined {
  return user.name.startsWith(NODE_PREFIX) ? user.name.slice(NODE_PREFIX.length) : undefined;
}

/** Allowed as far as the URL tells; Pods, Events and creations are looked at again by `nodeRefusal`. */
export function nodeAllowed(node: string, a: Attributes): boolean {
  if (READ.has(a.verb)) return true;
  switch (a.resource) {
    case 'nodes':
      if (a.verb === 'create') return a.subresource === '';
      return CHANGE.has(a.verb) && a.name === node;
    case 'leases':
      if (a.namespace === ANNOUNCEMENT.namespace)
        // The name of what is created is looked at again by `nodeRefusal`.
        return (
          a.verb === 'create' ||
          (ANNOUNCEMENT_VERBS.has(a.verb) && (a.name ?? '').startsWith(ANNOUNCEMENT.prefix))
        );
      if (a.namespace !== LEASE_NAMESPACE) return false;
      return a.verb === 'create' || (a.name === node && (CHANGE.has(a.verb) || a.verb === 'delete'));
    case 'pods':
      return (
        (a.subresource === 'status' && CHANGE.has(a.verb)) || (a.subresource === '' && a.verb === 'delete')
      );
    case 'events':
      return a.verb === 'create' || CHANGE.has(a.verb);
    default:
      return false;
  }
}

export interface NodeChange {
  readonly attributes: Attributes;
  /** What is stored, for changes and deletes. */
  readonly current?: KubeObject;
  /** What comes in, for creations. */
  readonly incoming?: KubeObject;
  readonly gracePeriodSeconds?: number;
}

/** Why this node may not make this change, now that the object is known; undefined when it may. */
export function nodeRefusal(
  node: string,
  { attributes: a, current, incoming, gracePeriodSeconds }: NodeChange,
): string | undefined {
  if (a.resource === 'nodes' || a.resource === 'leases') {
    const name = incoming?.metadata.name;
    if (a.resource === 'leases' && a.namespace === ANNOUNCEMENT.namespace)
      return name === undefined || name.startsWith(ANNOUNCEMENT.prefix)
        ? undefined
        : `node "${node}" is only allowed to create leases "${ANNOUNCEMENT.prefix}..." in namespace "${ANNOUNCEMENT.namespace}"`;
    return name !== undefined && name !== node
      ? `node "${node}" is not allowed to create ${a.resource} "${name}"`
      : undefined;
  }
  if (a.resource === 'pods') {
    const bound = (current as Pod | undefined)?.spec.nodeName;
    if (bound !== node) return `node "${node}" can only change pods with spec.nodeName set to itself`;
    if (a.verb === 'delete' && gracePeriodSeconds !== 0)
      return `node "${node}" can only delete pods with gracePeriodSeconds 0`;
  }
  if (a.resource === 'events' && current) {
    const event = current as Event;
    if (event.source?.host !== node && event.reportingInstance !== node)
      return `node "${node}" can only change events that it reported`;
  }
  return undefined;
}
