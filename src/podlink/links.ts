import { isNetError, kernelCause, type NetError } from '../errors/net-error.ts';
import { podlinkError } from '../errors/podlink.ts';
import { deleteLink, type Link, RTPROT_PORTOLAN, Rtnl } from '../kernel/rtnl/index.ts';
import { ERRNO } from '../kernel/syscall/index.ts';
import { ensureSysctl, readSysctl } from '../kernel/sysctl/index.ts';
import { PodBridge } from './bridge.ts';
import { hostSysctls, planHostEnd, planPodEnd, podSysctls, vethSpec } from './plan.ts';
import {
  BRIDGE_NAME,
  type HostEnd,
  isHostLinkName,
  type PodEnd,
  type PodLink,
  type PodLinkSpec,
  type Step,
} from './types.ts';

/** The part of the routing tables that pod links use; tests pass one that fails where they want. */
export type LinkTables = Pick<
  Rtnl,
  'apply' | 'createLink' | 'link' | 'links' | 'addrs' | 'routes' | 'neighs' | 'fdb' | 'port' | 'close'
>;

export interface PodLinksOptions {
  /** Descriptor of the node's network namespace, default the process's own. */
  readonly netns?: { readonly fd: number } | undefined;
  /** The node's tables, and for a moment those of a pod. */
  readonly openTables?: (netns: number | { readonly fd: number } | undefined) => LinkTables;
  readonly setSysctl?: typeof ensureSysctl;
  readonly readSysctl?: typeof readSysctl;
}

/** What of the host's side was found, by name of the host link. */
export type HostEnds = ReadonlyMap<string, HostEnd>;

/** Index of `lo` in every namespace: include/net/net_namespace.h, LOOPBACK_IFINDEX. */
const LOOPBACK_IFINDEX = 1;
/** For so long the settings that new links inherit are taken as known. */
const DEFAULTS_VALID_MS = 1000;

/**
 * Makes, repairs, checks and removes the links of the pods of one node. All calls are synchronous: about ten system
 * calls a link, and no moment in which another task could see half of one.
 */
export class PodLinks {
  readonly #options: Required<Omit<PodLinksOptions, 'netns'>> & Pick<PodLinksOptions, 'netns'>;
  readonly #host: LinkTables;
  readonly #defaults = new Map<string, string>();
  #defaultsReadAt = 0;
  /** The bridge that pods of kind `bridge` are ports of. */
  readonly bridge: PodBridge;

