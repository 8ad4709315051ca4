/** Opening what an earlier process pinned. */
import { readFileSync } from 'node:fs';
import { bpfError } from '../../errors/bpf.ts';
import { kernelFailure } from '../syscall/index.ts';
import { bpf } from './call.ts';
import { CMD } from './constants.ts';
import { BpfMap } from './map.ts';
import { openPinned } from './pin.ts';
import { BpfProgram } from './prog.ts';

/** Opens a pinned map; undefined when nothing is pinned there. `name` is used in messages. */
export function adoptMap(path: string, name?: string): BpfMap | undefined {
  const fd = openPinned(path);
  return fd === undefined ? undefined : BpfMap.fromFd(fd, name);
}

/** Opens a pinned program; undefined when nothing is pinned there. */
export function adoptProgram(path: string): BpfProgram | undefined {
  const fd = openPinned(path);
  return fd === undefined ? undefined : BpfProgram.fromFd(fd);
}

/** Opens a map by the id that a map of maps shows for it. Throws BPF_MAP_CALL. */
export function mapById(id: number, name?: string): BpfMap {
  const attr = new Uint8Array(12);
  new DataView(attr.buffer).setUint32(0, id, true);
  const fd = bpf(CMD.MAP_GET_FD_BY_ID, attr);
  if (fd < 0) throw bpfError('BPF_MAP_CALL', { action: 'open', map: name ?? `id ${id}` }, kernelFailure(fd));
  return BpfMap.fromFd(fd, name);
}

/** Kernel memory of a map in bytes; 0 when the kernel does not say. proc(5), fdinfo: memlock. */
export function mapMemoryBytes(map: BpfMap): number {
  const text = readFileSync(`/proc/self/fdinfo/${map.fd}`, 'utf8');
  return Number(/^memlock:\s*(\d+)/m.exec(text)?.[1] ?? 0);
}
