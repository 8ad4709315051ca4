/** Rules for NetworkPolicy and ServiceCIDR: pkg/apis/networking/validation v1.32. */
import { looseCidr, tryParseCidr } from '../../../addr/index.ts';
import type {
  NetworkPolicy,
  NetworkPolicyPeer,
  NetworkPolicyPort,
  ServiceCIDR,
} from '../../../model/kubernetes.ts';
import type { FieldError } from '../decode.ts';
import { oneForEachFamily, protocols, validateCidr, validatePortOrName } from './addresses.ts';
import { equalJson, forbidden, invalid, notSupported, optionalOneOf, required } from './field-errors.ts';
import { validateLabelSelector } from './meta.ts';

export function validateNetworkPolicy(policy: NetworkPolicy): FieldError[] {
  const spec = policy.spec ?? {};
  const errors = validateLabelSelector(spec.podSelector, 'spec.podSelector');
  for (const [i, rule] of (spec.ingress ?? []).entries())
    errors.push(...validateRule(`spec.ingress[${i}]`, 'from', rule.from, rule.ports));
  for (const [i, rule] of (spec.egress ?? []).entries())
    errors.push(...validateRule(`spec.egress[${i}]`, 'to', rule.to, rule.ports));
  const types = spec.policyTypes ?? [];
  if (types.length > 2)
    return [...errors, invalid('spec.policyTypes', types, 'may not specify more than two policyTypes')];
  for (const [i, type] of types.entries())
    if (type !== 'Ingress' && type !== 'Egress')
      errors.push(notSupported(`spec.policyTypes[${i}]`, type, ['Egress', 'Ingress']));
  return errors;
}

function validateRule(
  at: string,
  side: 'from' | 'to',
  peers: NetworkPolicyPeer[] = [],
  ports: NetworkPolicyPort[] = [],
): FieldError[] {
  return [
    ...ports.flatMap((port, i) => validatePolicyPort(`${at}.ports[${i}]`, port)),
    ...peers.flatMap((peer, i) => validatePeer(`${at}.${side}[${i}]`, peer)),
  ];
}

function validatePolicyPort(at: string, port: NetworkPolicyPort): FieldError[] {
  const errors = optionalOneOf(`${at}.protocol`, port.protocol, protocols);
  if (port.port !== undefined) errors.push(...validatePortOrName(`${at}.port`, port.port));
  const { endPort } = port;
  if (endPort === undefined) return errors;
  if (port.port === undefined)
    errors.push(required(`${at}.port`, 'must be specified if endPort is specified'));
  else if (typeof port.port === 'string')
    errors.push(invalid(`${at}.endPort`, endPort, 'may not be specified when `port` is non-numeric'));
  else if (endPort < port.port)
    errors.push(invalid(`${at}.endPort`, endPort, 'must be greater than or equal to `port`'));
  if (endPort < 1 || endPort > 65535)
    errors.push(invalid(`${at}.endPort`, endPort, 'must be between 1 and 65535, inclusive'));
  return errors;
}

function validatePeer(at: string, peer: NetworkPolicyPeer): FieldError[] {
  const { podSelector, namespaceSelector, ipBlock } = peer;
  const errors = [
    ...validateLabelSelector(podSelector, `${at}.podSelector`),
    ...validateLabelSelector(namespaceSelector, `${at}.namespaceSelector`),
  ];
  if (!podSelector && !namespaceSelector && !ipBlock) return [...errors, required(at, 'must specify a peer')];
  if (!ipBlock) return errors;
  if (podSelector || namespaceSelector)
    errors.push(forbidden(at, 'may not specify both ipBlock and another peer'));
  if (!ipBlock.cidr) return [...errors, required(`${at}.ipBlock.cidr`)];
  errors.push(...validateCidr(`${at}.ipBlock.cidr`, ipBlock.cidr));
  const outer = looseCidr(ipBlock.cidr);
  for (const [i, text] of (ipBlock.except ?? []).entries()) {
    const field = `${at}.ipBlock.except[${i}]`;
    errors.push(...validateCidr(field, text));
    const inner = looseCidr(text);
    if (inner && outer && (!outer.contains(inner) || inner.prefixLength <= outer.prefixLength))
      errors.push(invalid(field, text, 'must be a strict subset of `cidr`'));
  }
  return errors;
}

export function validateServiceCIDR(object: ServiceCIDR): FieldError[] {
  const field = 'spec.cidrs';
  const cidrs = object.spec?.cidrs ?? [];
  if (cidrs.length === 0) return [required(field, 'at least one CIDR required')];
  if (cidrs.length > 2) return [invalid(field, cidrs, 'may only hold up to 2 values')];
  const errors: FieldError[] = [];
  for (const [i, text] of cidrs.entries()) {
    const loose = looseCidr(text);
    if (!loose) errors.push(...validateCidr(`${field}[${i}]`, text));
    else if (!tryParseCidr(text) || loose.toString() !== text)
      errors.push(
        invalid(`${field}[${i}]`, text, `must be in canonical form (${JSON.stringify(loose.toString())})`),
      );
  }
  if (cidrs.length === 2 && !oneForEachFamily(cidrs.map(looseCidr)))
    errors.push(
      invalid(
        field,
        cidrs,
        'may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64',
      ),
    );
  return errors;
}

/** Ranges in use cannot change; a second family may be added. */
export function validateServiceCIDRUpdate(next: ServiceCIDR, old: ServiceCIDR): FieldError[] {
  const before = old.spec?.cidrs ?? [];
  const after = next.spec?.cidrs ?? [];
  if (equalJson(before, after)) return [];
  if (before.length === 1 && after.length === 2 && before[0] === after[0]) return [];
  return [invalid('spec.cidrs', after, 'field is immutable')];
}
