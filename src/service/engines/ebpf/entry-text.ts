/** Entries of maps as people read them. */
import { socketAddress } from '../../describe.ts';
import {
  BACKEND,
  backendStruct,
  endpointStruct,
  FRONTEND,
  frontendStruct,
  KINDS,
  protocolName,
  readAddress,
} from './layout.ts';

/** `lb_frontends[10.96.0.10:80/TCP] = id 3, service 2, 3 entries from line 4, outside 251 from line 5`. */
export function frontendText(key: Uint8Array, value: Uint8Array | undefined): string {
  const { address, port, protocol } = endpointStruct.decode(key);
  const name = `lb_frontends[${socketAddress(readAddress(address), port)}/${protocolName(protocol)}]`;
  if (!value) return `${name} is absent`;
  const f = frontendStruct.decode(value);
  const side = (line: number, size: number) =>
    size === 0 ? 'nobody' : `${size} ${size === 1 ? 'entry' : 'entries'} from line ${line}`;
  const inside = side(f.inside_line, f.inside_size);
  const outside = side(f.outside_line, f.outside_size);
  return [
    `${name} = id ${f.id}`,
    `service ${f.service}`,
    KINDS[(f.flags >> FRONTEND.KIND_SHIFT) & 15],
    ...(f.affinity_s === 0 ? [] : [`affinity ${f.affinity_s} s`]),
    inside,
    ...(outside === inside ? [] : [`outside ${outside}`]),
    ...flagNames(f.flags, FRONTEND),
  ].join(', ');
}

/** `lb_backends[17] = 10.244.1.2:8080/TCP, service 2, CLUSTER NEAR`. */
export function backendText(id: number, value: Uint8Array | undefined): string {
  if (!value || (value[19]! & BACKEND.USED) === 0) return `lb_backends[${id}] is absent`;
  const { address, port, protocol, flags, service } = backendStruct.decode(value);
  const to = `${socketAddress(readAddress(address), port)}/${protocolName(protocol)}`;
  const names = flagNames(flags & ~BACKEND.USED, BACKEND).join(' ') || 'for open connections only';
  return `lb_backends[${id}] = ${to}, service ${service}, ${names}`;
}

export function flagNames(flags: number, names: Readonly<Record<string, number>>): string[] {
  return Object.entries(names)
    .filter(([name, bit]) => name !== 'KIND_SHIFT' && flags & bit)
    .map(([name]) => name);
}
