/**
 * Who may do what. Three kinds of users: admins (everything), controllers (read all, change what they compute),
 * and nodes (read all, change what is their own). A node's rights depend on the object, so some of its requests
 * pass here with a condition that is checked on the object itself (`nodeMayDelete` and its like in `node.ts`).
 */
import { CONTROLLERS, MASTERS, NODES } from '../pki/credentials.ts';
import { nodeAllowed, nodeNameOf } from './node.ts';
import type { Attributes, User } from './types.ts';

const READ = new Set(['get', 'list', 'watch']);

/** What controllers change: resource or resource/subresource, and the verbs. */
const CONTROLLER_RULES: Readonly<Record<string, readonly string[]>> = {
  nodes: ['update', 'patch', 'delete'],
  'nodes/status': ['update', 'patch'],
  pods: ['delete', 'update', 'patch'],
  'pods/status': ['update', 'patch'],
  'pods/binding': ['create'],
  'pods/eviction': ['create'],
  services: ['update', 'patch'],
  'services/status': ['update', 'patch'],
  endpointslices: ['create', 'update', 'patch', 'delete', 'deletecollection'],
  leases: ['create', 'update', 'patch', 'delete'],
  events: ['create', 'update', 'patch'],
  servicecidrs: ['create', 'update', 'patch', 'delete'],
  'servicecidrs/status': ['update', 'patch'],
  'namespaces/status': ['update', 'patch'],
};

/** Everyone who has credentials may ask what they may do. */
const SELF_REVIEWS = new Set(['selfsubjectaccessreviews', 'selfsubjectrulesreviews', 'selfsubjectreviews']);

const fullName = (a: Attributes) => (a.subresource === '' ? a.resource : `${a.resource}/${a.subresource}`);

export function isAllowed(user: User, attributes: Attributes): boolean {
  if (user.groups.includes(MASTERS)) return true;
  if (user.groups.includes('system:unauthenticated')) return false;
  if (SELF_REVIEWS.has(attributes.resource) && attributes.verb === 'create') return true;
  if (user.groups.includes(CONTROLLERS))
    return (
      READ.has(attributes.verb) ||
      (CONTROLLER_RULES[fullName(attributes)]?.includes(attributes.verb) ?? false)
    );
  if (user.groups.includes(NODES)) {
    const node = nodeNameOf(user);
    return node !== undefined && nodeAllowed(node, attributes);
  }
  return false;
}

/** Paths that tell nothing secret, for probes and for clients that look where they are. */
const PUBLIC_PATHS = new Set(['/healthz', '/livez', '/readyz', '/version']);

export function isPathAllowed(user: User, path: string): boolean {
  const trimmed = path.replace(/\/+$/, '');
  if (PUBLIC_PATHS.has(trimmed) || /^\/(livez|readyz|healthz)\//.test(trimmed)) return true;
  return !user.groups.includes('system:unauthenticated');
}

/** `User "x" cannot list resource "pods" in API group "" in the namespace "default"`, as RBAC says it. */
export function refusalText(user: User, a: Attributes): string {
  const where = a.namespace === '' ? 'at the cluster scope' : `in the namespace "${a.namespace}"`;
  return `User "${user.name}" cannot ${a.verb} resource "${fullName(a)}" in API group "${a.group}" ${where}`;
}

/** The rules of a user as SelfSubjectRulesReview lists them. */
export function rulesOf(user: User): { verbs: string[]; apiGroups: string[]; resources: string[] }[] {
  if (user.groups.includes(MASTERS)) return [{ verbs: ['*'], apiGroups: ['*'], resources: ['*'] }];
  const rules = [{ verbs: [...READ], apiGroups: ['*'], resources: ['*'] }];
  if (user.groups.includes(CONTROLLERS))
    for (const [resource, verbs] of Object.entries(CONTROLLER_RULES))
      rules.push({ verbs: [...verbs], apiGroups: ['*'], resources: [resource] });
  return rules;
}
