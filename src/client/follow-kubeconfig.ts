/**
 * Rotated credentials: the kubeconfig and the files it names are read again every few seconds. They are compared by
 * content, because kubelet rotates a certificate behind a symbolic link whose name stays, and an editor may replace
 * the file or write into it.
 */
import type { ApiClient } from './api-client.ts';
import { type ClusterAccess, loadKubeconfig, parseKubeconfigYaml } from './kubeconfig.ts';
import type { Log } from './reflector.ts';

/** Options of {@link followKubeconfig}. */
export interface FollowOptions {
  path: string;
  context?: string | undefined;
  /** What was read last. */
  access: ClusterAccess;
  client: Pick<ApiClient, 'setAccess'>;
  signal: AbortSignal;
  log: Log;
  /** 10000 by default. */
  periodMs?: number;
}

/** Gives the client what the kubeconfig says, until `signal`. A file that cannot be read changes nothing. */
export function followKubeconfig(options: FollowOptions): void {
  const { path, context, client, signal, log } = options;
  let known = JSON.stringify(options.access);
  let failed = '';
  // Parsing takes 2 ms, and this is what an idle agent does most often.
  const parseYaml = parsedOnce();
  const look = () => {
    let access: ClusterAccess;
    try {
      access = loadKubeconfig(path, { parseYaml, ...(context !== undefined && { context }) });
    } catch (error) {
      // Half written, or between removal and creation: told only when it stays so.
      const { message } = error as Error;
      if (failed === message) return;
      if (failed !== '') log.warn({ error: message }, 'the kubeconfig cannot be read; the last one counts');
      failed = message;
      return;
    }
    failed = '';
    const now = JSON.stringify(access);
    if (now === known) return;
    known = now;
    client.setAccess(access);
    log.info({ path, server: access.server }, 'the kubeconfig changed; new connections use it');
  };
  const timer = setInterval(look, options.periodMs ?? 10_000);
  timer.unref();
  signal.addEventListener('abort', () => clearInterval(timer), { once: true });
}

/** A parser that remembers the last text. */
function parsedOnce(): (text: string) => unknown {
  let last: { text: string; json: unknown } | undefined;
  return (text) => {
    if (last?.text !== text) last = { text, json: parseKubeconfigYaml(text) };
    return last.json;
  };
}
