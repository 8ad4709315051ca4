/** Rules for Service: pkg/apis/core/validation, ValidateService and ValidateServiceUpdate, v1.32. */
import { tryParseIp } from '../../../addr/index.ts';
import type { Service } from '../../../model/kubernetes.ts';
import type { FieldError } from '../decode.ts';
import {
  oneForEachFamily,
  validateCidr,
  validateIp,
  validateNonSpecialIp,
  validatePort,
  validatePortOrName,
  validateProtocol,
} from './addresses.ts';
import {
  duplicate,
  equalJson,
  forbidden,
  invalid,
  invalidEach,
  nonNegative,
  notSupported,
  oneOf,
  optionalOneOf,
  required,
} from './field-errors.ts';
import { validateLabels } from './meta.ts';
import { dns1123Label, dns1123Subdomain, qualifiedName } from './names.ts';

type Spec = Service['spec'];
type Port = NonNullable<Spec['ports']>[number];

const types = ['ClusterIP', 'ExternalName', 'LoadBalancer', 'NodePort'];
/** Seconds: one day. */
const maxAffinityTimeout = 86_400;
const headless = 'None';

export function validateService(service: Service): FieldError[] {
  const { spec } = service;
  return [
    ...validatePorts(spec),
    ...oneOf('spec.type', spec.type, types),
    ...validateType(spec),
    ...validateLabels(spec.selector ?? {}, 'spec.selector'),
    ...validateAffinity(spec),
    ...validateClusterIPs(spec),
    ...validateLoadBalancer(spec),
    ...validateTraffic(spec),
    ...(spec.externalIPs ?? []).flatMap((ip, i) => validateNonSpecialIp(`spec.externalIPs[${i}]`, ip)),
  ];
}

const isHeadless = (spec: Spec) => spec.clusterIP === headless || spec.clusterIPs?.[0] === headless;

function validatePorts(spec: Spec): FieldError[] {
  const ports = spec.ports ?? [];
  const errors: FieldError[] = [];
  if (ports.length === 0 && !isHeadless(spec) && spec.type !== 'ExternalName')
    errors.push(required('spec.ports'));
  const names = new Set<string>();
  const numbers = new Set<string>();
  const nodePorts = new Set<string>();
  for (const [i, port] of ports.entries()) {
    const at = `spec.ports[${i}]`;
    errors.push(...validateServicePort(at, port, ports.length > 1));
    if (port.name && names.has(port.name)) errors.push(duplicate(`${at}.name`, port.name));
    if (port.name) names.add(port.name);
    const key = `${port.protocol}/${port.port}`;
    if (numbers.has(key)) errors.push(duplicate(at, { port: port.port, protocol: port.protocol }));
    numbers.add(key);
    if (!port.nodePort) continue;
    const nodeKey = `${port.protocol}/${port.nodePort}`;
    if (nodePorts.has(nodeKey))
      errors.push(duplicate(at, { nodePort: port.nodePort, protocol: port.protocol }));
    nodePorts.add(nodeKey);
    if (spec.type === 'ClusterIP')
      errors.push(forbidden(`${at}.nodePort`, "may not be used when `type` is 'ClusterIP'"));
  }
  return errors;
}

function validateServicePort(at: string, port: Port, requireName: boolean): FieldError[] {
  const errors: FieldError[] = [];
  if (port.name) errors.push(...invalidEach(`${at}.name`, port.name, dns1123Label(port.name)));
  else if (requireName) errors.push(required(`${at}.name`));
  errors.push(...validatePort(`${at}.port`, port.port));
  errors.push(...validateProtocol(`${at}.protocol`, port.protocol));
  errors.push(...validatePortOrName(`${at}.targetPort`, port.targetPort));
  if (port.appProtocol)
    errors.push(...invalidEach(`${at}.appProtocol`, port.appProtocol, qualifiedName(port.appProtocol)));
  if (port.nodePort) errors.push(...validatePort(`${at}.nodePort`, port.nodePort));
  return errors;
}

