/**
 * What programs take of the stack, counted as Linux 6.1 does: there each function of a chain of calls takes a multiple of
 * 32 bytes, on newer kernels of 16 (round_up_stack_depth() in kernel/bpf/verifier.c), of 512 together. So what is loaded
 * here may be refused there.
 */
import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import test from 'node:test';
import { viewOf } from '../../src/codec/index.ts';
import { readObjectFile } from '../../src/kernel/bpf/index.ts';
import { distPath } from '../../src/kernel/paths.ts';

const STEP = 32;
const STACK = 512;
const FRAME = 10;
const [CALL, LOCAL, MOV, ADD] = [0x85, 1, 0xbf, 0x07];
/** BPF_CLASS: what reads memory names it by its source register, what writes it by the other one. */
const [LDX, ST, STX] = [1, 2, 3];

interface Frame {
  bytes: number;
  readonly calls: Set<number>;
}

/** Frames of the functions of a program by their first instruction; the program itself begins at 0. */
function framesOf(code: Uint8Array): Map<number, Frame> {
  const view = viewOf(code);
  const count = code.length / 8;
  const calls = new Map<number, number>();
  for (let at = 0; at < count; at++)
    if (code[at * 8] === CALL && code[at * 8 + 1]! >> 4 === LOCAL)
      calls.set(at, at + 1 + view.getInt32(at * 8 + 4, true));
  const starts = new Set([0, ...calls.values()]);
  const frames = new Map<number, Frame>();
  let frame: Frame = { bytes: 0, calls: new Set() };
  let pointers = new Set<number>();
  for (let at = 0; at < count; at++) {
    if (starts.has(at)) {
      frame = { bytes: 0, calls: new Set() };
      pointers = new Set();
      frames.set(at, frame);
    }
    const [operation, registers] = [code[at * 8]!, code[at * 8 + 1]!];
    const [to, from] = [registers & 15, registers >> 4];
    const kind = operation & 7;
    const base = kind === LDX ? from : kind === ST || kind === STX ? to : undefined;
    if (base === FRAME) frame.bytes = Math.max(frame.bytes, -view.getInt16(at * 8 + 2, true));
    if (operation === MOV && from === FRAME) pointers.add(to);
    else if (operation === ADD && pointers.delete(to))
      frame.bytes = Math.max(frame.bytes, -view.getInt32(at * 8 + 4, true));
    const called = calls.get(at);
    if (called !== undefined) frame.calls.add(called);
  }
  return frames;
}

function deepest(frames: ReadonlyMap<number, Frame>, start = 0): number {
  const { bytes, calls } = frames.get(start)!;
  const below = [...calls].map((called) => deepest(frames, called));
  return Math.ceil(Math.max(bytes, 1) / STEP) * STEP + Math.max(0, ...below);
}

for (const path of globSync(distPath('bpf/*.bpf.o')).sort())
  for (const { name, code } of readObjectFile(readFileSync(path), path).programs)
    test(`${name} has room on the stack as Linux 6.1 counts it`, () => {
      const frames = framesOf(code.instructions);
      assert.ok([...frames.values()].some(({ bytes }) => bytes > 0));
      assert.ok(deepest(frames) <= STACK, `${deepest(frames)} bytes`);
    });
