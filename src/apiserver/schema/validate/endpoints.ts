/** Rules for EndpointSlice and Endpoints: pkg/apis/discovery/validation and pkg/apis/core/validation, v1.32. */
import { tryParseIp } from '../../../addr/index.ts';
import type { EndpointSlice, EndpointSliceEndpoint, Endpoints } from '../../../model/kubernetes.ts';
import type { FieldError } from '../decode.ts';
import { validateNonSpecialIp, validatePort, validateProtocol } from './addresses.ts';
import { duplicate, immutable, invalid, invalidEach, oneOf, required, tooMany } from './field-errors.ts';
import { dns1123Label, dns1123Subdomain, labelValue, qualifiedName } from './names.ts';

const maxEndpoints = 1000;
const maxAddresses = 100;
const maxPorts = 20_000;
const maxZoneHints = 8;

export function validateEndpointSlice(slice: EndpointSlice): FieldError[] {
  const endpoints = slice.endpoints ?? [];
  const errors = oneOf('addressType', slice.addressType, ['FQDN', 'IPv4', 'IPv6']);
  if (endpoints.length > maxEndpoints)
    return [...errors, tooMany('endpoints', endpoints.length, maxEndpoints)];
  for (const [i, endpoint] of endpoints.entries())
    errors.push(...validateEndpoint(`endpoints[${i}]`, endpoint, slice.addressType));
  return [...errors, ...validateSlicePorts(slice)];
}

export const validateEndpointSliceUpdate = (next: EndpointSlice, old: EndpointSlice): FieldError[] =>
  immutable('addressType', next.addressType, old.addressType);

function validateEndpoint(
  at: string,
  endpoint: EndpointSliceEndpoint,
  type: EndpointSlice['addressType'],
): FieldError[] {
  const errors: FieldError[] = [];
  const addresses = endpoint.addresses ?? [];
  if (addresses.length === 0) errors.push(required(`${at}.addresses`, 'must contain at least 1 address'));
  if (addresses.length > maxAddresses)
    errors.push(tooMany(`${at}.addresses`, addresses.length, maxAddresses));
  for (const [i, address] of addresses.entries()) {
    const field = `${at}.addresses[${i}]`;
    if (addresses.indexOf(address) < i) errors.push(duplicate(field, address));
    errors.push(...validateAddress(field, address, type));
  }
  if (endpoint.nodeName != null)
    errors.push(...invalidEach(`${at}.nodeName`, endpoint.nodeName, dns1123Subdomain(endpoint.nodeName)));
  if (endpoint.hostname != null)
    errors.push(...invalidEach(`${at}.hostname`, endpoint.hostname, dns1123Label(endpoint.hostname)));
  const zones = endpoint.hints?.forZones ?? [];
  if (zones.length > maxZoneHints) errors.push(tooMany(`${at}.hints.forZones`, zones.length, maxZoneHints));
  for (const [i, zone] of zones.entries()) {
    const field = `${at}.hints.forZones[${i}].name`;
    if (zones.findIndex((other) => other.name === zone.name) < i) errors.push(duplicate(field, zone.name));
    errors.push(...invalidEach(field, zone.name ?? '', labelValue(zone.name ?? '')));
  }
  return errors;
}

function validateAddress(field: string, address: string, type: EndpointSlice['addressType']): FieldError[] {
  if (type === 'FQDN') {
    const faults = dns1123Subdomain(address);
    if (faults.length === 0 && !address.includes('.'))
      faults.push('should be a domain with at least two segments separated by dots');
    return invalidEach(field, address, faults);
  }
  if (type !== 'IPv4' && type !== 'IPv6') return [];
  if (`IPv${tryParseIp(address)?.family}` !== type)
    return [invalid(field, address, `must be a valid ${type} address`)];
  return validateNonSpecialIp(field, address);
}

function validateSlicePorts(slice: EndpointSlice): FieldError[] {
  const ports = slice.ports ?? [];
  if (ports.length > maxPorts) return [tooMany('ports', ports.length, maxPorts)];
  const errors: FieldError[] = [];
  const names = new Set<string>();
  for (const [i, port] of ports.entries()) {
    const at = `ports[${i}]`;
    const name = port.name ?? '';
    if (name !== '') errors.push(...invalidEach(`${at}.name`, name, dns1123Label(name)));
    if (names.has(name)) errors.push(duplicate(`${at}.name`, name));
    names.add(name);
    errors.push(...validateProtocol(`${at}.protocol`, port.protocol));
    if (port.port != null) errors.push(...validatePort(`${at}.port`, port.port));
    if (port.appProtocol)
      errors.push(...invalidEach(`${at}.appProtocol`, port.appProtocol, qualifiedName(port.appProtocol)));
  }
  return errors;
}

export function validateEndpoints(endpoints: Endpoints): FieldError[] {
  const errors: FieldError[] = [];
  for (const [i, subset] of (endpoints.subsets ?? []).entries()) {
    const at = `subsets[${i}]`;
    if (!subset.addresses?.length && !subset.notReadyAddresses?.length)
      errors.push(required(at, 'must specify `addresses` or `notReadyAddresses`'));
    for (const list of ['addresses', 'notReadyAddresses'] as const)
      for (const [j, address] of (subset[list] ?? []).entries()) {
        const field = `${at}.${list}[${j}]`;
        errors.push(...validateNonSpecialIp(`${field}.ip`, address.ip ?? ''));
        if (address.hostname)
          errors.push(...invalidEach(`${field}.hostname`, address.hostname, dns1123Label(address.hostname)));
      }
    const ports = subset.ports ?? [];
    for (const [j, port] of ports.entries()) {
      const field = `${at}.ports[${j}]`;
      if (port.name) errors.push(...invalidEach(`${field}.name`, port.name, dns1123Label(port.name)));
      else if (ports.length > 1) errors.push(required(`${field}.name`));
      errors.push(...validatePort(`${field}.port`, port.port));
      errors.push(...validateProtocol(`${field}.protocol`, port.protocol));
    }
  }
  return errors;
}
