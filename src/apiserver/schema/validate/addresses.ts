/** Rules for addresses, networks, ports and protocols that several kinds share. */
import { type Cidr, type IpAddress, looseCidr, tryParseIp } from '../../../addr/index.ts';
import type { IntOrString } from '../../../model/kubernetes.ts';
import type { FieldError } from '../decode.ts';
import { invalid, invalidEach, oneOf } from './field-errors.ts';
import { portName, portNumber } from './names.ts';

export const protocols = ['SCTP', 'TCP', 'UDP'] as const;

export const validateProtocol = (field: string, protocol: string | undefined): FieldError[] =>
  oneOf(field, protocol, protocols);

const badIp = 'must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)';
const badCidr = 'must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)';

export function validateIp(field: string, text: string): FieldError[] {
  return tryParseIp(text) ? [] : [invalid(field, text, badIp)];
}

/** Host bits may be set, as Kubernetes allows. */
export function validateCidr(field: string, text: string): FieldError[] {
  return looseCidr(text) ? [] : [invalid(field, text, badCidr)];
}

/** Addresses that reach other machines: not loopback, link-local, and so on. */
export function validateNonSpecialIp(field: string, text: string): FieldError[] {
  const ip = tryParseIp(text);
  if (!ip) return [invalid(field, text, badIp)];
  const faults: string[] = [];
  if (ip.isUnspecified) faults.push(`may not be unspecified (${JSON.stringify(text)})`);
  if (ip.isLoopback) faults.push('may not be in the loopback range (127.0.0.0/8, ::1/128)');
  if (ip.isLinkLocal) faults.push('may not be in the link-local range (169.254.0.0/16, fe80::/10)');
  if (isLinkLocalMulticast(ip))
    faults.push('may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)');
  return invalidEach(field, text, faults);
}

function isLinkLocalMulticast(ip: IpAddress): boolean {
  return ip.family === 4 ? (ip.value as number) >>> 8 === 0xe00000 : (ip.value as bigint) >> 112n === 0xff02n;
}

export function validatePort(field: string, port: number | undefined): FieldError[] {
  return invalidEach(field, port ?? 0, portNumber(port ?? 0));
}

/** A port number or the name of a container port. */
export function validatePortOrName(field: string, port: IntOrString | undefined): FieldError[] {
  if (typeof port === 'string') return invalidEach(field, port, portName(port));
  return validatePort(field, port);
}

/** At most two, and of different families. */
export function oneForEachFamily(items: readonly (IpAddress | Cidr | undefined)[]): boolean {
  const families = items.flatMap((item) => (item ? [item.family] : []));
  return items.length <= 2 && new Set(families).size === families.length;
}
