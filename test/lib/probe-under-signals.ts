/**
 * Asks again and again what this kernel's BPF can do, while somebody sends signals. Prints JSON: how many loads of a
 * program there were and a signal ended (EAGAIN), and which features were ever denied. Argument: how often at least. Root.
 */
import { bpf } from '../../src/kernel/bpf/call.ts';
import { CMD, PROG_TYPE } from '../../src/kernel/bpf/constants.ts';
import type { bpfFeatures } from '../../src/kernel/bpf/features.ts';
import { Arena, closeFd, ERRNO } from '../../src/kernel/syscall/index.ts';

process.on('SIGUSR2', () => {});
console.log('ready');

/** Loads `return 0`, once. */
function load(): number {
  const code = Uint8Array.of(0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0);
  const ATTR = 128;
  const arena = new Arena(ATTR + code.length + 32);
  arena.reserve(ATTR);
  arena.view.setUint32(0, PROG_TYPE.SCHED_CLS, true);
  arena.view.setUint32(4, code.length / 8, true);
  arena.point(8, arena.put(code));
  arena.point(16, arena.putString('GPL'));
  return bpf(CMD.PROG_LOAD, arena.from(0, ATTR));
}

/** Enough of them that what a signal does to a probe would show; who sends them may begin late. */
const ENOUGH = 20;
const LONGEST_MS = 20_000;

let ended = 0;
let tried = 0;
const denied = new Set<string>();
const wanted = Number(process.argv[2]);
const until = performance.now() + LONGEST_MS;
for (let round = 0; round < wanted || (ended < ENOUGH && performance.now() < until); round++) {
  for (let at = 0; at < 20; at++) {
    tried++;
    const result = load();
    if (result === -ERRNO.EAGAIN) ended++;
    if (result >= 0) closeFd(result);
  }
  // A module of its own each time: what was told once is remembered.
  const fresh = (await import(`../../src/kernel/bpf/features.ts?${round}`)) as {
    bpfFeatures: typeof bpfFeatures;
  };
  for (const [name, feature] of Object.entries(fresh.bpfFeatures))
    if (feature.available() === false) denied.add(name);
}
console.log(JSON.stringify({ tried, ended, denied: [...denied] }));
