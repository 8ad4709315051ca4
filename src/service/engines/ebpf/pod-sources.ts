/** What each pod may call itself: lb_pod_sources, see bpf/include/lb_source.h. */
import type { IpAddress } from '../../../addr/index.ts';
import { viewOf } from '../../../codec/index.ts';
import type { BpfMap } from '../../../kernel/bpf/index.ts';
import { podSourceStruct, u32Bytes } from './layout.ts';

/** LB_SOURCE_IP4, LB_SOURCE_IP6. */
const FAMILY_BIT = { 4: 1, 6: 2 } as const;

/** Pure. Of two addresses of one family the last one counts: pods have one of each at most. */
export function encodePodSource(addresses: readonly IpAddress[]): Uint8Array {
  const ip6 = new Uint8Array(16);
  const ip4 = new Uint8Array(4);
  let families = 0;
  for (const address of addresses) {
    address.writeTo(address.family === 4 ? ip4 : ip6, 0);
    families |= FAMILY_BIT[address.family];
  }
  return podSourceStruct.encode({ ip6, ip4, families });
}

export class PodSources {
  readonly #map: BpfMap;

  constructor(map: BpfMap) {
    this.#map = map;
  }

  /** From now on packets with another source are dropped; undefined: none are. */
  set(ifindex: number, addresses: readonly IpAddress[] | undefined): void {
    if (addresses) this.#map.set(u32Bytes(ifindex), encodePodSource(addresses));
    else this.#map.delete(u32Bytes(ifindex));
  }

  /** Forgets links that are not there: the number may be another link's soon. */
  keep(there: ReadonlySet<number>): void {
    const gone = [...this.#map.entries()]
      .map(([key]) => viewOf(key).getUint32(0, true))
      .filter((ifindex) => !there.has(ifindex));
    for (const ifindex of gone) this.set(ifindex, undefined);
  }
}
