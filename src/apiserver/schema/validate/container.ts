/** Rules for containers of a pod: pkg/apis/core/validation v1.32. */
import type { Container, ContainerPort, EnvVar, Pod, Probe } from '../../../model/kubernetes.ts';
import type { FieldError } from '../decode.ts';
import { parseQuantity } from '../quantity.ts';
import { validatePort, validatePortOrName, validateProtocol } from './addresses.ts';
import {
  duplicate,
  forbidden,
  invalid,
  invalidEach,
  nonNegative,
  notFound,
  notSupported,
  oneOf,
  optionalOneOf,
  required,
} from './field-errors.ts';
import {
  configMapKey,
  dns1123Label,
  dns1123Subdomain,
  envVarName,
  portName,
  qualifiedName,
} from './names.ts';

/** What the shared model leaves out of a container and some rule reads. */
type Full = Omit<Container, 'volumeMounts'> & {
  terminationMessagePolicy?: string;
  lifecycle?: { postStart?: Probe; preStop?: Probe };
  volumeDevices?: { name: string; devicePath: string }[];
  volumeMounts?: { name: string; mountPath: string; subPath?: string; subPathExpr?: string }[];
};

export interface ContainerContext {
  readonly hostNetwork: boolean;
  readonly volumes: ReadonlySet<string>;
  readonly isInit: boolean;
}

export function validateContainer(at: string, container: Full, context: ContainerContext): FieldError[] {
  const errors: FieldError[] = [];
  if (!container.name) errors.push(required(`${at}.name`));
  else errors.push(...invalidEach(`${at}.name`, container.name, dns1123Label(container.name)));
  const { image = '' } = container;
  if (image === '') errors.push(required(`${at}.image`));
  else if (image.trim() !== image)
    errors.push(invalid(`${at}.image`, image, 'must not have leading or trailing whitespace'));
  errors.push(
    ...oneOf(`${at}.imagePullPolicy`, container.imagePullPolicy, ['Always', 'IfNotPresent', 'Never']),
  );
  errors.push(
    ...oneOf(`${at}.terminationMessagePolicy`, container.terminationMessagePolicy, [
      'FallbackToLogsOnError',
      'File',
    ]),
  );
  errors.push(...validatePorts(`${at}.ports`, container.ports ?? [], context));
  errors.push(...(container.env ?? []).flatMap((variable, i) => validateEnv(`${at}.env[${i}]`, variable)));
  errors.push(...validateEnvFrom(`${at}.envFrom`, container));
  errors.push(...validateMounts(at, container, context));
  errors.push(...validateResources(`${at}.resources`, container.resources));
  errors.push(...validateProbes(at, container, context));
  errors.push(...validateSecurityContext(`${at}.securityContext`, container.securityContext));
  if (container.restartPolicy !== undefined) {
    if (!context.isInit)
      errors.push(forbidden(`${at}.restartPolicy`, 'may not be set for non-init containers'));
    else errors.push(...oneOf(`${at}.restartPolicy`, container.restartPolicy, ['Always']));
  }
  return errors;
}

function validatePorts(at: string, ports: ContainerPort[], context: ContainerContext): FieldError[] {
  const errors: FieldError[] = [];
  const names = new Set<string>();
  for (const [i, port] of ports.entries()) {
    const field = `${at}[${i}]`;
    if (port.name) {
      errors.push(...invalidEach(`${field}.name`, port.name, portName(port.name)));
      if (names.has(port.name)) errors.push(duplicate(`${field}.name`, port.name));
      names.add(port.name);
    }
    if (!port.containerPort) errors.push(required(`${field}.containerPort`));
    else errors.push(...validatePort(`${field}.containerPort`, port.containerPort));
    if (port.hostPort) {
      errors.push(...validatePort(`${field}.hostPort`, port.hostPort));
      if (context.hostNetwork && port.hostPort !== port.containerPort)
        errors.push(
          invalid(
            `${field}.containerPort`,
            port.containerPort,
            'must match `hostPort` when `hostNetwork` is true',
          ),
        );
    }
    errors.push(...validateProtocol(`${field}.protocol`, port.protocol));
  }
  return errors;
}

const envFieldPaths = [
  'metadata.name',
  'metadata.namespace',
  'metadata.uid',
  'spec.nodeName',
  'spec.serviceAccountName',
  'status.hostIP',
  'status.hostIPs',
  'status.podIP',
  'status.podIPs',
];