function validateType(spec: Spec): FieldError[] {
  const errors: FieldError[] = [];
  if ((spec.type === 'LoadBalancer' || spec.type === 'NodePort') && isHeadless(spec))
    errors.push(
      invalid('spec.clusterIPs[0]', headless, `may not be set to 'None' for ${spec.type} services`),
    );
  if (spec.type !== 'ExternalName') return errors;
  const refused = 'may not be set for ExternalName services';
  if (spec.clusterIP || (spec.clusterIPs?.length ?? 0) > 0)
    errors.push(forbidden('spec.clusterIPs', refused));
  if ((spec.ipFamilies?.length ?? 0) > 0) errors.push(forbidden('spec.ipFamilies', refused));
  if (spec.ipFamilyPolicy !== undefined) errors.push(forbidden('spec.ipFamilyPolicy', refused));
  if (!spec.externalName) return [...errors, required('spec.externalName')];
  const name = spec.externalName.replace(/\.$/, '');
  return [...errors, ...invalidEach('spec.externalName', spec.externalName, dns1123Subdomain(name))];
}

function validateAffinity(spec: Spec): FieldError[] {
  const errors = oneOf('spec.sessionAffinity', spec.sessionAffinity, ['ClientIP', 'None']);
  const config = 'spec.sessionAffinityConfig';
  if (spec.sessionAffinity === 'ClientIP') {
    const timeout = spec.sessionAffinityConfig?.clientIP?.timeoutSeconds;
    if (timeout === undefined) errors.push(required(config, 'when session affinity type is ClientIP'));
    else if (timeout <= 0 || timeout > maxAffinityTimeout)
      errors.push(
        invalid(
          `${config}.clientIP.timeoutSeconds`,
          timeout,
          `must be greater than 0 and less than ${maxAffinityTimeout}`,
        ),
      );
  } else if (spec.sessionAffinity === 'None' && spec.sessionAffinityConfig !== undefined)
    errors.push(forbidden(config, 'must not be set when session affinity is None'));
  return errors;
}

function validateClusterIPs(spec: Spec): FieldError[] {
  const errors: FieldError[] = [];
  const field = 'spec.clusterIPs';
  const ips = spec.clusterIPs ?? [];
  if (spec.clusterIP && spec.clusterIP !== headless)
    errors.push(...validateIp('spec.clusterIP', spec.clusterIP));
  if (ips.length > 0 && spec.clusterIP !== undefined && ips[0] !== spec.clusterIP)
    errors.push(invalid(field, ips, 'first value must match `clusterIP`'));
  if (ips.length > 2) errors.push(invalid(field, ips, 'may only hold up to 2 values'));
  for (const [i, ip] of ips.entries()) {
    if (ip === headless) {
      if (ips.length > 1)
        errors.push(invalid(`${field}[${i}]`, ip, "'None' must be the first and only value"));
    } else errors.push(...validateIp(`${field}[${i}]`, ip));
  }
  if (ips.length === 2 && !ips.includes(headless) && !oneForEachFamily(ips.map((ip) => tryParseIp(ip))))
    errors.push(invalid(field, ips, 'may specify no more than one IP for each IP family'));
  const families = spec.ipFamilies ?? [];
  for (const [i, family] of families.entries()) {
    if (family !== 'IPv4' && family !== 'IPv6')
      errors.push(notSupported(`spec.ipFamilies[${i}]`, family, ['IPv4', 'IPv6']));
    if (families.indexOf(family) < i) errors.push(duplicate(`spec.ipFamilies[${i}]`, family));
    const ip = ips[i] === undefined ? undefined : tryParseIp(ips[i]);
    if (ip && family !== `IPv${ip.family}`)
      errors.push(
        invalid(`${field}[${i}]`, ips[i], `expected an ${family} value as indicated by \`ipFamilies[${i}]\``),
      );
  }
  const policies = ['PreferDualStack', 'RequireDualStack', 'SingleStack'];
  errors.push(...optionalOneOf('spec.ipFamilyPolicy', spec.ipFamilyPolicy, policies));
  return errors;
}

function validateLoadBalancer(spec: Spec): FieldError[] {
  const errors: FieldError[] = [];
  const only = "may only be used when `type` is 'LoadBalancer'";
  const ranges = spec.loadBalancerSourceRanges ?? [];
  if (spec.type !== 'LoadBalancer') {
    if (ranges.length > 0) errors.push(forbidden('spec.LoadBalancerSourceRanges', only));
    if (spec.allocateLoadBalancerNodePorts !== undefined)
      errors.push(forbidden('spec.allocateLoadBalancerNodePorts', only));
    if (spec.loadBalancerClass !== undefined) errors.push(forbidden('spec.loadBalancerClass', only));
  }
  for (const [i, range] of ranges.entries())
    errors.push(...validateCidr(`spec.LoadBalancerSourceRanges[${i}]`, range.trim()));
  if (spec.loadBalancerClass !== undefined)
    errors.push(
      ...invalidEach('spec.loadBalancerClass', spec.loadBalancerClass, qualifiedName(spec.loadBalancerClass)),
    );
  return errors;
}

