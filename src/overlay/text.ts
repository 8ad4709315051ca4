import { deleteRoute, routeText } from '../kernel/rtnl/index.ts';
import { DEVICE_ALIAS } from './names.ts';
import type { DesiredRoute, OverlayChange } from './types.ts';

type Do = OverlayChange['do'];
type Of<K extends Do> = Extract<OverlayChange, { do: K }>;

const route6 = (family: number) => (family === 6 ? 'ip -6' : 'ip');

/** How a person would type each change. */
const TEXT: { readonly [K in Do]: (change: Of<K>) => string } = {
  'create-device': ({ device: d }) =>
    `ip link add ${d.name} address ${d.mac} mtu ${d.mtu} type vxlan id ${d.vni} local ${d.local} dev ${d.lower.name} dstport ${d.port} nolearning udpcsum; ip link set ${d.name} alias "${DEVICE_ALIAS}" addrgenmode none; ip link set ${d.name} up`,
  'delete-device': ({ dev }) => `ip link del ${dev}`,
  'set-device': ({ dev, set }) =>
    `ip link set ${dev}${set.mac ? ` address ${set.mac}` : ''}${set.mtu ? ` mtu ${set.mtu}` : ''}${set.alias ? ` alias "${set.alias}"` : ''}${set.up ? ' up' : ''}`,
  'set-address': ({ dev, address, prefixLength }) => `ip addr replace ${address}/${prefixLength} dev ${dev}`,
  'delete-address': ({ dev, address, prefixLength }) => `ip addr del ${address}/${prefixLength} dev ${dev}`,
  'set-neigh': ({ dev, destination, mac }) =>
    `ip neigh replace ${destination} lladdr ${mac} dev ${dev} nud permanent`,
  'delete-neigh': ({ dev, destination }) => `ip neigh del ${destination} dev ${dev}`,
  'set-fdb': ({ dev, mac, destination }) =>
    `bridge fdb replace ${mac} dev ${dev} dst ${destination} self permanent`,
  'delete-fdb': ({ dev, mac, destination }) =>
    `bridge fdb del ${mac} dev ${dev}${destination ? ` dst ${destination}` : ''} self`,
  'set-route': ({ route }) => `${route6(route.destination.family)} route replace ${desiredRouteText(route)}`,
  'delete-route': ({ route, dev }) => deleteRoute(route).text(() => dev ?? 'lo'),
  'set-sysctl': ({ path, value }) =>
    `sysctl -w ${path.includes('.') ? path : path.replaceAll('/', '.')}=${value}`,
};

/** A change as a line of a shell script: what `overlay plan` prints. */
export function changeText(change: OverlayChange): string {
  return (TEXT[change.do] as (change: OverlayChange) => string)(change);
}

function desiredRouteText({ destination, type, gateway, dev, onlink, metric }: DesiredRoute): string {
  const OIF = 1;
  const oif = dev === undefined ? undefined : OIF;
  return routeText({ destination, type, gateway, oif, onlink, metric }, () => dev ?? '');
}
