import { addrError } from '../errors/addr.ts';

/** A TCP, UDP or SCTP port from 1 to 65535, in host meaning. */
export type Port = number & { readonly __brand: 'Port' };

/** Index of a network interface inside its namespace, from 1. */
export type IfIndex = number & { readonly __brand: 'IfIndex' };

/** Checks a port number, or reads it from decimal text. Throws ADDR_BAD_PORT. */
export function parsePort(port: string | number): Port {
  const number = typeof port === 'number' ? port : /^[1-9][0-9]{0,4}$/.test(port) ? Number(port) : Number.NaN;
  if (!Number.isInteger(number) || number < 1 || number > 65535)
    throw addrError('ADDR_BAD_PORT', { text: String(port) });
  return number as Port;
}

/** Checks an interface index. Throws ADDR_BAD_IFINDEX. */
export function ifIndex(index: number): IfIndex {
  if (!Number.isInteger(index) || index < 1 || index > 0x7fff_ffff)
    throw addrError('ADDR_BAD_IFINDEX', { text: String(index) });
  return index as IfIndex;
}
