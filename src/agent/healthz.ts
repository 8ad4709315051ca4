/**
 * Whether clients may be sent to this node, for load balancers outside that ask each node rather than each Service: as
 * kube-proxy answers at port 10256 (KEP-3836).
 *
 *                 Services programmed   programmed, the node is about to go   not programmed
 *     /healthz    200                   503                                   503
 *     /livez      200                   200                                   503
 *
 * A node that is about to go still serves connections that it has, so nobody restarts the agent for it: that is what
 * /livez is for.
 */
import { createServer, type Server } from 'node:http';
import type { Log } from '../client/index.ts';
import type { Node } from '../model/kubernetes.ts';

/** Taint by which the cluster autoscaler says that it takes a node away. */
const TO_BE_DELETED = 'ToBeDeletedByClusterAutoscaler';
/** Another program may have the port: kube-proxy, until it is switched off. */
const RETRY_MS = 30_000;

export interface HealthzOptions {
  readonly host: string;
  readonly port: number;
  /** Whether this node serves: programmed, and up to date. */
  readonly programmed: () => boolean;
  /** The Node object of this node, undefined while nobody has said what is in it. */
  readonly node: () => Node | undefined;
  readonly log: Log;
}

/** True for a node to which nobody should be sent any more. */
export function isLeaving(node: Node | undefined): boolean {
  return (
    node?.metadata.deletionTimestamp !== undefined ||
    (node?.spec?.taints ?? []).some(({ key }) => key === TO_BE_DELETED)
  );
}

/** Answers from now on, or from when the port is free; `listening` resolves at the first success. */
export function serveHealthz(options: HealthzOptions): {
  readonly listening: Promise<number>;
  close(): Promise<void>;
} {
  const { port, programmed, node, log } = options;
  const listening = Promise.withResolvers<number>();
  let { host } = options;
  let timer: NodeJS.Timeout | undefined;
  let isTold = false;
  const server = createServer((request, response) => {
    const path = (request.url ?? '').replace(/\?.*/, '');
    if (path !== '/healthz' && path !== '/livez') {
      response.writeHead(404, { 'Content-Type': 'text/plain' }).end('See /healthz and /livez\n');
      return;
    }
    const nodeEligible = !isLeaving(node());
    const isUp = programmed() && (nodeEligible || path === '/livez');
    const now = new Date().toISOString();
    response.writeHead(isUp ? 200 : 503, {
      'Content-Type': 'application/json',
      'X-Content-Type-Options': 'nosniff',
    });
    response.end(JSON.stringify({ lastUpdated: now, currentTime: now, nodeEligible }));
  });
  const listen = () => server.listen({ port, host });
  server.on('listening', () => {
    if (isTold) log.info({ port }, 'healthz is served');
    isTold = false;
    listening.resolve(portOf(server));
  });
  server.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EAFNOSUPPORT' && host === '::') {
      host = '0.0.0.0';
      listen();
      return;
    }
    if (!isTold) log.warn({ port, error: error.message }, 'cannot serve healthz, will be repeated');
    isTold = true;
    timer = setTimeout(listen, RETRY_MS).unref();
  });
  listen();
  server.unref();
  return {
    listening: listening.promise,
    close: () => {
      clearTimeout(timer);
      return new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      });
    },
  };
}

function portOf(server: Server): number {
  const address = server.address();
  return typeof address === 'object' && address ? address.port : 0;
}