export function validateEnv(at: string, variable: EnvVar): FieldError[] {
  const errors: FieldError[] = [];
  if (!variable.name) errors.push(required(`${at}.name`));
  else errors.push(...invalidEach(`${at}.name`, variable.name, envVarName(variable.name)));
  const source = variable.valueFrom;
  if (!source) return errors;
  const field = `${at}.valueFrom`;
  const given = [source.fieldRef, source.resourceFieldRef, source.configMapKeyRef, source.secretKeyRef];
  const count = given.filter((ref) => ref !== undefined).length;
  if (count === 0)
    errors.push(
      invalid(
        field,
        '',
        'must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`',
      ),
    );
  else if (variable.value) errors.push(invalid(field, '', 'may not be specified when `value` is not empty'));
  else if (count > 1) errors.push(invalid(field, '', 'may not have more than one field specified at a time'));
  if (source.fieldRef) errors.push(...validateFieldPath(`${field}.fieldRef`, source.fieldRef.fieldPath));
  if (source.resourceFieldRef && !source.resourceFieldRef.resource)
    errors.push(required(`${field}.resourceFieldRef.resource`));
  for (const [name, ref] of [
    ['configMapKeyRef', source.configMapKeyRef],
    ['secretKeyRef', source.secretKeyRef],
  ] as const) {
    if (!ref) continue;
    if (!ref.name) errors.push(required(`${field}.${name}.name`));
    if (!ref.key) errors.push(required(`${field}.${name}.key`));
    else errors.push(...invalidEach(`${field}.${name}.key`, ref.key, configMapKey(ref.key)));
  }
  return errors;
}

/** `metadata.labels['app']`. */
const subscript = /^(metadata\.(?:annotations|labels))\['(.*)'\]$/;

function validateFieldPath(at: string, path: string | undefined): FieldError[] {
  if (!path) return [required(`${at}.fieldPath`)];
  const match = subscript.exec(path);
  if (match) return invalidEach(`${at}.fieldPath`, path, qualifiedName(match[2]!.toLowerCase()));
  return envFieldPaths.includes(path) ? [] : [notSupported(`${at}.fieldPath`, path, envFieldPaths)];
}

function validateEnvFrom(at: string, container: Full): FieldError[] {
  return (container.envFrom ?? []).flatMap((source, i) => {
    const field = `${at}[${i}]`;
    const refs = [source.configMapRef, (source as { secretRef?: { name?: string } }).secretRef];
    const given = refs.filter((ref) => ref !== undefined);
    if (given.length === 0) return [invalid(field, '', 'must specify one of: `configMapRef` or `secretRef`')];
    if (given.length > 1) return [invalid(field, '', 'may not have more than one field specified at a time')];
    const name = source.configMapRef ? 'configMapRef' : 'secretRef';
    const errors = source.prefix
      ? invalidEach(`${field}.prefix`, source.prefix, envVarName(source.prefix))
      : [];
    return given[0]!.name
      ? [...errors, ...invalidEach(`${field}.${name}.name`, given[0]!.name, dns1123Subdomain(given[0]!.name))]
      : [...errors, required(`${field}.${name}.name`)];
  });
}

function validateMounts(at: string, container: Full, context: ContainerContext): FieldError[] {
  const errors: FieldError[] = [];
  const paths = new Set<string>();
  for (const [i, mount] of (container.volumeMounts ?? []).entries()) {
    const field = `${at}.volumeMounts[${i}]`;
    if (!mount.name) errors.push(required(`${field}.name`));
    else if (!context.volumes.has(mount.name)) errors.push(notFound(`${field}.name`, mount.name));
    if (!mount.mountPath) errors.push(required(`${field}.mountPath`));
    else if (paths.has(mount.mountPath))
      errors.push(invalid(`${field}.mountPath`, mount.mountPath, 'must be unique'));
    paths.add(mount.mountPath);
    if (mount.subPath) errors.push(...validateLocalPath(`${field}.subPath`, mount.subPath));
    if (mount.subPath && mount.subPathExpr)
      errors.push(
        invalid(`${field}.subPathExpr`, mount.subPathExpr, 'subPathExpr and subPath are mutually exclusive'),
      );
  }
  for (const [i, device] of (container.volumeDevices ?? []).entries()) {
    const field = `${at}.volumeDevices[${i}]`;
    if (!device.name) errors.push(required(`${field}.name`));
    else if (!context.volumes.has(device.name)) errors.push(notFound(`${field}.name`, device.name));
    if (!device.devicePath) errors.push(required(`${field}.devicePath`));
  }
  return errors;
}

/** Relative, and never upwards. */
export function validateLocalPath(field: string, path: string): FieldError[] {
  if (path.startsWith('/')) return [invalid(field, path, 'must be a relative path')];
  if (path.split('/').includes('..')) return [invalid(field, path, "must not contain '..'")];
  return [];
}

const standardResources = /^(cpu|memory|ephemeral-storage|hugepages-.+)$/;

