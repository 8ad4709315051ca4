/** The environment of a container, as kubelet makes it (makeEnvironmentVariables); pure. */
import { podsError } from '../errors/index.ts';
import type { ConfigMap, Container, EnvVar, Pod } from '../model/kubernetes.ts';
import { quantityValue } from './quantity.ts';

/** What variables may refer to. */
export interface EnvSources {
  pod: Pod;
  /** Looked up in the pod's namespace. */
  configMap(name: string): ConfigMap | undefined;
  podIps: readonly string[];
  hostIps: readonly string[];
}

type Variables = { name: string; value: string }[];

/**
 * Resolves envFrom, then env in order; later variables see earlier ones in `$(NAME)`.
 * Throws PODS_ENV_MISSING when something referred to does not exist and is not optional.
 */
export function containerEnv(container: Container, sources: EnvSources): Variables {
  const values = new Map<string, string>();
  values.set('HOSTNAME', sources.pod.spec.hostname ?? sources.pod.metadata.name);
  for (const from of container.envFrom ?? []) {
    const ref = from.configMapRef;
    if (!ref) throw missing(container, 'envFrom', 'only configMapRef is supported');
    const map = sources.configMap(ref.name);
    if (!map && !ref.optional) throw missing(container, 'envFrom', `configmap "${ref.name}" not found`);
    for (const [key, value] of Object.entries(map?.data ?? {}))
      values.set(`${from.prefix ?? ''}${key}`, value);
  }
  for (const variable of container.env ?? []) {
    const value = variable.valueFrom
      ? referred(container, variable, sources)
      : expand(variable.value ?? '', (name) => values.get(name));
    if (value !== undefined) values.set(variable.name, value);
  }
  return [...values].map(([name, value]) => ({ name, value }));
}

/**
 * Replaces `$(NAME)`; `$$` is a dollar sign, and a name that is not known stays as written.
 *
 *   expand('$(A)-$$(A)-$(B)', A=1)  →  '1-$(A)-$(B)'
 */
export function expand(text: string, lookup: (name: string) => string | undefined): string {
  return text.replace(/\$(?:\$|\(([^)]*)\))/g, (whole, name: string | undefined) =>
    name === undefined ? '$' : (lookup(name) ?? whole),
  );
}

function missing(container: Container, variable: string, why: string) {
  return podsError('PODS_ENV_MISSING', { container: container.name, variable, why });
}

/** undefined: an optional reference to nothing sets no variable. */
function referred(container: Container, variable: EnvVar, sources: EnvSources): string | undefined {
  const { fieldRef, configMapKeyRef, secretKeyRef, resourceFieldRef } = variable.valueFrom!;
  if (fieldRef) {
    const value = podField(fieldRef.fieldPath, sources);
    if (value === undefined)
      throw missing(container, variable.name, `fieldPath "${fieldRef.fieldPath}" is not supported`);
    return value;
  }
  if (configMapKeyRef) {
    const { name, key, optional } = configMapKeyRef;
    const map = sources.configMap(name);
    const value = map?.data?.[key];
    if (value === undefined && !optional)
      throw missing(
        container,
        variable.name,
        map ? `configmap "${name}" has no key "${key}"` : `configmap "${name}" not found`,
      );
    return value;
  }
  if (secretKeyRef) {
    if (secretKeyRef.optional) return undefined;
    throw missing(container, variable.name, `secret "${secretKeyRef.name}": Secrets are not served`);
  }
  if (resourceFieldRef) {
    const value = resourceField(container, sources.pod, resourceFieldRef);
    if (value === undefined)
      throw missing(container, variable.name, `resource "${resourceFieldRef.resource}" is not set`);
    return value;
  }
  throw missing(container, variable.name, 'valueFrom names no source');
}

/** A field of the pod for the downward API; undefined when it is not one of those that may be asked for. */
export function podField(path: string, sources: Omit<EnvSources, 'configMap'>): string | undefined {
  const { pod, podIps, hostIps } = sources;
  const keyed = /^metadata\.(labels|annotations)\['(.+)'\]$/.exec(path);
  if (keyed) return pod.metadata[keyed[1] as 'labels' | 'annotations']?.[keyed[2]!] ?? '';
  const fields: Record<string, string> = {
    'metadata.name': pod.metadata.name,
    'metadata.namespace': pod.metadata.namespace ?? 'default',
    'metadata.uid': pod.metadata.uid ?? '',
    'spec.nodeName': pod.spec.nodeName ?? '',
    'spec.serviceAccountName': pod.spec.serviceAccountName ?? 'default',
    'status.podIP': podIps[0] ?? '',
    'status.podIPs': podIps.join(','),
    'status.hostIP': hostIps[0] ?? '',
    'status.hostIPs': hostIps.join(','),
  };
  return fields[path];
}

function resourceField(
  container: Container,
  pod: Pod,
  ref: NonNullable<NonNullable<EnvVar['valueFrom']>['resourceFieldRef']>,
): string | undefined {
  const of =
    ref.containerName === undefined
      ? container
      : [...pod.spec.containers, ...(pod.spec.initContainers ?? [])].find(
          (one) => one.name === ref.containerName,
        );
  const [list, name] = ref.resource.split('.') as [string, string | undefined];
  const lists = of?.resources as Record<string, Record<string, string | number> | undefined> | undefined;
  // Without a limit kubelet answers the node's whole; a request without value is 0.
  const quantity = name === undefined ? undefined : lists?.[list]?.[name];
  if (quantity === undefined) return list === 'requests' ? '0' : undefined;
  const divisor = quantityValue(ref.divisor ?? '1') || 1;
  return String(Math.ceil(quantityValue(quantity) / divisor));
}
