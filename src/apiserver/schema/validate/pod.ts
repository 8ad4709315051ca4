/** Rules for Pod: pkg/apis/core/validation, ValidatePodCreate, ValidatePodUpdate and ValidatePodStatusUpdate, v1.32. */
import { tryParseIp } from '../../../addr/index.ts';
import type { Container, Pod, PodSpec } from '../../../model/kubernetes.ts';
import { type FieldError, isObject } from '../decode.ts';
import { allContainers } from '../defaults/pod.ts';
import { oneForEachFamily, validateIp } from './addresses.ts';
import { validateContainer, validateHostPorts, validateResources } from './container.ts';
import {
  duplicate,
  equalJson,
  forbidden,
  invalid,
  invalidEach,
  oneOf,
  optionalOneOf,
  required,
} from './field-errors.ts';
import { validateLabels } from './meta.ts';
import { dns1123Label, dns1123Subdomain, qualifiedName } from './names.ts';
import { validateScheduling, validateTolerations } from './scheduling.ts';
import { validateVolumes } from './volume.ts';

/** What the shared model leaves out of a pod's spec and some rule reads. */
export type FullSpec = PodSpec & {
  ephemeralContainers?: Container[];
  hostAliases?: { ip?: string; hostnames?: string[] }[];
  preemptionPolicy?: string;
  priorityClassName?: string;
  runtimeClassName?: string;
  schedulingGates?: { name: string }[];
  imagePullSecrets?: { name?: string }[];
  overhead?: Record<string, string>;
};

const maxNameservers = 3;
const maxSearches = 32;

export function validatePod(pod: Pod): FieldError[] {
  const spec = pod.spec as FullSpec;
  const errors: FieldError[] = [];
  errors.push(...validateVolumes('spec.volumes', spec.volumes ?? []));
  errors.push(...validateContainers(pod));
  errors.push(...oneOf('spec.restartPolicy', spec.restartPolicy, ['Always', 'Never', 'OnFailure']));
  errors.push(
    ...oneOf('spec.dnsPolicy', spec.dnsPolicy, [
      'ClusterFirst',
      'ClusterFirstWithHostNet',
      'Default',
      'None',
    ]),
  );
  errors.push(...validateLabels(spec.nodeSelector ?? {}, 'spec.nodeSelector'));
  errors.push(...validateDns(spec));
  errors.push(...validateNames(spec));
  errors.push(...validateScheduling(spec));
  errors.push(...validateResources('spec.overhead', spec.overhead && { limits: spec.overhead }));
  if ((spec.terminationGracePeriodSeconds ?? 0) < 0)
    errors.push(
      invalid(
        'spec.terminationGracePeriodSeconds',
        spec.terminationGracePeriodSeconds,
        'must be greater than or equal to 0',
      ),
    );
  const deadline = spec.activeDeadlineSeconds;
  if (deadline !== undefined && (deadline < 1 || deadline > 2 ** 31 - 1))
    errors.push(
      invalid('spec.activeDeadlineSeconds', deadline, 'must be between 1 and 2147483647, inclusive'),
    );
  for (const [i, alias] of (spec.hostAliases ?? []).entries()) {
    errors.push(...validateIp(`spec.hostAliases[${i}].ip`, alias.ip ?? ''));
    for (const name of alias.hostnames ?? [])
      errors.push(...invalidEach(`spec.hostAliases[${i}].hostnames`, name, dns1123Subdomain(name)));
  }
  errors.push(
    ...optionalOneOf('spec.preemptionPolicy', spec.preemptionPolicy, ['Never', 'PreemptLowerPriority']),
  );
  return errors;
}

export function validatePodCreate(pod: Pod): FieldError[] {
  const ephemeral = (pod.spec as FullSpec).ephemeralContainers ?? [];
  const refused =
    ephemeral.length > 0 ? [forbidden('spec.ephemeralContainers', 'cannot be set on create')] : [];
  return [...validatePod(pod), ...refused];
}

