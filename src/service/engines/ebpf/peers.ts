/** The map of the other nodes' addresses: whose word is believed about a packet, see bpf/include/lb_tell.h. */
import { viewOf } from '../../../codec/index.ts';
import type { BpfMap } from '../../../kernel/bpf/index.ts';
import { writeAddress } from './layout.ts';

/** Makes the map hold exactly these addresses. */
export function setPeers(map: BpfMap, addresses: Iterable<string>): void {
  const wanted = new Map<string, Uint8Array>();
  for (const address of addresses) {
    const key = new Uint8Array(16);
    writeAddress(key, 0, address);
    wanted.set(Buffer.from(key).toString('hex'), key);
  }
  const one = new Uint8Array(4);
  viewOf(one).setUint32(0, 1, true);
  for (const key of [...map.keys()]) if (!wanted.delete(Buffer.from(key).toString('hex'))) map.delete(key);
  for (const key of wanted.values()) map.set(key, one);
}
