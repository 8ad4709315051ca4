/** Values of packets compared with values of rules. Pure. */
import { tryParseCidr, tryParseIp } from '../../addr/index.ts';
import type { Probe, Tri } from './types.ts';

/** Names of services that rules use for ports (IANA). */
const PORTS: Readonly<Record<string, number>> = { ssh: 22, domain: 53, http: 80, https: 443 };

/** Whether an address lies in `10.0.0.0/8`, `10.0.0.1` or `10.0.0.1-10.0.0.9`. */
export function addressIn(address: string | undefined, text: string): Tri {
  const ip = address === undefined ? undefined : tryParseIp(address);
  if (!ip) return 'maybe';
  const [first, last] = text.split('-').map((each) => tryParseIp(each));
  if (first && last)
    return first.family === ip.family && ip.compare(first) >= 0 && ip.compare(last) <= 0 ? 'yes' : 'no';
  const one = tryParseIp(text);
  if (one) return one.equals(ip) ? 'yes' : 'no';
  const cidr = tryParseCidr(text);
  if (!cidr) return 'maybe';
  return cidr.family === ip.family && cidr.contains(ip) ? 'yes' : 'no';
}

/** Interface names of rules may end with "*" or, in iptables, "+". */
export function interfaceIs(name: string | undefined, pattern: string): Tri {
  if (name === undefined) return 'maybe';
  const prefix = /[*+]$/.test(pattern) ? pattern.slice(0, -1) : undefined;
  if (prefix !== undefined) return name.startsWith(prefix) ? 'yes' : 'no';
  return name === pattern ? 'yes' : 'no';
}

/** `80`, `http`, `8000-8999` or `8000:8999`. */
export function portIs(port: number | undefined, text: string): Tri {
  if (port === undefined) return 'maybe';
  const [first, last] = text.split(/[-:]/).map((each) => PORTS[each] ?? Number(each));
  if (first === undefined || Number.isNaN(first) || (last !== undefined && Number.isNaN(last)))
    return 'maybe';
  return port >= first && port <= (last ?? first) ? 'yes' : 'no';
}

export function protocolIs(probe: Probe, text: string): Tri {
  const own =
    probe.protocol === 'icmp' && probe.family === 6 ? ['ipv6-icmp', 'icmpv6', '58'] : [probe.protocol];
  const numbers: Readonly<Record<string, string>> = { tcp: '6', udp: '17', icmp: '1' };
  return own.includes(text) || text === 'all' || numbers[probe.protocol] === text ? 'yes' : 'no';
}

/** Probes are first packets of connections. */
export function stateIs(states: readonly string[]): Tri {
  return states.map((state) => state.toLowerCase()).includes('new') ? 'yes' : 'no';
}