function validateContainers(pod: Pod): FieldError[] {
  const { containers, initContainers = [], volumes = [], hostNetwork = false } = pod.spec;
  const errors: FieldError[] = [];
  if (containers.length === 0) errors.push(required('spec.containers'));
  const names = new Set<string>();
  const known = new Set(volumes.map((volume) => volume.name));
  const lists = [
    ['spec.initContainers', initContainers, true],
    ['spec.containers', containers, false],
  ] as const;
  for (const [path, list, isInit] of lists)
    for (const [i, container] of list.entries()) {
      const at = `${path}[${i}]`;
      errors.push(...validateContainer(at, container, { hostNetwork, volumes: known, isInit }));
      if (container.name && names.has(container.name)) errors.push(duplicate(`${at}.name`, container.name));
      if (container.name) names.add(container.name);
    }
  return [...errors, ...validateHostPorts(pod)];
}

function validateDns(spec: FullSpec): FieldError[] {
  const errors: FieldError[] = [];
  const servers = spec.dnsConfig?.nameservers ?? [];
  if (spec.dnsPolicy === 'None' && servers.length === 0)
    errors.push(
      required(
        'spec.dnsConfig.nameservers',
        'must provide at least one DNS nameserver when `dnsPolicy` is None',
      ),
    );
  if (servers.length > maxNameservers)
    errors.push(
      invalid('spec.dnsConfig.nameservers', servers, `must not have more than ${maxNameservers} nameservers`),
    );
  for (const [i, server] of servers.entries())
    errors.push(...validateIp(`spec.dnsConfig.nameservers[${i}]`, server));
  const searches = spec.dnsConfig?.searches ?? [];
  if (searches.length > maxSearches)
    errors.push(
      invalid('spec.dnsConfig.searches', searches, `must not have more than ${maxSearches} search paths`),
    );
  for (const [i, search] of searches.entries()) {
    const name = search.replace(/\.$/, '').replaceAll('_', '-');
    if (search !== '.')
      errors.push(...invalidEach(`spec.dnsConfig.searches[${i}]`, search, dns1123Subdomain(name)));
  }
  for (const [i, option] of (spec.dnsConfig?.options ?? []).entries())
    if (!option.name) errors.push(required(`spec.dnsConfig.options[${i}]`, 'must not be empty'));
  return errors;
}

function validateNames(spec: FullSpec): FieldError[] {
  const errors: FieldError[] = [];
  const label = (field: string, value: string | undefined) =>
    value ? invalidEach(field, value, dns1123Label(value)) : [];
  const subdomain = (field: string, value: string | undefined) =>
    value ? invalidEach(field, value, dns1123Subdomain(value)) : [];
  errors.push(...label('spec.hostname', spec.hostname));
  errors.push(...label('spec.subdomain', spec.subdomain));
  errors.push(...subdomain('spec.nodeName', spec.nodeName));
  errors.push(...subdomain('spec.serviceAccountName', spec.serviceAccountName));
  errors.push(...subdomain('spec.priorityClassName', spec.priorityClassName));
  errors.push(...subdomain('spec.runtimeClassName', spec.runtimeClassName));
  for (const [i, gate] of (spec.readinessGates ?? []).entries())
    errors.push(
      ...invalidEach(
        `spec.readinessGates[${i}].conditionType`,
        gate.conditionType ?? '',
        qualifiedName(gate.conditionType ?? ''),
      ),
    );
  for (const [i, gate] of (spec.schedulingGates ?? []).entries())
    errors.push(
      ...invalidEach(`spec.schedulingGates[${i}]`, gate.name ?? '', qualifiedName(gate.name ?? '')),
    );
  return errors;
}

const mayChange =
  'pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)';

export function validatePodUpdate(next: Pod, old: Pod): FieldError[] {
  const errors: FieldError[] = [];
  const a = next.spec as FullSpec;
  const b = old.spec as FullSpec;
  if (a.containers.length !== b.containers.length)
    return [forbidden('spec.containers', 'pod updates may not add or remove containers')];
  if ((a.initContainers ?? []).length !== (b.initContainers ?? []).length)
    return [forbidden('spec.initContainers', 'pod updates may not add or remove containers')];
  const deadline = 'spec.activeDeadlineSeconds';
  if (b.activeDeadlineSeconds !== undefined && a.activeDeadlineSeconds !== b.activeDeadlineSeconds) {
    if (a.activeDeadlineSeconds === undefined)
      errors.push(invalid(deadline, null, 'must not update from a positive integer to nil value'));
    else if (a.activeDeadlineSeconds > b.activeDeadlineSeconds)
      errors.push(invalid(deadline, a.activeDeadlineSeconds, 'must be less than or equal to previous value'));
  }
  errors.push(...validateTolerationsUpdate(a, b));
  errors.push(...validateGatesUpdate(a, b));
  const changed = changedPaths(comparable(next, old), comparable(old, old), 'spec');
  if (changed.length > 0) errors.push(forbidden('spec', `${mayChange}\nchanged: ${changed.join(', ')}`));
  return errors;
}

