/** Finds the counters of all programs that tests load, whoever loads them, and holds them until they are read. */

import { viewOf } from '../src/codec/index.ts';
import { bpf } from '../src/kernel/bpf/call.ts';
import { CMD } from '../src/kernel/bpf/constants.ts';
import { type BpfMap, mapById } from '../src/kernel/bpf/index.ts';
import { COUNTER_SECTION } from './bpf-coverage-ir.ts';

/** A load takes longer, so a map is seen before its programs are there. */
const LOOK_MS = 20;
const ZERO = new Uint8Array(4);

/** The maps whose first element is `run`. A map lives as long as somebody has it open: this does. */
export class CoverageMaps {
  readonly #run: bigint;
  readonly #timer: NodeJS.Timeout;
  readonly #maps: BpfMap[] = [];
  /** Ids only grow. */
  #seen = 0;

  constructor(run: bigint) {
    this.#run = run;
    this.look();
    this.#timer = setInterval(() => this.look(), LOOK_MS);
  }

  get count(): number {
    return this.#maps.length;
  }

  /** Opens what is new. */
  look(): void {
    const attr = new Uint8Array(12);
    for (;;) {
      viewOf(attr).setUint32(0, this.#seen, true);
      if (bpf(CMD.MAP_GET_NEXT_ID, attr) < 0) return;
      this.#seen = viewOf(attr).getUint32(4, true);
      let map: BpfMap;
      try {
        map = mapById(this.#seen);
      } catch {
        continue; // gone since
      }
      if (this.#isOurs(map)) this.#maps.push(map);
      else map.close();
    }
  }

  /** Counters of every load of an object: those of `lb_node` are in a map `lb_node.data.cov`, cut after 15 letters. */
  valuesOf(object: string): Uint8Array[] {
    const name = `${object.slice(0, 8)}${COUNTER_SECTION}`.slice(0, 15);
    return this.#maps.filter((map) => map.info().name === name).map((map) => map.get(ZERO)!);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    for (const map of this.#maps) map.close();
  }

  /** A map is written right after it is made: what has no name of ours is not, and an empty one is looked at again. */
  #isOurs(map: BpfMap): boolean {
    if (!/^lb_\w+\.data\.c/.test(map.info().name)) return false;
    for (let tries = 0; tries < 1000; tries++) {
      const first = viewOf(map.get(ZERO)!).getBigUint64(0, true);
      if (first !== 0n) return first === this.#run;
    }
    return false;
  }
}
