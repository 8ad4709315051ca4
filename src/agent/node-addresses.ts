import { FAMILIES, type Family, type IpAddress } from '../addr/index.ts';
import { agentError } from '../errors/index.ts';
import { type Addr, isLone, type Route } from '../kernel/rtnl/index.ts';

const GLOBAL_SCOPE = 0;

/**
 * The addresses by which other nodes reach this one: those of the link that the default route leaves by, one a
 * family. `families` are those that pods use. Throws AGENT_NO_ROUTE for one that has none.
 */
export function nodeAddresses(
  observed: { routes: readonly Route[]; addrs: readonly Addr[] },
  families: ReadonlySet<Family>,
): IpAddress[] {
  return FAMILIES.filter((family) => families.has(family)).map((family) => {
    const byDefault = observed.routes
      .filter(
        (route) =>
          route.family === family && route.destination.prefixLength === 0 && route.type === 'unicast',
      )
      .sort((a, b) => a.metric - b.metric)[0];
    const there = observed.addrs.filter(
      ({ ifindex, scope, address }) =>
        address.family === family && scope === GLOBAL_SCOPE && ifindex === byDefault?.oif,
    );
    const found = byDefault?.source ?? (there.find((each) => !isLone(each)) ?? there[0])?.address;
    if (!found) throw agentError('AGENT_NO_ROUTE', { family: `IPv${family}` });
    return found;
  });
}
