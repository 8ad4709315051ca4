import type { Family, IpAddress } from '../../addr/index.ts';
import { FAMILIES } from '../../addr/index.ts';
import { type KernelCause, type NetError, rtnlError } from '../../errors/index.ts';
import { NETLINK, type NetlinkOptions, NetlinkSocket, NLM_F, type NlRequest } from '../netlink/index.ts';
import { ERRNO } from '../syscall/index.ts';
import { type Addr, addrQuery, readAddr } from './addr.ts';
import { changeFailed, type NameOf, type RtnlChange } from './change.ts';
import {
  type BpfFilter,
  type FilterDirection,
  filterQuery,
  type Qdisc,
  qdiscQuery,
  readBpfFilter,
  readQdisc,
} from './filter.ts';
import {
  changeLink,
  checkLinkName,
  createLink,
  type Link,
  type LinkSettings,
  type LinkSpec,
  linkQuery,
  RTM_LINK,
  readLink,
} from './link.ts';
import { type Fdb, fdbQuery, type Neigh, neighQuery, readFdb, readNeigh } from './neigh.ts';
import { type Route, type RouteFilter, readRoute, routeLookup, routeQuery } from './route.ts';
import { type Rule, readRule, ruleQuery } from './rule.ts';

/** What became of one change. */
export interface ChangeOutcome {
  readonly change: RtnlChange;
  readonly error?: NetError;
}

/**
 * The routing tables of one network namespace. All calls are synchronous and short; the namespace belongs to the
 * socket, so the process stays where it is.
 */
export class Rtnl {
  readonly #socket: NetlinkSocket;

  private constructor(socket: NetlinkSocket) {
    this.#socket = socket;
  }

  /**
   * Opens the tables of a namespace, default the process's own; `brief` for a few messages and then closed. Throws
   * KERNEL_SYSCALL.
   */
  static open({ netns, brief }: Omit<NetlinkOptions, 'protocol'> = {}): Rtnl {
    return new Rtnl(NetlinkSocket.open({ netns, brief, protocol: NETLINK.ROUTE }));
  }

  /** By which `RtnlMonitor` tells changes made here from others. */
  get port(): number {
    return this.#socket.port;
  }

  close(): void {
    this.#socket.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  links(): Link[] {
    return this.#dump('links', linkQuery(undefined), readLink);
  }

