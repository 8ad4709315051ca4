/**
 * Life of ServiceCIDR objects: usable ones get the Ready condition and a finalizer; one that is being deleted stays
 * until no Service needs its addresses. Pure.
 * Source: k8s.io/kubernetes/pkg/controller/servicecidrs, KEP-1880.
 */
import { type Cidr, tryParseCidr, tryParseIp } from '../../addr/index.ts';
import type { Condition } from '../../model/kubernetes.ts';
import { conditionOf, type ServiceCidrView, type ServiceView } from '../views.ts';

export const serviceCidrFinalizer = 'networking.k8s.io/service-cidr-finalizer';

export type ServiceCidrWrite =
  | { verb: 'finalizers'; object: ServiceCidrView; finalizers: string[] }
  | { verb: 'condition'; object: ServiceCidrView; condition: Condition };

/** What to write about all ServiceCIDRs; `now` is RFC 3339. */
export function planServiceCidrs(
  objects: readonly ServiceCidrView[],
  services: Iterable<ServiceView>,
  now: string,
): ServiceCidrWrite[] {
  const writes: ServiceCidrWrite[] = [];
  const deleting = objects.filter((object) => object.deleting);
  const others = networksOf(objects.filter((object) => !object.deleting));
  const inUse = deleting.length > 0 ? addressesOf(services) : [];
  for (const object of objects) {
    const has = object.finalizers.includes(serviceCidrFinalizer);
    const ready = conditionOf(object.conditions, 'Ready');
    if (!object.deleting) {
      if (!has)
        writes.push({
          verb: 'finalizers',
          object,
          finalizers: [...object.finalizers, serviceCidrFinalizer],
        });
      if (ready?.status !== 'True')
        writes.push({
          verb: 'condition',
          object,
          condition: {
            type: 'Ready',
            status: 'True',
            reason: '',
            message: 'Kubernetes Service CIDR is ready',
            lastTransitionTime: now,
          },
        });
      continue;
    }
    if (!has) continue;
    const mine = networksOf([object]);
    // Addresses that another ServiceCIDR covers as well do not need this one.
    const needed = inUse.some(
      (address) =>
        mine.some((network) => network.contains(address)) &&
        !others.some((network) => network.contains(address)),
    );
    if (!needed)
      writes.push({
        verb: 'finalizers',
        object,
        finalizers: object.finalizers.filter((name) => name !== serviceCidrFinalizer),
      });
    else if (ready?.status !== 'False')
      writes.push({
        verb: 'condition',
        object,
        condition: {
          type: 'Ready',
          status: 'False',
          reason: 'Terminating',
          message:
            'There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR',
          lastTransitionTime: now,
        },
      });
  }
  return writes;
}

function networksOf(objects: readonly ServiceCidrView[]): Cidr[] {
  return objects.flatMap(({ cidrs }) => cidrs.flatMap((text) => tryParseCidr(text) ?? []));
}

function addressesOf(services: Iterable<ServiceView>) {
  return [...services].flatMap(({ spec }) =>
    (spec.clusterIPs ?? (spec.clusterIP ? [spec.clusterIP] : [])).flatMap((text) => tryParseIp(text) ?? []),
  );
}