/** The spec with the members that may change set to those of `old`. */
function comparable(pod: Pod, old: Pod): FullSpec {
  const spec = structuredClone(pod.spec) as FullSpec;
  for (const list of ['containers', 'initContainers'] as const)
    for (const [i, container] of (spec[list] ?? []).entries())
      container.image = old.spec[list]?.[i]?.image ?? '';
  delete spec.activeDeadlineSeconds;
  delete spec.tolerations;
  delete spec.schedulingGates;
  // Set through a door of its own.
  delete spec.ephemeralContainers;
  const was = old.spec.terminationGracePeriodSeconds ?? 0;
  if (was < 0 && spec.terminationGracePeriodSeconds === 1) spec.terminationGracePeriodSeconds = was;
  // A pod that waits for its gates may narrow down where it runs.
  if (((old.spec as FullSpec).schedulingGates?.length ?? 0) > 0) {
    delete spec.nodeSelector;
    delete (spec as { affinity?: unknown }).affinity;
  }
  return spec;
}

/** Paths at which two values differ, as deep as the difference can be told. */
function changedPaths(a: unknown, b: unknown, at: string): string[] {
  if (equalJson(a, b)) return [];
  if (Array.isArray(a) && Array.isArray(b) && a.length === b.length)
    return a.flatMap((item, i) => changedPaths(item, b[i], `${at}[${i}]`));
  if (!isObject(a) || !isObject(b)) return [at];
  return [...new Set([...Object.keys(a), ...Object.keys(b)])].flatMap((key) =>
    changedPaths(a[key], b[key], `${at}.${key}`),
  );
}

function validateTolerationsUpdate(a: FullSpec, b: FullSpec): FieldError[] {
  const same = (one: object, other: object) =>
    equalJson({ ...one, tolerationSeconds: 0 }, { ...other, tolerationSeconds: 0 });
  const kept = (b.tolerations ?? []).every((old) => (a.tolerations ?? []).some((next) => same(next, old)));
  return [
    ...(kept
      ? []
      : [
          forbidden(
            'spec.tolerations',
            'existing toleration can not be modified except its tolerationSeconds',
          ),
        ]),
    ...validateTolerations('spec.tolerations', a.tolerations ?? []),
  ];
}

function validateGatesUpdate(a: FullSpec, b: FullSpec): FieldError[] {
  const before = new Set((b.schedulingGates ?? []).map((gate) => gate.name));
  const added = (a.schedulingGates ?? []).filter((gate) => !before.has(gate.name));
  return added.length === 0
    ? []
    : [
        forbidden(
          'spec.schedulingGates',
          `only deletion is allowed, but found new scheduling gate '${added[0]!.name}'`,
        ),
      ];
}

export function validatePodStatus(next: Pod, old: Pod): FieldError[] {
  const errors: FieldError[] = [];
  if (next.spec?.nodeName !== undefined && next.spec.nodeName !== old.spec.nodeName)
    errors.push(forbidden('status.nodeName', 'may not be changed directly'));
  for (const list of ['podIPs', 'hostIPs'] as const) {
    const ips = (next.status?.[list] ?? []).map((entry) => entry.ip);
    for (const [i, ip] of ips.entries()) errors.push(...validateIp(`status.${list}[${i}]`, ip ?? ''));
    if (ips.length > 1 && !oneForEachFamily(ips.map((ip) => tryParseIp(ip))))
      errors.push(invalid(`status.${list}`, ips, 'may specify no more than one IP for each IP family'));
  }
  const names = new Set(allContainers(old).map((container) => container.name));
  for (const [i, condition] of (next.status?.conditions ?? []).entries())
    if (!condition.type) errors.push(required(`status.conditions[${i}].type`));
  for (const [i, status] of (next.status?.containerStatuses ?? []).entries())
    if (!names.has(status.name))
      errors.push(
        invalid(`status.containerStatuses[${i}].name`, status.name, 'no such container in the pod'),
      );
  return errors;
}
