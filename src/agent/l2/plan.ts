/**
 * Which load balancer addresses this node stands for election to announce: those that Portolan's pools gave, on a
 * link of this node, and for Services that keep the client's address only while a pod of theirs is here. Pure.
 */
import { type Cidr, type IpAddress, parseIp } from '../../addr/index.ts';
import type { ServiceFacts, ServicePlan } from '../../service/index.ts';

/** A link of this node and the network that its neighbours are in. */
export interface L2Link {
  readonly ifindex: number;
  readonly network: Cidr;
}

/** An address that this node would announce. */
export interface Candidacy {
  readonly address: IpAddress;
  readonly ifindex: number;
  /** Keys of the Services that have it. */
  readonly services: readonly string[];
}

export interface L2Plan {
  /** By address. */
  readonly candidacies: ReadonlyMap<string, Candidacy>;
  /** Addresses that some Service has, whoever announces them. */
  readonly inUse: ReadonlySet<string>;
  /** Addresses for which this node does not stand, with the reason. */
  readonly left: ReadonlyMap<string, string>;
}

export function planAnnouncements(
  services: Iterable<Pick<ServiceFacts, 'key' | 'pooledIPs' | 'externalLocal'>>,
  plans: ReadonlyMap<string, Pick<ServicePlan, 'ports'>>,
  links: readonly L2Link[],
): L2Plan {
  const users = new Map<string, { key: string; local: boolean }[]>();
  for (const { key, pooledIPs, externalLocal } of services)
    for (const text of pooledIPs) {
      const list = users.get(text);
      if (list) list.push({ key, local: externalLocal });
      else users.set(text, [{ key, local: externalLocal }]);
    }
  const candidacies = new Map<string, Candidacy>();
  const left = new Map<string, string>();
  for (const [text, list] of users) {
    const address = parseIp(text);
    const link = links.find(({ network }) => network.contains(address));
    const without = list.find(
      ({ key, local }) =>
        local &&
        !plans
          .get(key)
          ?.ports.some((port) => port.family === address.family && port.local.members.length > 0),
    );
    if (!link) left.set(text, 'no link of this node is in its network');
    else if (without)
      left.set(
        text,
        `no pod of Service "${without.key}", which has externalTrafficPolicy Local, is on this node`,
      );
    else candidacies.set(text, { address, ifindex: link.ifindex, services: list.map(({ key }) => key) });
  }
  return { candidacies, inUse: new Set(users.keys()), left };
}

/** Name of the Lease of an address: `portolan-l2-172.31.0.200`, `portolan-l2-fd00-172-31-0-0-0-0-200`. */
export function leaseName(address: IpAddress): string {
  if (address.family === 4) return `portolan-l2-${address}`;
  const value = BigInt(address.value);
  const groups = Array.from({ length: 8 }, (_, at) =>
    ((value >> BigInt(112 - 16 * at)) & 0xffffn).toString(16),
  );
  return `portolan-l2-${groups.join('-')}`;
}
