/** Questions that are answered and not stored: `kubectl auth can-i`, `kubectl auth whoami`. */
import { isAllowed, isPathAllowed, refusalText, rulesOf } from '../auth/authorize.ts';
import type { Attributes, User } from '../auth/types.ts';
import type { ReviewResource } from '../discovery.ts';
import { type ApiResponse, jsonResponse } from '../http/response.ts';
import { badRequest } from '../status.ts';

interface AccessSpec {
  resourceAttributes?: Partial<
    Record<'namespace' | 'verb' | 'group' | 'resource' | 'subresource' | 'name', string>
  >;
  nonResourceAttributes?: { path?: string; verb?: string };
}

function accessStatus(spec: AccessSpec, user: User) {
  if (spec.nonResourceAttributes) {
    const allowed = isPathAllowed(user, spec.nonResourceAttributes.path ?? '');
    return { allowed };
  }
  const asked = spec.resourceAttributes ?? {};
  const attributes: Attributes = {
    verb: asked.verb ?? '',
    group: asked.group ?? '',
    resource: asked.resource ?? '',
    subresource: asked.subresource ?? '',
    namespace: asked.namespace ?? '',
    name: asked.name ?? '',
  };
  const allowed = isAllowed(user, attributes);
  return allowed ? { allowed } : { allowed, reason: refusalText(user, attributes) };
}

const answers: Readonly<Record<string, (spec: object, user: User) => unknown>> = {
  SelfSubjectReview: (_, user) => ({ userInfo: { username: user.name, groups: user.groups } }),
  SelfSubjectAccessReview: (spec, user) => accessStatus(spec as AccessSpec, user),
  SelfSubjectRulesReview: (_, user) => ({
    resourceRules: rulesOf(user),
    nonResourceRules: [{ verbs: ['get'], nonResourceURLs: ['*'] }],
    incomplete: false,
  }),
};

/** @throws API_BAD_REQUEST */
export function reviewResponse(review: ReviewResource, body: unknown, user: User): ApiResponse {
  if (typeof body !== 'object' || body === null || Array.isArray(body))
    throw badRequest('the body is not an object');
  const { spec = {}, metadata = {} } = body as { spec?: object; metadata?: object };
  return jsonResponse(201, {
    kind: review.kind,
    apiVersion: `${review.group}/${review.version}`,
    metadata: { creationTimestamp: null, ...metadata },
    spec,
    status: answers[review.kind]!(spec, user),
  });
}
