/** Validation by kind: which objects Kubernetes v1.32 would refuse, with its field paths and its words. */
import type { KubeObject } from '../../../model/kubernetes.ts';
import type { FieldError } from '../decode.ts';
import type { KindSchema } from '../kinds.ts';
import { validateClusterNetworkPolicy, validateNodeNetworkPolicy } from './cluster-network-policy.ts';
import {
  validateConfigMap,
  validateConfigMapUpdate,
  validateCoreEvent,
  validateEvent,
  validateLease,
  validateNamespace,
  validateNode,
  validateNodeUpdate,
} from './core.ts';
import { validateEndpointSlice, validateEndpointSliceUpdate, validateEndpoints } from './endpoints.ts';
import { type MetaRules, validateMeta, validateMetaUpdate } from './meta.ts';
import { dns1035Label, dns1123Label, dns1123Subdomain } from './names.ts';
import { validateNetworkPolicy, validateServiceCIDR, validateServiceCIDRUpdate } from './network.ts';
import { validatePod, validatePodCreate, validatePodStatus, validatePodUpdate } from './pod.ts';
import { validateService, validateServiceStatus, validateServiceUpdate } from './service.ts';

/** Rules of one kind beyond those for metadata. */
interface KindRules {
  /** Syntax of metadata.name; a DNS subdomain unless given. */
  readonly name?: MetaRules['name'];
  readonly validate?: (object: never) => FieldError[];
  /** Instead of `validate` on creation. */
  readonly validateCreate?: (object: never) => FieldError[];
  /** Rules for an update of the object; `validate` runs as well. */
  readonly validateUpdate?: (next: never, old: never) => FieldError[];
  readonly validateStatus?: (next: never, old: never) => FieldError[];
}

const rules: Readonly<Record<string, KindRules>> = {
  '/ConfigMap': { validate: validateConfigMap, validateUpdate: validateConfigMapUpdate },
  '/Endpoints': { validate: validateEndpoints },
  '/Event': { validate: validateCoreEvent },
  '/Namespace': { name: dns1123Label, validate: validateNamespace },
  '/Node': { validate: validateNode, validateUpdate: validateNodeUpdate, validateStatus: validateNode },
  '/Pod': {
    validate: validatePod,
    validateCreate: validatePodCreate,
    validateUpdate: validatePodUpdate,
    validateStatus: validatePodStatus,
  },
  '/Service': {
    name: dns1035Label,
    validate: validateService,
    validateUpdate: validateServiceUpdate,
    validateStatus: validateServiceStatus,
  },
  'coordination.k8s.io/Lease': { validate: validateLease },
  'discovery.k8s.io/EndpointSlice': {
    validate: validateEndpointSlice,
    validateUpdate: validateEndpointSliceUpdate,
  },
  'events.k8s.io/Event': { validate: validateEvent },
  'networking.k8s.io/NetworkPolicy': { validate: validateNetworkPolicy },
  'networking.k8s.io/ServiceCIDR': {
    validate: validateServiceCIDR,
    validateUpdate: validateServiceCIDRUpdate,
  },
  'policy.networking.k8s.io/ClusterNetworkPolicy': { validate: validateClusterNetworkPolicy },
  'policy.portolan.dev/NodeNetworkPolicy': { validate: validateNodeNetworkPolicy },
};

function metaRules(schema: KindSchema): MetaRules {
  return {
    namespaced: schema.namespaced,
    name: rules[`${schema.group}/${schema.kind}`]?.name ?? dns1123Subdomain,
  };
}

/** Faults of a new object, after defaulting; none when it may be stored. */
export function validateCreate(schema: KindSchema, object: KubeObject): FieldError[] {
  const errors = validateMeta(object, metaRules(schema));
  const kind = rules[`${schema.group}/${schema.kind}`];
  const validate = kind?.validateCreate ?? kind?.validate;
  return [...errors, ...(validate?.(object as never) ?? [])];
}

/** Faults of a changed object; `subresource` says which part the request may change. */
export function validateUpdate(
  schema: KindSchema,
  next: KubeObject,
  old: KubeObject,
  subresource: '' | 'status',
): FieldError[] {
  const errors = validateMetaUpdate(next, old);
  const kind = rules[`${schema.group}/${schema.kind}`];
  if (subresource === 'status')
    return [...errors, ...(kind?.validateStatus?.(next as never, old as never) ?? [])];
  return [
    ...errors,
    ...(kind?.validate?.(next as never) ?? []),
    ...(kind?.validateUpdate?.(next as never, old as never) ?? []),
  ];
}
