import { podlinkError } from '../errors/podlink.ts';
import { AsyncNetlink, NETLINK, type NlRequest } from '../kernel/netlink/index.ts';
import { deleteLink } from '../kernel/rtnl/index.ts';
import { ERRNO } from '../kernel/syscall/index.ts';
import { isHostLinkName } from './types.ts';

/** rtnetlink.h and if_link.h */
const RTM_NEWLINK = 16;
const RTM_DELLINK = 17;
const IFLA_IFNAME = 3;
const IFLA_GROUP = 27;
/** "PORT": a link group that exists only for the moment of its deletion. */
const DOOMED_GROUP = 0x504f5254;

/**
 * Removes links off the event loop. The kernel waits for all CPUs once a deletion, not once a link: links whose
 * removal is asked for while another is under way are put into one link group, which goes in one deletion.
 */
export class LinkRemover {
  readonly #netlink: AsyncNetlink;
  #waiting = new Map<string, PromiseWithResolvers<void>>();
  #running: Promise<void> | undefined;

  /** Throws KERNEL_SYSCALL. */
  constructor(netns: { readonly fd: number } | undefined) {
    this.#netlink = AsyncNetlink.open({ netns, protocol: NETLINK.ROUTE });
  }

  /** Resolves when the link is gone; absent is success. Names that are not ours are left alone. */
  remove(hostLink: string): Promise<void> {
    if (!isHostLinkName(hostLink)) return Promise.resolve();
    const waiting = this.#waiting.get(hostLink) ?? Promise.withResolvers<void>();
    this.#waiting.set(hostLink, waiting);
    this.#running ??= this.#run();
    return waiting.promise;
  }

  async close(): Promise<void> {
    await this.#running;
    await this.#netlink.close();
  }

  async #run(): Promise<void> {
    // One turn of the loop: removals asked for at the same time go together.
    await new Promise((resolve) => setImmediate(resolve));
    while (this.#waiting.size > 0) {
      const batch = this.#waiting;
      this.#waiting = new Map();
      try {
        const names = [...batch.keys()];
        const requests =
          names.length === 1 ? [deleteLink(names[0]!).request] : [...names.map(doom), deleteGroup()];
        const verdicts = await this.#netlink.batch('remove pod links', requests);
        names.forEach((name, at) => {
          const cause = verdicts[at] ?? (names.length > 1 ? verdicts[names.length] : undefined);
          if (!cause || cause.errno === ERRNO.ENODEV) batch.get(name)!.resolve();
          else
            batch
              .get(name)!
              .reject(
                podlinkError('PODLINK_FAILED', { hostLink: name, change: `ip link del ${name}` }, cause),
              );
        });
      } catch (error) {
        for (const { reject } of batch.values()) reject(error);
      }
    }
    // In the same turn as the last look at `#waiting`: who asks later starts anew.
    this.#running = undefined;
  }
}

/** struct ifinfomsg of no link in particular. */
const HEADER = new Uint8Array(16);

function doom(name: string): NlRequest {
  return {
    type: RTM_NEWLINK,
    flags: 0,
    write: (w) =>
      w
        .bytes(HEADER)
        .attribute(IFLA_IFNAME, () => w.string(name))
        .attribute(IFLA_GROUP, () => w.u32(DOOMED_GROUP)),
  };
}

function deleteGroup(): NlRequest {
  return {
    type: RTM_DELLINK,
    flags: 0,
    write: (w) => w.bytes(HEADER).attribute(IFLA_GROUP, () => w.u32(DOOMED_GROUP)),
  };
}