/** Whether traffic from outside the cluster can reach the Service. */
function isExternal(spec: Spec): boolean {
  return (
    spec.type === 'LoadBalancer' ||
    spec.type === 'NodePort' ||
    (spec.type === 'ClusterIP' && (spec.externalIPs?.length ?? 0) > 0)
  );
}

function validateTraffic(spec: Spec): FieldError[] {
  const errors: FieldError[] = [];
  const policies = ['Cluster', 'Local'];
  const external = spec.externalTrafficPolicy;
  if (isExternal(spec)) errors.push(...oneOf('spec.externalTrafficPolicy', external, policies));
  else if (external !== undefined)
    errors.push(
      invalid('spec.externalTrafficPolicy', external, 'may only be set for externally-accessible services'),
    );
  errors.push(...nonNegative('spec.healthCheckNodePort', spec.healthCheckNodePort));
  if (spec.healthCheckNodePort && !(spec.type === 'LoadBalancer' && external === 'Local'))
    errors.push(
      invalid(
        'spec.healthCheckNodePort',
        spec.healthCheckNodePort,
        "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
      ),
    );
  if (spec.type !== 'ExternalName')
    errors.push(...oneOf('spec.internalTrafficPolicy', spec.internalTrafficPolicy, policies));
  errors.push(
    ...optionalOneOf('spec.trafficDistribution', spec.trafficDistribution, [
      'PreferClose',
      'PreferSameZone',
      'PreferSameNode',
    ]),
  );
  return errors;
}

export function validateServiceUpdate(next: Service, old: Service): FieldError[] {
  const errors: FieldError[] = [];
  const both = (type: string) => next.spec.type === type && old.spec.type === type;
  if (next.spec.type !== 'ExternalName' && old.spec.type !== 'ExternalName') {
    const before = old.spec.clusterIPs ?? (old.spec.clusterIP ? [old.spec.clusterIP] : []);
    const after = next.spec.clusterIPs ?? (next.spec.clusterIP ? [next.spec.clusterIP] : []);
    if (before[0] && after[0] && before[0] !== after[0])
      errors.push(invalid('spec.clusterIPs[0]', after, 'may not change once set'));
    if (before[1] && after[1] && before[1] !== after[1])
      errors.push(invalid('spec.clusterIPs[1]', after, 'may not change once set'));
    const family = old.spec.ipFamilies?.[0];
    if (family && next.spec.ipFamilies?.[0] && family !== next.spec.ipFamilies[0])
      errors.push(invalid('spec.ipFamilies[0]', next.spec.ipFamilies, 'may not change once set'));
  }
  if (both('LoadBalancer') && !equalJson(next.spec.loadBalancerClass, old.spec.loadBalancerClass))
    errors.push(invalid('spec.loadBalancerClass', next.spec.loadBalancerClass, 'may not change once set'));
  if (
    both('LoadBalancer') &&
    next.spec.healthCheckNodePort &&
    old.spec.healthCheckNodePort &&
    next.spec.healthCheckNodePort !== old.spec.healthCheckNodePort
  )
    errors.push(invalid('spec.healthCheckNodePort', next.spec.healthCheckNodePort, 'field is immutable'));
  return errors;
}

export function validateServiceStatus(next: Service): FieldError[] {
  const errors: FieldError[] = [];
  for (const [i, ingress] of (next.status?.loadBalancer?.ingress ?? []).entries()) {
    const at = `status.loadBalancer.ingress[${i}]`;
    if (ingress.ip) errors.push(...validateIp(`${at}.ip`, ingress.ip));
    if (ingress.ipMode !== undefined && !ingress.ip)
      errors.push(forbidden(`${at}.ipMode`, 'may not be specified when `ip` is not set'));
    if (ingress.ip) errors.push(...optionalOneOf(`${at}.ipMode`, ingress.ipMode, ['Proxy', 'VIP']));
    if (!ingress.hostname) continue;
    errors.push(...invalidEach(`${at}.hostname`, ingress.hostname, dns1123Subdomain(ingress.hostname)));
    if (tryParseIp(ingress.hostname))
      errors.push(invalid(`${at}.hostname`, ingress.hostname, 'must be a DNS name, not an IP address'));
  }
  return errors;
}
