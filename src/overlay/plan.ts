import { type Link, type Route, RT_TABLE, RTPROT_PORTOLAN } from '../kernel/rtnl/index.ts';
import { difference } from '../reconcile/index.ts';
import { DEVICE_ALIAS, isDeviceName } from './names.ts';
import type { Desired, DesiredDevice, DesiredRoute, Observed, OverlayChange } from './types.ts';

/**
 * The steps from what the kernel has to what is wanted, in an order in which traffic always has a path: devices
 * first, then what a route leads to (neighbour, FDB entry), then routes, and removals last. Nothing is removed but
 * what is Portolan's: routes of its protocol number between nodes, entries of its devices, devices with its alias.
 * Pure; an empty answer means that all is as it should be.
 */
export function planOverlay(desired: Desired, observed: Observed): OverlayChange[] {
  const before: OverlayChange[] = [];
  const after: OverlayChange[] = [];
  const byName = new Map(observed.links.map((link) => [link.name, link]));
  const nameOf = new Map(observed.links.map((link) => [link.ifindex, link.name]));
  const kept = new Map<number, string>();

  for (const device of desired.devices) {
    const link = byName.get(device.name);
    if (link && !mustRecreate(device, link)) {
      kept.set(link.ifindex, device.name);
      before.push(...deviceSettings(device, link));
    } else {
      if (link) before.push({ do: 'delete-device', dev: link.name, ifindex: link.ifindex });
      before.push({ do: 'create-device', device });
    }
  }
  for (const link of observed.links)
    if (isOwnDevice(link) && !desired.devices.some((device) => device.name === link.name))
      after.push({ do: 'delete-device', dev: link.name, ifindex: link.ifindex });

  before.push(...sysctlChanges(desired, observed, byName));
  const addresses = difference(
    desired.addresses,
    // Link-local addresses are the kernel's.
    observed.addrs.filter((addr) => kept.has(addr.ifindex) && addr.scope === 0),
    (row) => `${row.dev} ${row.address}/${row.prefixLength}`,
    (row) => `${kept.get(row.ifindex)} ${row.address}/${row.prefixLength}`,
    () => true,
  );
  for (const row of addresses.missing) before.push({ do: 'set-address', ...row });
  for (const { address, prefixLength, ifindex } of addresses.superfluous)
    after.push({ do: 'delete-address', dev: kept.get(ifindex)!, address, prefixLength });

  const neighs = difference(
    desired.neighs,
    // What the kernel keeps for multicast is not permanent and not ours.
    observed.neighs.filter((neigh) => kept.has(neigh.ifindex) && !neigh.destination.isMulticast),
    (row) => `${row.dev} ${row.destination}`,
    (row) => `${kept.get(row.ifindex)} ${row.destination}`,
    (wanted, present) => present.permanent && present.mac === wanted.mac,
  );
  for (const row of [...neighs.missing, ...neighs.changed.map((change) => change.wanted)])
    before.push({ do: 'set-neigh', ...row });

  const fdb = difference(
    desired.fdb,
    observed.fdb.filter((entry) => kept.has(entry.ifindex) && entry.self),
    (row) => `${row.dev} ${row.mac} ${row.destination}`,
    (row) => `${kept.get(row.ifindex)} ${row.mac} ${row.destination}`,
    (_, present) => present.permanent,
  );
  for (const row of [...fdb.missing, ...fdb.changed.map((change) => change.wanted)])
    before.push({ do: 'set-fdb', ...row });

  const dev = (route: Route) => (route.oif === undefined ? undefined : nameOf.get(route.oif));
  const routes = difference(
    desired.routes,
    observed.routes.filter(
      (route) => isOverlayRoute(route, desired, nameOf) && !(route.oif && lostWith(route.oif, kept, nameOf)),
    ),
    (row) => routeKey(row.type, String(row.destination), row.metric),
    (row) => routeKey(row.type, String(row.destination), row.type === 'unicast' ? 0 : row.metric),
    (wanted, present) => sameRoute(wanted, present, dev(present)),
  );
  for (const route of [...routes.missing, ...routes.changed.map((change) => change.wanted)])
    before.push({ do: 'set-route', route });

  // Removals in the opposite order: first nobody is sent there, then the place goes.
  const removals: OverlayChange[] = routes.superfluous.map((route) => ({
    do: 'delete-route',
    route,
    dev: dev(route),
  }));
  for (const { ifindex, mac, destination } of fdb.superfluous)
    removals.push({ do: 'delete-fdb', dev: kept.get(ifindex)!, mac, destination });
  for (const { ifindex, destination, permanent } of neighs.superfluous)
    if (permanent) removals.push({ do: 'delete-neigh', dev: kept.get(ifindex)!, destination });
  return [...before, ...removals, ...after];
}

