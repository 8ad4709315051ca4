export {
  Cidr,
  type InterfaceAddress,
  looseCidr,
  parseCidr,
  parseInterfaceAddress,
  tryParseCidr,
  withoutCovered,
} from './cidr.ts';
export { addressBits, FAMILIES, type Family, IpAddress, parseIp, tryParseIp } from './ip-address.ts';
export { formatIpv4, type Ipv4, ipv4Mask, parseIpv4 } from './ipv4.ts';
export { formatIpv6, type Ipv6, parseIpv6 } from './ipv6.ts';
export { isUnicastMac, localMac, type Mac, macBytes, macFromBytes, parseMac } from './mac.ts';
export { type IfIndex, ifIndex, type Port, parsePort } from './number.ts';
