/** Rules for Namespace, Node, ConfigMap, Event and Lease: the validation packages of pkg/apis v1.32. */
import { looseCidr } from '../../../addr/index.ts';
import type {
  ConfigMap,
  Event,
  KubeObject,
  Lease,
  Namespace,
  Node,
  Taint,
} from '../../../model/kubernetes.ts';
import type { FieldError } from '../decode.ts';
import { oneForEachFamily, validateCidr, validateIp } from './addresses.ts';
import {
  duplicate,
  equalJson,
  forbidden,
  immutableMessage,
  invalid,
  invalidEach,
  nonNegative,
  oneOf,
  required,
  tooLong,
} from './field-errors.ts';
import { configMapKey, labelValue, qualifiedName } from './names.ts';

export function validateNamespace(namespace: Namespace): FieldError[] {
  return (namespace.spec?.finalizers ?? []).flatMap((finalizer, i) => {
    const field = `spec.finalizers[${i}]`;
    const errors = invalidEach(field, finalizer, qualifiedName(finalizer));
    if (finalizer !== 'kubernetes' && !finalizer.includes('/'))
      errors.push(
        invalid(field, finalizer, 'name is neither a standard finalizer name nor is it fully qualified'),
      );
    return errors;
  });
}

const taintEffects = ['NoExecute', 'NoSchedule', 'PreferNoSchedule'];

export function validateNode(node: Node): FieldError[] {
  const errors: FieldError[] = [];
  const cidrs = node.spec?.podCIDRs ?? [];
  for (const [i, cidr] of cidrs.entries()) errors.push(...validateCidr(`spec.podCIDRs[${i}]`, cidr));
  if (cidrs.length > 0 && !oneForEachFamily(cidrs.map(looseCidr)))
    errors.push(invalid('spec.podCIDRs', cidrs, 'may specify no more than one CIDR for each IP family'));
  if (node.spec?.podCIDR !== undefined && cidrs.length > 0 && node.spec.podCIDR !== cidrs[0])
    errors.push(invalid('spec.podCIDRs[0]', cidrs[0], 'must match spec.podCIDR'));
  errors.push(...validateTaints(node.spec?.taints ?? []));
  const addresses = node.status?.addresses ?? [];
  for (const [i, address] of addresses.entries()) {
    const same = (other: typeof address) => other.type === address.type && other.address === address.address;
    if (addresses.findIndex(same) < i) errors.push(duplicate(`status.addresses[${i}]`, address));
    if (address.type === 'InternalIP' && address.address)
      errors.push(...validateIp(`status.addresses[${i}].address`, address.address));
  }
  return errors;
}

function validateTaints(taints: readonly Taint[]): FieldError[] {
  return taints.flatMap((taint, i) => {
    const at = `spec.taints[${i}]`;
    const errors = invalidEach(`${at}.key`, taint.key ?? '', qualifiedName(taint.key ?? ''));
    if (taint.value) errors.push(...invalidEach(`${at}.value`, taint.value, labelValue(taint.value)));
    errors.push(...oneOf(`${at}.effect`, taint.effect, taintEffects));
    if (taints.findIndex((other) => other.key === taint.key && other.effect === taint.effect) < i)
      errors.push({
        ...duplicate(at, taint),
        message: `${duplicate(at, taint).message}: taints must be unique by key and effect pair`,
      });
    return errors;
  });
}

export function validateNodeUpdate(next: Node, old: Node): FieldError[] {
  const errors: FieldError[] = [];
  const provider = old.spec?.providerID;
  if (provider && provider !== next.spec?.providerID)
    errors.push(
      forbidden('spec.providerID', 'node updates may not change providerID except from "" to valid'),
    );
  return errors;
}

/** All values together, in bytes: core.MaxSecretSize. */
const maxConfigMapBytes = 1024 * 1024;

export function validateConfigMap(map: ConfigMap): FieldError[] {
  const errors: FieldError[] = [];
  const { data = {}, binaryData = {} } = map;
  let bytes = 0;
  for (const [key, value] of Object.entries(data)) {
    errors.push(...invalidEach(`data[${key}]`, key, configMapKey(key)));
    if (Object.hasOwn(binaryData, key))
      errors.push(invalid(`data[${key}]`, key, 'duplicate of key present in binaryData'));
    bytes += Buffer.byteLength(value);
  }
  for (const [key, value] of Object.entries(binaryData)) {
    errors.push(...invalidEach(`binaryData[${key}]`, key, configMapKey(key)));
    bytes += Buffer.byteLength(value, 'base64');
  }
  if (bytes > maxConfigMapBytes) errors.push(tooLong('', maxConfigMapBytes));
  return errors;
}

export function validateConfigMapUpdate(next: ConfigMap, old: ConfigMap): FieldError[] {
  if (!old.immutable) return [];
  const refused = `${immutableMessage} when \`immutable\` is set`;
  const errors: FieldError[] = [];
  if (!next.immutable) errors.push(forbidden('immutable', refused));
  if (!equalJson(next.data ?? {}, old.data ?? {})) errors.push(forbidden('data', refused));
  if (!equalJson(next.binaryData ?? {}, old.binaryData ?? {})) errors.push(forbidden('binaryData', refused));
  return errors;
}

/** Events of cluster-scoped objects live in namespace "default". */
export function validateCoreEvent(event: Event): FieldError[] {
  const { namespace } = event.metadata;
  const about = event.involvedObject?.namespace ?? '';
  const matches = about === '' ? !namespace || namespace === 'default' : namespace === about;
  return matches ? [] : [invalid('involvedObject.namespace', about, 'does not match event.namespace')];
}

/** events.k8s.io/v1 asks for more than core/v1. */
export function validateEvent(event: KubeObject): FieldError[] {
  const members = event as unknown as Record<string, unknown>;
  const errors = ['eventTime', 'reportingController', 'reportingInstance', 'action', 'reason']
    .filter((member) => !members[member])
    .map((member) => required(member));
  if (members['type'] !== 'Normal' && members['type'] !== 'Warning')
    errors.push(invalid('type', members['type'] ?? '', 'has invalid value'));
  return errors;
}

export function validateLease(lease: Lease): FieldError[] {
  const { leaseDurationSeconds, leaseTransitions } = lease.spec ?? {};
  const errors: FieldError[] = [];
  if (leaseDurationSeconds !== undefined && leaseDurationSeconds <= 0)
    errors.push(invalid('spec.leaseDurationSeconds', leaseDurationSeconds, 'must be greater than 0'));
  return [...errors, ...nonNegative('spec.leaseTransitions', leaseTransitions)];
}