export function validateResources(at: string, resources: Container['resources']): FieldError[] {
  const errors: FieldError[] = [];
  for (const list of ['limits', 'requests'] as const)
    for (const [name, text] of Object.entries(resources?.[list] ?? {})) {
      const field = `${at}.${list}[${name}]`;
      errors.push(...invalidEach(field, name, qualifiedName(name)));
      if (!name.includes('/') && !standardResources.test(name))
        errors.push(invalid(field, name, 'must be a standard resource type or fully qualified'));
      const quantity = parseQuantity(String(text));
      if (quantity && quantity.nanos < 0n)
        errors.push(invalid(field, String(text), 'must be greater than or equal to 0'));
      if (quantity && name.includes('/') && quantity.nanos % 1_000_000_000n !== 0n)
        errors.push(invalid(field, String(text), 'must be an integer'));
    }
  for (const [name, text] of Object.entries(resources?.requests ?? {})) {
    const limit = resources?.limits?.[name];
    if (limit === undefined) continue;
    const wanted = parseQuantity(String(text));
    const allowed = parseQuantity(String(limit));
    if (wanted && allowed && wanted.nanos > allowed.nanos)
      errors.push(
        invalid(`${at}.requests`, String(text), `must be less than or equal to ${name} limit of ${limit}`),
      );
  }
  return errors;
}

function validateProbes(at: string, container: Full, context: ContainerContext): FieldError[] {
  const errors: FieldError[] = [];
  const probes = ['livenessProbe', 'readinessProbe', 'startupProbe'] as const;
  if (context.isInit && container.restartPolicy !== 'Always')
    for (const name of [...probes, 'lifecycle'] as const)
      if (container[name] !== undefined)
        errors.push(
          forbidden(`${at}.${name}`, 'may not be set for init containers without restartPolicy=Always'),
        );
  for (const name of probes) {
    const probe = container[name];
    if (!probe) continue;
    errors.push(...validateProbe(`${at}.${name}`, probe));
    if (name !== 'readinessProbe' && probe.successThreshold !== 1)
      errors.push(invalid(`${at}.${name}.successThreshold`, probe.successThreshold, 'must be 1'));
  }
  for (const name of ['postStart', 'preStop'] as const) {
    const hook = container.lifecycle?.[name];
    if (hook) errors.push(...validateHandler(`${at}.lifecycle.${name}`, hook));
  }
  return errors;
}

const handlers = ['exec', 'httpGet', 'tcpSocket', 'grpc', 'sleep'] as const;

function validateHandler(at: string, handler: Probe): FieldError[] {
  const members = handler as Record<string, unknown>;
  const given = handlers.filter((name) => members[name] !== undefined);
  if (given.length === 0) return [required(at, 'must specify a handler type')];
  const errors = given
    .slice(1)
    .map((name) => forbidden(`${at}.${name}`, 'may not specify more than 1 handler type'));
  const { exec, httpGet, tcpSocket, grpc } = handler;
  if (exec && !exec.command?.length) errors.push(required(`${at}.exec.command`));
  if (httpGet) {
    if (!httpGet.path) errors.push(required(`${at}.httpGet.path`));
    errors.push(...validatePortOrName(`${at}.httpGet.port`, httpGet.port));
    errors.push(...optionalOneOf(`${at}.httpGet.scheme`, httpGet.scheme, ['HTTP', 'HTTPS']));
  }
  if (tcpSocket) errors.push(...validatePortOrName(`${at}.tcpSocket.port`, tcpSocket.port));
  if (grpc) errors.push(...validatePort(`${at}.grpc.port`, grpc.port));
  return errors;
}

function validateProbe(at: string, probe: Probe): FieldError[] {
  return [
    ...validateHandler(at, probe),
    ...nonNegative(`${at}.initialDelaySeconds`, probe.initialDelaySeconds),
    ...nonNegative(`${at}.timeoutSeconds`, probe.timeoutSeconds),
    ...nonNegative(`${at}.periodSeconds`, probe.periodSeconds),
    ...nonNegative(`${at}.successThreshold`, probe.successThreshold),
    ...nonNegative(`${at}.failureThreshold`, probe.failureThreshold),
  ];
}

function validateSecurityContext(at: string, context: Record<string, unknown> | undefined): FieldError[] {
  const errors: FieldError[] = [];
  if (!context) return errors;
  for (const id of ['runAsUser', 'runAsGroup']) {
    const value = context[id];
    if (typeof value === 'number' && (value < 0 || value > 2 ** 31 - 1))
      errors.push(invalid(`${at}.${id}`, value, 'must be between 0 and 2147483647, inclusive'));
  }
  const elevated = context['privileged'] === true;
  if (elevated && context['allowPrivilegeEscalation'] === false)
    errors.push(
      invalid(at, context, 'cannot set `allowPrivilegeEscalation` to false and `privileged` to true'),
    );
  if (context['procMount'] !== undefined)
    errors.push(...oneOf(`${at}.procMount`, context['procMount'], ['Default', 'Unmasked']));
  return errors;
}

/** Host ports are one resource for all containers of the pod. */
export function validateHostPorts(pod: Pod): FieldError[] {
  const errors: FieldError[] = [];
  const taken = new Set<string>();
  for (const [i, container] of pod.spec.containers.entries())
    for (const [j, port] of (container.ports ?? []).entries()) {
      if (!port.hostPort) continue;
      const key = `${port.protocol}/${port.hostIP ?? ''}/${port.hostPort}`;
      if (taken.has(key)) errors.push(duplicate(`spec.containers[${i}].ports[${j}].hostPort`, key));
      taken.add(key);
    }
  return errors;
}