  /** Throws KERNEL_SYSCALL. */
  constructor(options: PodLinksOptions = {}) {
    this.#options = {
      netns: options.netns,
      openTables: options.openTables ?? ((netns) => Rtnl.open({ netns, brief: netns !== options.netns })),
      setSysctl: options.setSysctl ?? ensureSysctl,
      readSysctl: options.readSysctl ?? readSysctl,
    };
    this.#host = this.#options.openTables(options.netns);
    this.bridge = new PodBridge({
      tables: this.#host,
      setSysctl: (name, value) => this.#sysctl(name, value, options.netns),
    });
  }

  get netns(): { readonly fd: number } | undefined {
    return this.#options.netns;
  }

  /** By which notifications of changes made here, at the host's side, are told from others: `Rtnl.port`. */
  get port(): number {
    return this.#host.port;
  }

  close(): void {
    this.#host.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Lets the node forward packets: once, at start. Throws KERNEL_SYSCALL. */
  enableForwarding(): void {
    for (const name of ['net/ipv4/ip_forward', 'net/ipv6/conf/all/forwarding'])
      this.#sysctl(name, 1, this.#options.netns);
  }

  /**
   * Creates a link in a namespace where its name is free. On any failure everything made is removed again.
   * @throws PODLINK_IFNAME_TAKEN, PODLINK_HOST_LINK_FOREIGN, PODLINK_FAILED, PODLINK_SYSCTL
   */
  create(spec: PodLinkSpec, netnsFd: number): PodLink {
    const bridge = this.#bridgeOf(spec);
    const link = this.#createVeth(spec, netnsFd);
    try {
      this.#sysctlsOfNew(spec);
      this.#apply(this.#host, spec, planHostEnd(spec, { link, routes: [], neighs: [], fdb: [], bridge }));
      this.#furnishPod(spec, netnsFd, link);
      return { ifindex: link.ifindex, spec };
    } catch (error) {
      this.#undo(spec, error);
    }
  }

  /**
   * Makes a link as it must be, whatever is there of it: nothing, a part, or a pair whose far end is elsewhere, which
   * is made anew. Returns also whether the pair itself is new. Throws as `create`.
   */
  ensure(spec: PodLinkSpec, netnsFd: number): PodLink & { readonly created: boolean } {
    const found = this.#host.link(spec.hostLink);
    if (found) this.#refuseForeign(found);
    if (found && this.#endsMatch(spec, found, netnsFd)) {
      this.#bridgeOf(spec);
      this.#sysctls(spec, netnsFd);
      this.#apply(this.#host, spec, planHostEnd(spec, this.#hostEnd(found)));
      this.#furnishPod(spec, netnsFd, found);
      return { ifindex: found.ifindex, spec, created: false };
    }
    if (found) this.remove(spec.hostLink);
    return { ...this.create(spec, netnsFd), created: true };
  }

  /**
   * Brings the host's end up to date; the pod's end is not looked at. Settings below /proc/sys are not notified and
   * take a few system calls each, so they are looked at on request. Returns how many changes of tables were needed.
   */
  repairHostEnd(spec: PodLinkSpec, end: HostEnd, withSysctls: boolean): number {
    const steps = planHostEnd(spec, end);
    if (withSysctls) this.#setAll(hostSysctls(spec), spec.hostLink, this.#options.netns);
    this.#apply(this.#host, spec, steps);
    return steps.length;
  }

  /** Removes a link with its routes and neighbours; absent is success. Names that are not ours are left alone. */
  remove(hostLink: string): void {
    if (!isHostLinkName(hostLink)) return;
    for (const { error } of this.#host.apply([deleteLink(hostLink)])) if (error) throw error;
  }

  /** What is not as it must be, in words; empty when all is well. `netnsFd` undefined: the pod is gone. */
  check(spec: PodLinkSpec, netnsFd: number | undefined): string[] {
    const link = this.#host.link(spec.hostLink);
    const missing: string[] = [];
    if (spec.kind === 'bridge') {
      const bridge = this.bridge.find();
      if (!bridge) missing.push(`bridge ${BRIDGE_NAME} is missing`);
      else if (!this.bridge.isWell(bridge)) missing.push(`bridge ${BRIDGE_NAME} is down or has another MAC`);
    }
    if (link) missing.push(...planHostEnd(spec, this.#hostEnd(link)).map((step) => step.missing()));
    else missing.push(`host link ${spec.hostLink} is missing`);
    if (netnsFd === undefined) return [...missing, 'the network namespace of the pod is gone'];
    const pod = this.#options.openTables(netnsFd);
    try {
      const end = readPodEnd(pod, spec.ifname);
      if (!end) return [...missing, `pod interface ${spec.ifname} is missing`];
      if (link && end.link.lowerIfindex !== link.ifindex)
        missing.push(`pod interface ${spec.ifname} is not the other end of ${spec.hostLink}`);
      return [...missing, ...planPodEnd(spec, LOOPBACK_IFINDEX, end).map((step) => step.missing())];
    } finally {
      pod.close();
    }
  }

  /** All links with names of ours, each with its routes and permanent neighbours. */
  observe(): HostEnds {
    const links = this.#host.links().filter((link) => isHostLinkName(link.name) && link.kind === 'veth');
    // Of a node with many peers these are long lists.
    if (links.length === 0) return new Map();
    const routes = Map.groupBy(this.#host.routes({ protocol: RTPROT_PORTOLAN }), (route) => route.oif);
    const neighs = Map.groupBy(this.#host.neighs(), (neigh) => neigh.ifindex);
    const hasPorts = links.some((link) => link.master);
    const fdb = hasPorts ? Map.groupBy(this.#host.fdb(), (entry) => entry.ifindex) : new Map();
    const bridge = this.bridge.find()?.ifindex;
    return new Map(
      links.map((link) => [
        link.name,
        {
          link,
          routes: routes.get(link.ifindex) ?? [],
          neighs: neighs.get(link.ifindex) ?? [],
          fdb: fdb.get(link.ifindex) ?? [],
          bridge,
        },
      ]),
    );
  }

  /** The bridge for a link of that kind, which is the gateway of its networks then. Throws PODLINK_BRIDGE_*. */
  #bridgeOf({ kind, networks }: PodLinkSpec): number | undefined {
    if (kind !== 'bridge') return undefined;
    this.bridge.ensure(networks, { prune: false, sysctls: false });
    return this.bridge.ifindex;
  }

  #createVeth(spec: PodLinkSpec, netnsFd: number): Link {
    try {
      return this.#host.createLink(vethSpec(spec, netnsFd));
    } catch (error) {
      if (isNetError(error, 'RTNL_LINK_EXISTS')) {
        const other = this.#host.link(spec.hostLink);
        throw podlinkError(
          'PODLINK_HOST_LINK_FOREIGN',
          { hostLink: spec.hostLink, kind: other?.kind || 'device' },
          error,
        );
      }
      if (isNetError(error, 'RTNL_EXISTS'))
        throw podlinkError('PODLINK_IFNAME_TAKEN', { ifname: spec.ifname, hostLink: spec.hostLink }, error);
      this.#undo(spec, this.#failed(spec, 'create the veth pair', error));
    }
  }

  #furnishPod(spec: PodLinkSpec, netnsFd: number, host: Link): void {
    const pod = this.#options.openTables(netnsFd);
    try {
      // A fresh pair: the far end's index came with the near end, so nothing has to be read in the pod.
      const end = host.up ? readPodEnd(pod, spec.ifname) : freshPodEnd(spec, host);
      if (!end)
        throw podlinkError('PODLINK_FAILED', { hostLink: spec.hostLink, change: `find ${spec.ifname}` });
      const steps = planPodEnd(spec, LOOPBACK_IFINDEX, end);
      try {
        this.#apply(pod, spec, steps);
      } catch (error) {
        // A new interface where IPv6 is switched off by default: so rare that it is not looked for before.
        if (kernelCause(error)?.errno !== ERRNO.EACCES) throw error;
        this.#setAll(podSysctls(spec), spec.ifname, { fd: netnsFd });
        this.#apply(pod, spec, steps);
      }
    } finally {
      pod.close();
    }
  }

  /** Settings of a link that was there before: someone may have changed any. */
  #sysctls(spec: PodLinkSpec, netnsFd: number): void {
    this.#setAll(hostSysctls(spec), spec.hostLink, this.#options.netns);
    this.#setAll(podSysctls(spec), spec.ifname, { fd: netnsFd });
  }

  /** Settings of a new host end: it has those of `conf/default`, which are read once a second at most. */
  #sysctlsOfNew(spec: PodLinkSpec): void {
    const now = performance.now();
    if (now - this.#defaultsReadAt > DEFAULTS_VALID_MS) this.#defaults.clear();
    if (this.#defaults.size === 0) this.#defaultsReadAt = now;
    const differing = hostSysctls(spec).filter(([folder, setting, value]) => {
      const name = `net/${folder}/default/${setting}`;
      let inherited = this.#defaults.get(name);
      if (inherited === undefined) {
        inherited = this.#options.readSysctl(name, { netns: this.#options.netns }) ?? '';
        this.#defaults.set(name, inherited);
      }
      return inherited !== String(value);
    });
    this.#setAll(differing, spec.hostLink, this.#options.netns);
  }

  #setAll(
    settings: readonly [folder: string, setting: string, value: number][],
    link: string,
    netns: { readonly fd: number } | undefined,
  ): void {
    for (const [folder, setting, value] of settings)
      this.#sysctl(`net/${folder}/${link}/${setting}`, value, netns);
  }

  #sysctl(name: string, value: number, netns: { readonly fd: number } | undefined): void {
    try {
      this.#options.setSysctl(name, value, { netns });
    } catch (error) {
      const cause = kernelCause(error) ?? error;
      throw podlinkError('PODLINK_SYSCTL', { name: name.replaceAll('/', '.'), value: String(value) }, cause);
    }
  }

  #apply(tables: LinkTables, spec: PodLinkSpec, steps: readonly Step[]): void {
    if (steps.length === 0) return;
    for (const { error } of tables.apply(steps.map((step) => step.change)))
      if (error) throw this.#failed(spec, error.message, error);
  }

  #failed(spec: PodLinkSpec, change: string, error: unknown): NetError {
    return podlinkError('PODLINK_FAILED', { hostLink: spec.hostLink, change }, kernelCause(error) ?? error);
  }

  #undo(spec: PodLinkSpec, error: unknown): never {
    try {
      this.remove(spec.hostLink);
    } catch (second) {
      throw new AggregateError([error, second], `${(error as Error).message}, and could not be undone`);
    }
    throw error;
  }

  #refuseForeign(link: Link): void {
    if (link.kind !== 'veth')
      throw podlinkError('PODLINK_HOST_LINK_FOREIGN', { hostLink: link.name, kind: link.kind || 'device' });
  }

  #endsMatch(spec: PodLinkSpec, host: Link, netnsFd: number): boolean {
    const pod = this.#options.openTables(netnsFd);
    try {
      const link = pod.link(spec.ifname);
      return link?.lowerIfindex === host.ifindex && host.lowerIfindex === link.ifindex;
    } finally {
      pod.close();
    }
  }

  #hostEnd(link: Link): HostEnd {
    return {
      link,
      fdb: link.master ? this.#host.fdb({ ifindex: link.ifindex }) : [],
      bridge: this.bridge.ifindex,
      routes: this.#host.routes({ protocol: RTPROT_PORTOLAN, oif: link.ifindex }),
      neighs: this.#host.neighs({ ifindex: link.ifindex }),
    };
  }
}

/** The pod's end just after its creation: down and bare. */
function freshPodEnd(spec: PodLinkSpec, host: Link): PodEnd | undefined {
  if (host.lowerIfindex === undefined) return undefined;
  const link: Link = {
    ...host,
    ifindex: host.lowerIfindex,
    name: spec.ifname,
    mac: spec.podMac,
    lowerIfindex: host.ifindex,
    addrGenMode: 'eui64',
  };
  return { link, loopbackUp: false, addrs: [], routes: [], neighs: [] };
}

function readPodEnd(pod: LinkTables, ifname: string): PodEnd | undefined {
  const link = pod.link(ifname);
  if (!link) return undefined;
  const { ifindex } = link;
  return {
    link,
    loopbackUp: pod.link(LOOPBACK_IFINDEX)?.up ?? false,
    addrs: pod.addrs({ ifindex }),
    routes: pod.routes({ oif: ifindex }),
    neighs: pod.neighs({ ifindex }),
  };
}
