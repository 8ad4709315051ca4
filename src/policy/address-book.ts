/** Who has an address now: looked up, and made anew only after pods or nodes have changed. */
import type { IpAddress } from '../addr/index.ts';
import { nodesByAddress } from './cluster-facts.ts';
import type { Endpoint } from './evaluate.ts';
import type { KnownWorld } from './known-world.ts';
import type { PodFacts } from './types.ts';

export class AddressBook {
  readonly #world: KnownWorld;
  readonly #nodeName: string;
  #pods: Map<string, PodFacts> | undefined;
  #nodes: Map<string, string> | undefined;

  constructor(world: KnownWorld, nodeName: string) {
    this.#world = world;
    this.#nodeName = nodeName;
  }

  /** Pods came, went or have other addresses. */
  forgetPods(): void {
    this.#pods = undefined;
  }

  forgetNodes(): void {
    this.#nodes = undefined;
  }

  /** A pod, this node (`own` are the addresses of its interfaces), another node, or nobody that is known. */
  endpoint(address: IpAddress, own?: ReadonlySet<string>): Endpoint {
    const text = String(address);
    const pod = this.#podsByAddress().get(text);
    if (pod) return { address, pod };
    if (own?.has(text)) return { address, node: this.#nodeName };
    this.#nodes ??= nodesByAddress(this.#world.nodes);
    const node = this.#nodes.get(text);
    return node === undefined ? { address } : { address, node };
  }

  #podsByAddress(): Map<string, PodFacts> {
    if (this.#pods) return this.#pods;
    this.#pods = new Map();
    for (const [key, pod] of this.#world.pods)
      for (const address of this.#world.addressesOf(key, pod)) this.#pods.set(String(address), pod);
    return this.#pods;
  }
}
