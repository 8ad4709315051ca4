/** ServiceCIDRs: made Ready at once, and kept while a Service has an address in them. */
import { parseIp, tryParseCidr } from '../../addr/index.ts';
import type { ServiceCIDR } from '../../model/kubernetes.ts';
import { timeText } from '../registry/objects.ts';
import type { Strategy } from '../registry/strategy.ts';
import type { ServiceAddresses } from './service-addresses.ts';

export function serviceCidrStrategy(addresses: ServiceAddresses, clock: () => Date): Strategy {
  return {
    prepareCreate: (object) => {
      (object as ServiceCIDR).status = {
        conditions: [
          {
            type: 'Ready',
            status: 'True',
            reason: '',
            message: 'Kubernetes Service CIDR is ready',
            lastTransitionTime: timeText(clock()),
          },
        ],
      };
    },
    refuseDelete: (object) => {
      const own = ((object as ServiceCIDR).spec?.cidrs ?? []).flatMap((text) => tryParseCidr(text) ?? []);
      for (const text of addresses.taken) {
        const ip = parseIp(text);
        const here = own.filter((cidr) => cidr.contains(ip)).length;
        const anywhere = addresses.networks(ip.family).filter((cidr) => cidr.contains(ip)).length;
        if (here > 0 && anywhere === here)
          return `it has the address ${text} of a Service; delete that Service first`;
      }
      return undefined;
    },
  };
}
