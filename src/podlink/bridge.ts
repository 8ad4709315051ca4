import type { Cidr } from '../addr/index.ts';
import { isNetError, kernelCause } from '../errors/net-error.ts';
import { podlinkError } from '../errors/podlink.ts';
import { deleteLink, type Link, type Rtnl, type RtnlChange } from '../kernel/rtnl/index.ts';
import { bridgeSpec, bridgeSysctls, isBridgeWell, planBridge } from './plan-bridge.ts';
import { BRIDGE_ALIAS, BRIDGE_NAME } from './types.ts';

export interface PodBridgeOptions {
  readonly tables: Pick<Rtnl, 'apply' | 'createLink' | 'link' | 'addrs'>;
  /** Sets one setting below /proc/sys, by its path with slashes. */
  readonly setSysctl: (name: string, value: number) => void;
}

/** Told when a bridge was made, or made anew: with another index than `before`. */
type BridgeListener = (ifindex: number, before: number | undefined) => void;

/** The bridge of a node's pods: made, repaired, removed. All calls are synchronous. */
export class PodBridge {
  readonly #options: PodBridgeOptions;
  #ifindex: number | undefined;
  #listener: BridgeListener = () => {};

  constructor(options: PodBridgeOptions) {
    this.#options = options;
  }

  onMade(listener: BridgeListener): void {
    this.#listener = listener;
  }

  /** Index of the bridge as it was seen last; undefined when there was none. */
  get ifindex(): number | undefined {
    return this.#ifindex;
  }

  /** The bridge as it is, undefined when there is none of ours. */
  find(): Link | undefined {
    const link = this.#options.tables.link(BRIDGE_NAME);
    const own = link && isOwn(link) ? link : undefined;
    this.#ifindex = own?.ifindex;
    return own;
  }

  /** Whether a notification about it is a reason to look again. */
  isWell(link: Link): boolean {
    return link.ifindex === this.#ifindex && isBridgeWell(link);
  }

  /**
   * Makes it the gateway of these networks. `exact` takes other addresses of it away and looks at settings below
   * /proc/sys, too. Returns how many changes of tables that took.
   * @throws PODLINK_BRIDGE_FOREIGN, PODLINK_BRIDGE_FAILED, PODLINK_SYSCTL
   */
  ensure(networks: readonly Cidr[], exact: { readonly prune: boolean; readonly sysctls: boolean }): number {
    const { tables } = this.#options;
    const found = tables.link(BRIDGE_NAME);
    if (found && !isOwn(found)) throw podlinkError('PODLINK_BRIDGE_FOREIGN', { name: BRIDGE_NAME });
    const link = found ?? this.#create();
    const before = this.#ifindex;
    this.#ifindex = link.ifindex;
    if (!found || exact.sysctls) this.#setSysctls(networks);
    const addrs = found ? tables.addrs({ ifindex: link.ifindex }) : [];
    const changes = planBridge(networks, { link, addrs }, exact.prune);
    this.#apply(changes);
    if (!found) this.#listener(link.ifindex, before);
    return changes.length + (found ? 0 : 1);
  }

  /** Removes it; absent is success, and one that is not ours stays. Returns whether it was there. */
  remove(): boolean {
    const link = this.find();
    if (!link) return false;
    this.#apply([deleteLink(link.ifindex)]);
    this.#ifindex = undefined;
    return true;
  }

  #create(): Link {
    try {
      return this.#options.tables.createLink(bridgeSpec);
    } catch (error) {
      if (isNetError(error, 'RTNL_LINK_EXISTS'))
        throw podlinkError('PODLINK_BRIDGE_FOREIGN', { name: BRIDGE_NAME }, error);
      throw podlinkError(
        'PODLINK_BRIDGE_FAILED',
        { name: BRIDGE_NAME, change: `ip link add ${BRIDGE_NAME} type bridge` },
        kernelCause(error) ?? error,
      );
    }
  }

  #setSysctls(networks: readonly Cidr[]): void {
    const families = new Set(networks.map(({ family }) => family));
    for (const [folder, setting, value] of bridgeSysctls(families))
      this.#options.setSysctl(`net/${folder}/${BRIDGE_NAME}/${setting}`, value);
  }

  #apply(changes: readonly RtnlChange[]): void {
    if (changes.length === 0) return;
    for (const { error } of this.#options.tables.apply(changes))
      if (error)
        throw podlinkError(
          'PODLINK_BRIDGE_FAILED',
          { name: BRIDGE_NAME, change: error.message },
          kernelCause(error) ?? error,
        );
  }
}

function isOwn(link: Link): boolean {
  return link.kind === 'bridge' && link.alias === BRIDGE_ALIAS;
}
