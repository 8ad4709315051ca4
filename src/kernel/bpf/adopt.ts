/** Opening what an earlier process pinned. */
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
