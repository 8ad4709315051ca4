/**
 * Interfaces that the engine serves: programs hang at them (`links.ts`), and maps say by their number what programs
 * have to know of each: who a pod may be, and which addresses backends elsewhere answer to.
 */
import type { IpAddress } from '../../../addr/index.ts';
import type { EngineStatus, NodeAddresses } from '../../engine.ts';
import { u32Bytes } from './layout.ts';
import type { Links } from './links.ts';
import { encodeInterface, INTERFACE } from './nat.ts';
import type { EngineObjects } from './objects.ts';
import { PodSources } from './pod-sources.ts';

export class ServedInterfaces {
  readonly #links: Links;
  readonly #addresses: EngineObjects['maps']['lb_interfaces'];
  readonly #sources: PodSources;

  constructor(links: Links, maps: EngineObjects['maps']) {
    this.#links = links;
    this.#addresses = maps.lb_interfaces;
    this.#sources = new PodSources(maps.lb_pod_sources);
  }

  attachPodLink(ifindex: number, sources: readonly IpAddress[] | undefined): void {
    this.#sources.set(ifindex, sources);
    this.#links.attach('pod', ifindex);
  }

  detachPodLink(ifindex: number): void {
    this.#links.detach('pod', ifindex);
    this.#sources.set(ifindex, undefined);
  }

  attachNodeInterface(ifindex: number, addresses: NodeAddresses): void {
    this.#links.attach('node', ifindex);
    this.#setAddresses(ifindex, addresses, 0);
  }

  detachNodeInterface(ifindex: number): void {
    this.#links.detach('node', ifindex);
    this.#addresses.delete(u32Bytes(ifindex));
  }

  /** Throws SERVICE_LINK_MISSING. */
  attachOverlay(ifindex: number, addresses: NodeAddresses): void {
    this.#links.attach('overlay', ifindex);
    this.#setAddresses(ifindex, addresses, INTERFACE.OVERLAY);
  }

  /** Forgets links that have gone while nobody looked. */
  dropGone(): void {
    for (const ifindex of this.#links.dropGone()) this.#addresses.delete(u32Bytes(ifindex));
    this.#sources.keep(new Set(this.#links.list('pod')));
  }

  status(): Pick<EngineStatus, 'podLinks' | 'nodeInterfaces' | 'nodeHooks'> {
    const nodeInterfaces = this.#links.list('node');
    return {
      podLinks: this.#links.list('pod'),
      nodeInterfaces,
      nodeHooks: nodeInterfaces.flatMap((ifindex) => {
        const chosen = this.#links.chosen(ifindex);
        return chosen ? { ifindex, hook: chosen.hook, why: chosen.why } : [];
      }),
    };
  }

  #setAddresses(ifindex: number, addresses: NodeAddresses, flags: number): void {
    const chosen = this.#links.chosen(ifindex);
    const xdp = (chosen?.sends ? INTERFACE.XDP : 0) | (chosen?.turns ? INTERFACE.TX : 0);
    this.#addresses.set(u32Bytes(ifindex), encodeInterface(addresses, flags | xdp));
  }
}
