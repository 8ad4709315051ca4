import { lstatSync, realpathSync, statSync } from 'node:fs';
import type { HostView } from './mounts.ts';

/** The host's files as the mount planner asks about them. Answers are kept: a plan asks the same paths often. */
export function hostView(): HostView {
  const real = new Map<string, string | undefined>();
  return {
    kind(path) {
      try {
        return statSync(path).isDirectory() ? 'folder' : 'file';
      } catch {
        return undefined;
      }
    },
    realPath(path) {
      if (!real.has(path)) real.set(path, tryRealPath(path));
      return real.get(path);
    },
    isLink(path) {
      try {
        return lstatSync(path).isSymbolicLink();
      } catch {
        return false;
      }
    },
  };
}

function tryRealPath(path: string): string | undefined {
  try {
    return realpathSync.native(path);
  } catch {
    return undefined;
  }
}
