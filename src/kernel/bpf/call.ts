/** The bpf(2) system call and what every use of it shares. */
import { readFileSync } from 'node:fs';
import { Arena, ERRNO, errnoName, NR, sys, sysInNetns } from '../syscall/index.ts';
import { CMD, NAME_LENGTH } from './constants.ts';

/** One command; `attr` is the part of union bpf_attr that it reads. Returns a value or -errno. */
export function bpf(command: number, attr: Uint8Array, netnsFd?: number): number {
  return netnsFd === undefined
    ? sys(NR.bpf, command, attr, attr.length)
    : sysInNetns(netnsFd, NR.bpf, command, attr, attr.length);
}

/** BPF_PROG_LOAD, again while the verifier gives up because a signal is pending (EAGAIN). A descriptor or -errno. */
export function loadWithoutSignals(attr: Uint8Array, tries: number): number {
  for (let tried = 1; ; tried++) {
    const result = bpf(CMD.PROG_LOAD, attr);
    if (result !== -ERRNO.EAGAIN || tried === tries) return result;
  }
}

/** A namespace or its descriptor. */
export type NetnsLike = { readonly fd: number } | number;

export function netnsFdOf(netns: NetnsLike | undefined): number | undefined {
  return typeof netns === 'object' ? netns.fd : netns;
}

/** A name as the kernel takes it: letters, digits, `_` and `.`, at most 15. */
export function kernelName(name: string): string {
  return name.replace(/[^\w.]/g, '_').slice(0, NAME_LENGTH);
}

/** Writes a name into a 16-byte field. */
export function putName(arena: Arena, at: number, name: string): void {
  arena.bytes.set(Buffer.from(kernelName(name), 'latin1'), at);
}

/** Text of a NUL-terminated field. */
export function textOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return Buffer.from(end < 0 ? bytes : bytes.subarray(0, end)).toString('latin1');
}

/** BPF_OBJ_GET_INFO_BY_FD: the first `size` bytes of the info structure of a map, program or link. -errno on failure. */
export function objectInfo(fd: number, size: number): DataView | number {
  const arena = new Arena(16 + size + 16);
  const attr = arena.reserve(16);
  const info = arena.reserve(size);
  arena.view.setUint32(attr, fd, true);
  arena.view.setUint32(attr + 4, size, true);
  arena.point(attr + 8, info);
  const result = bpf(CMD.OBJ_GET_INFO_BY_FD, arena.from(attr, 16));
  return result < 0 ? result : new DataView(arena.bytes.buffer, info, size);
}

let cpus: number | undefined;

/** How many CPUs a per-CPU value has room for: those that may ever appear, not those online. */
export function possibleCpus(): number {
  if (cpus === undefined) {
    const ranges = readFileSync('/sys/devices/system/cpu/possible', 'utf8').trim();
    const last = Math.max(...ranges.split(',').map((range) => Number(range.split('-').at(-1))));
    cpus = last + 1;
  }
  return cpus;
}

let page: number | undefined;

/** Bytes of a memory page: the entry AT_PAGESZ that the kernel gave this process. getauxval(3), proc(5). */
export function pageSize(): number {
  if (page === undefined) {
    const AT_PAGESZ = 6n;
    const ENTRY = 16;
    const auxiliary = readFileSync('/proc/self/auxv');
    for (let at = 0; at + ENTRY <= auxiliary.length; at += ENTRY)
      if (auxiliary.readBigUInt64LE(at) === AT_PAGESZ) page = Number(auxiliary.readBigUInt64LE(at + 8));
    page ??= 4096;
  }
  return page;
}

/** `EINVAL` for -22, to complete messages. */
export function failureName(result: number): string {
  return errnoName(-result);
}
