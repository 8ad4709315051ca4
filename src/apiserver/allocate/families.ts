/** ipFamilies and ipFamilyPolicy of a Service: which ClusterIPs it has. After alloc.go, initIPFamilyFields. */
import { tryParseIp } from '../../addr/index.ts';
import type { FieldCause } from '../../errors/api.ts';
import type { Service } from '../../model/kubernetes.ts';

export type IpFamily = 'IPv4' | 'IPv6';

const invalid = (field: string, value: unknown, why: string): FieldCause => ({
  type: 'FieldValueInvalid',
  field,
  message: `Invalid value: ${JSON.stringify(value)}: ${why}`,
});

export const familyOfIp = (ip: string): IpFamily | undefined => {
  const address = tryParseIp(ip);
  return address && (address.family === 4 ? 'IPv4' : 'IPv6');
};

const other = (family: IpFamily): IpFamily => (family === 'IPv4' ? 'IPv6' : 'IPv4');

/**
 * Fills ipFamilies and ipFamilyPolicy in from what is given and what the cluster has (`offered`, primary first).
 * @returns what is wrong
 */
export function fillFamilies(service: Service, offered: readonly IpFamily[]): FieldCause[] {
  const { spec } = service;
  const headless = spec.clusterIP === 'None';
  const selectorless = Object.keys(spec.selector ?? {}).length === 0;
  const ips = (spec.clusterIPs ?? []).filter((ip) => ip !== 'None');
  const families = [...(spec.ipFamilies ?? [])];
  const twoAsked = ips.length === 2 || families.length === 2;
  if (spec.ipFamilyPolicy === undefined && twoAsked) spec.ipFamilyPolicy = 'RequireDualStack';
  for (const [i, ip] of ips.entries()) {
    const family = familyOfIp(ip);
    if (family && families[i] === undefined) families[i] = family;
  }
  // Without a selector anyone may write endpoints of any family, so nothing is checked against the cluster.
  if (headless && selectorless) {
    spec.ipFamilyPolicy ??= 'RequireDualStack';
    if (families.length === 0) families.push(offered[0]!);
    if (spec.ipFamilyPolicy !== 'SingleStack' && families.length === 1) families.push(other(families[0]!));
    spec.ipFamilies = families;
    return [];
  }
  spec.ipFamilyPolicy ??= 'SingleStack';
  if (spec.ipFamilyPolicy === 'SingleStack' && families.length > 1)
    return [
      invalid(
        'spec.ipFamilyPolicy',
        spec.ipFamilyPolicy,
        "must be RequireDualStack or PreferDualStack when multiple 'ipFamilies' are specified",
      ),
    ];
  if (spec.ipFamilyPolicy === 'RequireDualStack' && offered.length < 2)
    return [
      invalid(
        'spec.ipFamilyPolicy',
        spec.ipFamilyPolicy,
        'this cluster is not configured for dual-stack services',
      ),
    ];
  const missing = families.findIndex((family) => !offered.includes(family));
  if (missing >= 0)
    return [invalid(`spec.ipFamilies[${missing}]`, families[missing], 'not configured on this cluster')];
  if (families.length === 0) families.push(offered[0]!);
  if (spec.ipFamilyPolicy !== 'SingleStack' && families.length === 1 && offered.length === 2)
    families.push(other(families[0]!));
  spec.ipFamilies = families;
  return [];
}
