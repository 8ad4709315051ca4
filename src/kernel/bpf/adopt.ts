/** Opening what exists already: pinned by an earlier process, or known by its id. */
import { readFileSync } from 'node:fs';
import { bpfError } from '../../errors/bpf.ts';
import { kernelFailure } from '../syscall/index.ts';
import { bpf } from './call.ts';
import { CMD } from './constants.ts';
import { BpfLink } from './link.ts';
import { BpfMap } from './map.ts';
import { openPinned } from './pin.ts';
import { BpfProgram } from './prog.ts';

/** Opens a pinned map; undefined when nothing is pinned there. `name` is used in messages. */
export function adoptMap(path: string, name?: string): BpfMap | undefined {
  const fd = openPinned(path, 'map');
  return fd === undefined ? undefined : BpfMap.fromFd(fd, name);
}

/** Opens a pinned program; undefined when nothing is pinned there. */
export function adoptProgram(path: string): BpfProgram | undefined {
  const fd = openPinned(path, 'program');
  return fd === undefined ? undefined : BpfProgram.fromFd(fd);
}

/** Opens a map by its id, for example one that a lookup in a map of maps returned. Throws BPF_MAP_CALL (ENOENT: gone). */
export function mapById(id: number, name = `id ${id}`): BpfMap {
  const fd = fdById(CMD.MAP_GET_FD_BY_ID, id);
  if (fd < 0) throw bpfError('BPF_MAP_CALL', { action: `open id ${id} of`, map: name }, kernelFailure(fd));
  return BpfMap.fromFd(fd, name);
}

/** Opens a program by its id. Throws BPF_RUN_FAILED (ENOENT: gone). */
export function programById(id: number): BpfProgram {
  const fd = fdById(CMD.PROG_GET_FD_BY_ID, id);
  if (fd < 0) throw bpfError('BPF_RUN_FAILED', { program: `id ${id}` }, kernelFailure(fd));
  return BpfProgram.fromFd(fd);
}

/** Opens a link by its id. Throws BPF_LINK_CALL (ENOENT: gone). */
export function linkById(id: number): BpfLink {
  const fd = fdById(CMD.LINK_GET_FD_BY_ID, id);
  if (fd < 0) throw bpfError('BPF_LINK_CALL', { action: 'open', link: `id ${id}` }, kernelFailure(fd));
  return new BpfLink(fd, `id ${id}`);
}

function fdById(command: number, id: number): number {
  const attr = new Uint8Array(12);
  new DataView(attr.buffer).setUint32(0, id, true);
  return bpf(command, attr);
}

/** Kernel memory of a map in bytes; 0 when the kernel does not say. proc(5), fdinfo: memlock. */
export function mapMemoryBytes(map: BpfMap): number {
  const text = readFileSync(`/proc/self/fdinfo/${map.fd}`, 'utf8');
  return Number(/^memlock:\s*(\d+)/m.exec(text)?.[1] ?? 0);
}
