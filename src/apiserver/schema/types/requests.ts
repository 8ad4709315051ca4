/** Objects that are sent and never stored: reviews (`kubectl auth`) and Eviction (`kubectl drain`). */
import { bool, list, obj, ptr, req, str, strings, struct } from './field.ts';
import { deleteOptions, labelSelectorRequirement, topLevel } from './meta.ts';

export const eviction = topLevel('policy.v1.Eviction', 'Asks to delete a pod as far as that is allowed.', {
  deleteOptions: ptr(obj(() => deleteOptions, 'Options of the deletion.')),
});

const fieldSelectorRequirement = struct('meta.v1.FieldSelectorRequirement', 'One requirement on a field.', {
  key: req(str('Field.')),
  operator: req(str('In, NotIn, Exists or DoesNotExist.')),
  values: strings('Values for In and NotIn.'),
});
const fieldSelectorAttributes = struct('authorization.v1.FieldSelectorAttributes', 'A field selector.', {
  rawSelector: str('The selector as text.'),
  requirements: list(() => fieldSelectorRequirement, {}, 'The selector in parts.'),
});
const labelSelectorAttributes = struct('authorization.v1.LabelSelectorAttributes', 'A label selector.', {
  rawSelector: str('The selector as text.'),
  requirements: list(() => labelSelectorRequirement, {}, 'The selector in parts.'),
});
const resourceAttributes = struct('authorization.v1.ResourceAttributes', 'A request for a resource.', {
  namespace: str('Namespace.'),
  verb: str('Verb.'),
  group: str('Group; "*" is all.'),
  version: str('Version; "*" is all.'),
  resource: str('Resource; "*" is all.'),
  subresource: str('Subresource.'),
  name: str('Name.'),
  fieldSelector: ptr(obj(() => fieldSelectorAttributes, 'Limits the request by fields.')),
  labelSelector: ptr(obj(() => labelSelectorAttributes, 'Limits the request by labels.')),
});
const nonResourceAttributes = struct('authorization.v1.NonResourceAttributes', 'A request for a path.', {
  path: str('Path.'),
  verb: str('Verb.'),
});
const accessReviewSpec = struct('authorization.v1.SelfSubjectAccessReviewSpec', 'What is asked.', {
  resourceAttributes: ptr(obj(() => resourceAttributes, 'A request for a resource.')),
  nonResourceAttributes: ptr(obj(() => nonResourceAttributes, 'A request for a path.')),
});
const accessReviewStatus = struct('authorization.v1.SubjectAccessReviewStatus', 'The answer.', {
  allowed: req(bool('True when the request may be made.')),
  denied: bool('True when it is refused whatever others say.'),
  reason: str('Why.'),
  evaluationError: str('What went wrong on the way.'),
});
export const selfSubjectAccessReview = topLevel(
  'authorization.v1.SelfSubjectAccessReview',
  'Asks whether the sender may do something.',
  {
    spec: req(obj(() => accessReviewSpec, 'What is asked.')),
    status: obj(() => accessReviewStatus, 'The answer.'),
  },
);
const rulesReviewSpec = struct('authorization.v1.SelfSubjectRulesReviewSpec', 'What is asked.', {
  namespace: str('Namespace.'),
});
export const selfSubjectRulesReview = topLevel(
  'authorization.v1.SelfSubjectRulesReview',
  'Asks what the sender may do in a namespace.',
  { spec: req(obj(() => rulesReviewSpec, 'What is asked.')) },
);
const userInfo = struct('authentication.v1.UserInfo', 'Who someone is.', {
  username: str('Name.'),
  uid: str('Identity.'),
  groups: strings('Groups.'),
});
const selfSubjectReviewStatus = struct('authentication.v1.SelfSubjectReviewStatus', 'The answer.', {
  userInfo: obj(() => userInfo, 'The sender.'),
});
export const selfSubjectReview = topLevel('authentication.v1.SelfSubjectReview', 'Asks who the sender is.', {
  status: obj(() => selfSubjectReviewStatus, 'The answer.'),
});
