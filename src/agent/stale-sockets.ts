import type { Log } from '../client/index.ts';
import { type Netns, openNetns } from '../kernel/netns/index.ts';
import { destroyStaleSockets, type StaleSockets } from '../service/index.ts';

/**
 * Destroys stale sockets in this namespace and those of the pods. A pod's namespace is open for as long as the work
 * takes; one that has gone meanwhile is skipped.
 */
export function staleSocketHandler(
  podNetns: () => readonly string[],
  log: Log,
): (stale: StaleSockets) => void {
  return (stale) => {
    const opened: Netns[] = [];
    for (const path of ['/proc/self/ns/net', ...podNetns()]) {
      try {
        opened.push(openNetns(path));
      } catch {
        // Its pod has ended, and its sockets with it.
      }
    }
    destroyStaleSockets({
      namespaces: () => opened,
      onDone: (destroyed, error) => {
        if (error)
          return log.warn({ error: (error as Error).message }, 'stale UDP sockets were not looked for');
        for (const netns of opened) netns.close();
        if (destroyed > 0) log.info({ destroyed }, 'UDP sockets to backends that have gone were closed');
      },
    })(stale);
  };
}