/** What the kernel cannot change in a device that exists. */
function mustRecreate(device: DesiredDevice, link: Link): boolean {
  const v = link.vxlan;
  if (!v) return true;
  const local = v.local4 ?? v.local6;
  return (
    v.vni !== device.vni ||
    v.port !== device.port ||
    !local?.equals(device.local) ||
    (v.lowerIfindex ?? 0) !== device.lower.ifindex ||
    v.learning === true ||
    v.collectMetadata === true ||
    (device.family === 4 && v.udpChecksum === false)
  );
}

function deviceSettings(device: DesiredDevice, link: Link): OverlayChange[] {
  const set = {
    ...(link.mac === device.mac ? {} : { mac: device.mac }),
    ...(link.mtu === device.mtu ? {} : { mtu: device.mtu }),
    ...(link.alias === DEVICE_ALIAS ? {} : { alias: DEVICE_ALIAS }),
    ...(link.up ? {} : { up: true as const }),
  };
  return Object.keys(set).length === 0 ? [] : [{ do: 'set-device', dev: device.name, set }];
}

function sysctlChanges(
  desired: Desired,
  observed: Observed,
  byName: ReadonlyMap<string, Link>,
): OverlayChange[] {
  const created = new Set<string>();
  for (const device of desired.devices) {
    const link = byName.get(device.name);
    if (!link || mustRecreate(device, link)) created.add(device.name);
  }
  return desired.sysctls.flatMap(({ path, value, onlyIf }): OverlayChange[] => {
    // A device that is about to be made has the kernel's defaults, whatever the former one had.
    const isNew = created.has(path.split('/')[3] ?? '');
    const current = isNew ? undefined : observed.sysctl(path);
    if (current === value || (current === undefined && !isNew)) return [];
    if (onlyIf !== undefined && current !== onlyIf) return [];
    return [{ do: 'set-sysctl', path, value }];
  });
}

/** A device that Portolan made and may delete. */
function isOwnDevice(link: Link): boolean {
  return link.kind === 'vxlan' && link.alias === DEVICE_ALIAS && isDeviceName(link.name);
}

/**
 * A route between nodes that Portolan made. Routes to its own pods have the same protocol number; they have no
 * gateway and lie inside this node's pod networks.
 */
export function isOverlayRoute(
  route: Route,
  { config }: Pick<Desired, 'config'>,
  nameOf: ReadonlyMap<number, string>,
): boolean {
  if (route.protocol !== RTPROT_PORTOLAN || route.table !== RT_TABLE.MAIN) return false;
  if (route.type === 'unreachable') return route.metric === 0xffff_ffff;
  if (route.type !== 'unicast') return false;
  if (isDeviceName(nameOf.get(route.oif ?? 0) ?? '')) return true;
  return route.gateway !== undefined && !config.podCidrs.some((cidr) => cidr.contains(route.destination));
}

/** True when a device of ours is about to be deleted: its routes go with it. */
function lostWith(
  oif: number,
  kept: ReadonlyMap<number, string>,
  nameOf: ReadonlyMap<number, string>,
): boolean {
  return isDeviceName(nameOf.get(oif) ?? '') && !kept.has(oif);
}

function routeKey(type: string, destination: string, metric: number): string {
  return type === 'unicast' ? destination : `${type} ${destination} ${metric}`;
}

function sameRoute(wanted: DesiredRoute, present: Route, dev: string | undefined): boolean {
  if (wanted.type === 'unreachable') return true;
  return (
    dev === wanted.dev &&
    present.onlink === wanted.onlink &&
    !present.nexthops &&
    present.mtu === undefined &&
    present.gateway !== undefined &&
    wanted.gateway?.equals(present.gateway) === true
  );
}