  /** One link by index or name, undefined when there is none. */
  link(which: number | string): Link | undefined {
    let found: Link | undefined;
    const what = `read link "${which}"`;
    const cause = this.#socket.request(what, linkQuery(which), (message) => {
      if (message.type === RTM_LINK.NEW) found = readLink(message.body);
    });
    if (cause && cause.errno !== ERRNO.ENODEV) throw rtnlError('RTNL_FAILED', { action: what }, cause);
    return found;
  }

  /** Like `link` but throws RTNL_NO_SUCH_LINK; `action` completes "Cannot <action>". */
  needLink(which: number | string, action: string): Link {
    const link = this.link(which);
    if (!link) throw rtnlError('RTNL_NO_SUCH_LINK', { action, link: String(which) });
    return link;
  }

  addrs({ family, ifindex }: { family?: Family; ifindex?: number } = {}): Addr[] {
    const all = this.#dump('addresses', addrQuery(family, ifindex ?? 0), readAddr, [ERRNO.ENODEV]);
    return ifindex === undefined ? all : all.filter((addr) => addr.ifindex === ifindex);
  }

  routes(filter: Omit<RouteFilter, 'family'> & { readonly family?: Family } = {}): Route[] {
    const families = filter.family ? [filter.family] : FAMILIES;
    // ENOENT: no such table yet. ENODEV: no such link. Kernels without strict checking answer with everything.
    return families
      .flatMap((family) =>
        this.#dump('routes', routeQuery({ ...filter, family }), readRoute, [ERRNO.ENOENT, ERRNO.ENODEV]),
      )
      .filter(
        (route) =>
          (filter.table === undefined || route.table === filter.table) &&
          (filter.protocol === undefined || route.protocol === filter.protocol) &&
          (filter.type === undefined || route.type === filter.type) &&
          (filter.oif === undefined ||
            route.oif === filter.oif ||
            route.nexthops?.some((hop) => hop.ifindex === filter.oif)),
      );
  }

  /** The route that a packet of this host to `destination` takes now, undefined when there is none. */
  lookup(destination: IpAddress): Route | undefined {
    let found: Route | undefined;
    const what = `look up the route to ${destination}`;
    const cause = this.#socket.request(what, routeLookup(destination), (message) => {
      found = readRoute(message.body, { cloned: true });
    });
    const noRoute: number[] = [ERRNO.ENETUNREACH, ERRNO.EHOSTUNREACH, ERRNO.EACCES, ERRNO.EINVAL];
    if (cause && !noRoute.includes(cause.errno)) throw rtnlError('RTNL_FAILED', { action: what }, cause);
    return cause ? undefined : found;
  }

  neighs({ family, ifindex }: { family?: Family; ifindex?: number } = {}): Neigh[] {
    const all = this.#dump('neighbours', neighQuery(family, ifindex), readNeigh, [ERRNO.ENODEV]);
    return ifindex === undefined ? all : all.filter((neigh) => neigh.ifindex === ifindex);
  }

  fdb({ ifindex }: { ifindex?: number } = {}): Fdb[] {
    const all = this.#dump('FDB entries', fdbQuery(ifindex), readFdb, [ERRNO.ENODEV]);
    return ifindex === undefined ? all : all.filter((entry) => entry.ifindex === ifindex);
  }

  rules(family?: Family): Rule[] {
    return (family ? [family] : FAMILIES).flatMap((one) => this.#dump('rules', ruleQuery(one), readRule));
  }

  /** Qdiscs of all links. */
  qdiscs(): Qdisc[] {
    return this.#dump('qdiscs', qdiscQuery(0), readQdisc);
  }

  /** BPF filters at one direction of a link with a clsact qdisc, in the order in which they are asked. */
  bpfFilters(ifindex: number, direction: FilterDirection): BpfFilter[] {
    // EINVAL: the link has no such qdisc. ENODEV: no such link.
    return this.#dump('filters', filterQuery(ifindex, direction), readBpfFilter, [
      ERRNO.EINVAL,
      ERRNO.ENODEV,
    ]);
  }

  /** How many filters of any kind a link's clsact qdisc holds, both directions together. */
  filterCount(ifindex: number): number {
    return (['ingress', 'egress'] as const).flatMap((direction) =>
      this.#dump('filters', filterQuery(ifindex, direction), (body) => body.length, [
        ERRNO.EINVAL,
        ERRNO.ENODEV,
      ]),
    ).length;
  }

  /** Carries changes out in order, in few calls of the kernel; a failed one does not stop those behind it. */
  apply(changes: readonly RtnlChange[]): ChangeOutcome[] {
    if (changes.length === 0) return [];
    const verdicts = this.#socket.batch(
      'change the routing tables',
      changes.map((change) => change.request),
    );
    let names: NameOf | undefined;
    return changes.map((change, at) => {
      const cause = verdicts[at];
      if (!cause || change.ignore.includes(cause.errno)) return { change };
      names ??= this.nameOf();
      return { change, error: this.#failure(change, cause, names) };
    });
  }

  /** Like `apply`; throws the error, or an AggregateError of several, after all were tried. */
  mustApply(...changes: readonly RtnlChange[]): void {
    const errors = this.apply(changes).flatMap((outcome) => outcome.error ?? []);
    if (errors.length === 1) throw errors[0];
    if (errors.length > 1) throw new AggregateError(errors, `${errors.length} changes failed`);
  }

  /** Creates a link and returns it. Throws RTNL_LINK_EXISTS, RTNL_LINK_KIND_MISSING, RTNL_BAD_LINK_NAME. */
  createLink(spec: LinkSpec): Link {
    checkLinkName(spec.name);
    const action = `create link "${spec.name}"`;
    // The kernel takes neither of these while it creates; the second must be set before the link goes up.
    const { alias, addrGenMode, up, netns, name } = spec;
    const later = alias !== undefined || addrGenMode !== undefined;
    const change = createLink(later ? { ...spec, up: undefined } : spec);
    let made: Link | undefined;
    // From Linux 6.1 on the kernel echoes what it made, so that it has not to be asked for.
    const request = { ...change.request, flags: change.request.flags | NLM_F.ECHO };
    const cause = this.#socket.request(action, request, (message) => {
      if (message.type === RTM_LINK.NEW) made = readLink(message.body);
    });
    if (cause?.errno === ERRNO.EEXIST) {
      const other = netns === undefined ? this.link(name) : undefined;
      if (other) throw rtnlError('RTNL_LINK_EXISTS', { name, kind: other.kind || 'device' }, cause);
    }
    if (cause) throw this.#failure(change, cause, this.nameOf());
    using elsewhere = netns === undefined ? undefined : Rtnl.open({ netns });
    const there = elsewhere ?? this;
    const isPeerFinished = spec.kind === 'veth' && this.#finishPeer(spec.peer, action);
    const link = made?.name === name && !isPeerFinished ? made : there.needLink(name, action);
    if (!later) return link;
    // In one message the kernel would go up first.
    there.mustApply(changeLink(link.ifindex, { alias, addrGenMode }), changeLink(link.ifindex, { up }));
    return there.needLink(link.ifindex, action);
  }

  /**
   * The end of a veth that is made first cannot go up before the other exists (ENOTCONN). False when there is
   * nothing to do.
   */
  #finishPeer(
    { name, netns, alias, addrGenMode, up }: LinkSettings & { name: string },
    action: string,
  ): boolean {
    if (up === undefined && alias === undefined && addrGenMode === undefined) return false;
    using elsewhere = netns === undefined ? undefined : Rtnl.open({ netns });
    const there = elsewhere ?? this;
    const { ifindex } = there.needLink(name, action);
    there.mustApply(changeLink(ifindex, { alias, addrGenMode }), changeLink(ifindex, { up }));
    return true;
  }

  /** Names of all links as they are now. */
  nameOf(): NameOf {
    const names = new Map(this.links().map((link) => [link.ifindex, link.name]));
    return (ifindex) => names.get(ifindex) ?? `if${ifindex}`;
  }

  #failure(change: RtnlChange, cause: KernelCause, names: NameOf): NetError {
    return changeFailed(change, cause, names);
  }

  #dump<T>(
    what: string,
    request: NlRequest,
    read: (body: Uint8Array) => T | undefined,
    empty: readonly number[] = [],
  ): T[] {
    let found: T[] = [];
    const cause = this.#socket.dump(
      what,
      request,
      () => {
        found = [];
      },
      (message) => {
        const record = read(message.body);
        if (record !== undefined) found.push(record);
      },
    );
    if (cause && !empty.includes(cause.errno))
      throw rtnlError('RTNL_FAILED', { action: `list ${what}` }, cause);
    return cause ? [] : found;
  }
}
