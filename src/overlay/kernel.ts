import { type NetError, overlayError } from '../errors/index.ts';
import {
  changeLink,
  deleteAddr,
  deleteFdb,
  deleteLink,
  deleteNeigh,
  deleteRoute,
  RT_TABLE,
  Rtnl,
  type RtnlChange,
  replaceAddr,
  replaceFdb,
  replaceNeigh,
  replaceRoute,
} from '../kernel/rtnl/index.ts';
import { ensureSysctl, readSysctl } from '../kernel/sysctl/index.ts';
import { DEVICE_ALIAS, isDeviceName } from './names.ts';
import { changeText } from './text.ts';
import type { Observed, OverlayChange } from './types.ts';

/** The kernel's tables as the overlay uses them; tests pass a fake that keeps state. */
export interface OverlayKernel {
  /** By which a monitor tells changes made here from others. */
  readonly port: number;
  observe(): Observed;
  /** Carries out changes in order; returns what failed. */
  apply(changes: readonly OverlayChange[]): NetError[];
  close(): void;
}

/** The tables of a network namespace, default the process's own. */
export function openOverlayKernel(netns?: number | { readonly fd: number }): OverlayKernel {
  const rtnl = Rtnl.open({ netns });
  return {
    port: rtnl.port,
    observe: () => observe(rtnl, netns),
    apply: (changes) => apply(rtnl, netns, changes),
    close: () => rtnl.close(),
  };
}

function observe(rtnl: Rtnl, netns: number | { readonly fd: number } | undefined): Observed {
  const links = rtnl.links();
  const devices = links.filter((link) => isDeviceName(link.name) && link.kind === 'vxlan');
  return {
    links,
    addrs: rtnl.addrs(),
    routes: rtnl.routes({ table: RT_TABLE.MAIN }),
    neighs: devices.flatMap(({ ifindex }) => rtnl.neighs({ ifindex })),
    fdb: devices.flatMap(({ ifindex }) => rtnl.fdb({ ifindex })),
    sysctl: (path) => readSysctl(path, { netns }),
  };
}

/**
 * Changes of the tables go to the kernel in batches; a device must exist before its index is known, so devices cut
 * the batches. What belongs to a device that could not be made is left out: its own error says enough.
 */
function apply(
  rtnl: Rtnl,
  netns: number | { readonly fd: number } | undefined,
  changes: readonly OverlayChange[],
): NetError[] {
  const errors: NetError[] = [];
  const indexes = new Map(rtnl.links().map((link) => [link.name, link.ifindex]));
  const missing = new Set<string>();
  const batch: RtnlChange[] = [];
  const names = new Map([...indexes].map(([name, ifindex]) => [ifindex, name]));
  const flush = () => {
    for (const { error } of rtnl.apply(batch.splice(0))) if (error) errors.push(error);
  };
  const attempt = (change: OverlayChange, work: () => void) => {
    flush();
    try {
      work();
    } catch (cause) {
      errors.push(overlayError('OVERLAY_APPLY_FAILED', { change: changeText(change) }, cause));
    }
  };
  for (const change of changes)
    switch (change.do) {
      case 'create-device': {
        const { device } = change;
        missing.add(device.name);
        attempt(change, () => {
          const link = rtnl.createLink({
            name: device.name,
            kind: 'vxlan',
            mac: device.mac,
            mtu: device.mtu,
            alias: DEVICE_ALIAS,
            addrGenMode: 'none',
            up: true,
            vxlan: {
              vni: device.vni,
              port: device.port,
              local: device.local,
              lowerIfindex: device.lower.ifindex,
            },
          });
          indexes.set(device.name, link.ifindex);
          names.set(link.ifindex, device.name);
          missing.delete(device.name);
        });
        break;
      }
      case 'set-sysctl':
        attempt(change, () => ensureSysctl(change.path, change.value, { netns }));
        break;
      default: {
        const dev = devOf(change);
        if (dev !== undefined && missing.has(dev)) break;
        const ifindex = dev === undefined ? undefined : indexes.get(dev);
        if (dev !== undefined && ifindex === undefined) {
          // A link vanished since the plan was made; its notification brings the next plan.
          if (change.do.startsWith('set-'))
            errors.push(
              overlayError(
                'OVERLAY_APPLY_FAILED',
                { change: changeText(change) },
                new Error(`no link "${dev}"`),
              ),
            );
          break;
        }
        batch.push(tableChange(change, ifindex));
      }
    }
  flush();
  return errors;
}

type TableChange = Exclude<OverlayChange, { do: 'create-device' | 'set-sysctl' }>;

function devOf(change: TableChange): string | undefined {
  return change.do === 'set-route' ? change.route.dev : change.dev;
}

function tableChange(change: TableChange, ifindex = 0): RtnlChange {
  switch (change.do) {
    case 'delete-device':
      return deleteLink(change.ifindex);
    case 'set-device':
      return changeLink(ifindex, change.set);
    case 'set-address':
      return replaceAddr({ ifindex, address: change.address, prefixLength: change.prefixLength });
    case 'delete-address':
      return deleteAddr({ ifindex, address: change.address, prefixLength: change.prefixLength });
    case 'set-neigh':
      return replaceNeigh({ ifindex, destination: change.destination, mac: change.mac });
    case 'delete-neigh':
      return deleteNeigh({ ifindex, destination: change.destination });
    case 'set-fdb':
      return replaceFdb({ ifindex, mac: change.mac, destination: change.destination });
    case 'delete-fdb':
      return deleteFdb({ ifindex, mac: change.mac, destination: change.destination });
    case 'set-route': {
      const { destination, type, gateway, onlink, metric } = change.route;
      return replaceRoute({ destination, type, gateway, onlink, metric, oif: ifindex || undefined });
    }
    case 'delete-route':
      return deleteRoute(change.route);
  }
}
