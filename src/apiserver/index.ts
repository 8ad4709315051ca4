/** The embedded API server: store, registry and HTTPS put together. */
import { accessSync, constants } from 'node:fs';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { type Cidr, tryParseCidr } from '../addr/index.ts';
import { apiError } from '../errors/api.ts';
import { storeError } from '../errors/store.ts';
import { SqliteStore, type Store } from '../store/index.ts';
import type { PortRange } from './allocate/node-ports.ts';
import { Core, type LogFunction } from './core.ts';
import { createHandler } from './handler.ts';
import { HttpServer, type ListenAddress } from './http/server.ts';
import {
  type BootstrapOptions,
  bootstrap,
  bootstrapNetworks,
  keepBootstrapped,
} from './lifecycle/bootstrap.ts';
import { ensureCredentials, tokenUsers, writeAdminKubeconfig } from './pki/credentials.ts';
import { makePrivateDirectory } from './pki/files.ts';
import type { PodLogs } from './rest/pods.ts';
import { createStreamHandler, type PodStreams } from './stream/handler.ts';

export type { LogFunction } from './core.ts';
export {
  issueControllerKubeconfig,
  issueNodeKubeconfig,
  issueToken,
  type Kubeconfig,
  kubeconfigText,
  serverNames,
} from './pki/credentials.ts';

export interface ApiServerOptions {
  /** Directory of the store (`store.db`), the keys (`pki/`) and `admin.kubeconfig`. */
  readonly dataDir: string;
  /** Addresses to listen on; port 0 takes a free one. Default 127.0.0.1:6443 when `listenFds` is empty, too. */
  readonly listen?: readonly ListenAddress[];
  /** Sockets that listen already, made in another network namespace. */
  readonly listenFds?: readonly number[];
  /** Service networks, the primary family first. Default 10.96.0.0/16. */
  readonly serviceCidrs?: readonly string[];
  /** Pod networks: checked not to overlap the service networks. */
  readonly clusterCidrs?: readonly string[];
  /** Where node ports lie. Default 30000-32767. */
  readonly nodePorts?: PortRange;
  /** Addresses under which others reach the server: default/kubernetes and the certificate carry them. */
  readonly advertise?: string | readonly string[];
  /** Port at those addresses; default that of the first address listened on. */
  readonly advertisePort?: number;
  /** Further names of the certificate. */
  readonly names?: readonly string[];
  /** How `kubectl logs` reaches the nodes. */
  readonly podLogs?: PodLogs;
  /** How `kubectl exec` and `port-forward` reach the nodes. */
  readonly podStreams?: PodStreams;
  readonly log?: LogFunction;
  readonly clock?: () => Date;
  /** Milliseconds between compactions of history; a revision stays readable for at least that long. Default 300,000. */
  readonly compactIntervalMs?: number;
  readonly bookmarkIntervalMs?: number;
}

export { parsePortRange } from './allocate/node-ports.ts';
export type { PodStreams } from './stream/handler.ts';

export interface ApiServer {
  /** `https://host:port` of the first address. */
  readonly url: string;
  readonly addresses: readonly ListenAddress[];
  readonly store: Store;
  close(): Promise<void>;
}

/** Names of the service certificate of Kubernetes. */
const SERVICE_NAMES = [
  'kubernetes',
  'kubernetes.default',
  'kubernetes.default.svc',
  'kubernetes.default.svc.cluster.local',
  'localhost',
];

/** @throws API_BAD_CIDR, API_CIDR_OVERLAP */
function checkNetworks(serviceCidrs: readonly string[], clusterCidrs: readonly string[]): Cidr[] {
  const parse = (option: string) => (cidr: string) => {
    const parsed = tryParseCidr(cidr);
    if (!parsed) throw apiError('API_BAD_CIDR', { option, cidr, why: 'it is not a network' });
    return { option, cidr: parsed };
  };
  const services = serviceCidrs.map(parse('--service-cidr'));
  const clusters = clusterCidrs.map(parse('--cluster-cidr'));
  for (const [option, group] of [
    ['--service-cidr', services],
    ['--cluster-cidr', clusters],
  ] as const)
    for (const family of [4, 6])
      if (group.filter((g) => g.cidr.family === family).length > 1)
        throw apiError('API_BAD_CIDR', {
          option,
          cidr: group.map((g) => g.cidr).join(','),
          why: `it has two of IPv${family}`,
        });
  if (services.length === 0)
    throw apiError('API_BAD_CIDR', { option: '--service-cidr', cidr: '', why: 'none is given' });
  for (const { cidr } of services)
    if (cidr.size < 8n)
      throw apiError('API_BAD_CIDR', {
        option: '--service-cidr',
        cidr: cidr.toString(),
        why: 'it has fewer than 8 addresses',
      });
  const all = [...services, ...clusters];
  for (const [i, first] of all.entries())
    for (const second of all.slice(i + 1))
      if (first.cidr.overlaps(second.cidr))
        throw apiError('API_CIDR_OVERLAP', {
          first: first.cidr.toString(),
          second: second.cidr.toString(),
          firstOption: first.option,
          secondOption: second.option,
        });
  return services.map((s) => s.cidr);
}

/** @throws API_DATA_DIR */
function prepareDirectory(path: string): void {
  try {
    makePrivateDirectory(path);
    accessSync(path, constants.W_OK);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOSPC') throw storeError('STORE_FULL', { path }, error);
    throw apiError('API_DATA_DIR', { path, detail: message }, error);
  }
}

const isWildcard = (host: string) => host === '0.0.0.0' || host === '::';
const urlHost = (host: string) => (isIP(host) === 6 ? `[${host}]` : host);

/**
 * Starts the API server and returns when it answers. The caller stops it with `close()`.
 * @throws API_* and STORE_* errors of the start
 */
export async function startApiServer(options: ApiServerOptions): Promise<ApiServer> {
  const clock = options.clock ?? (() => new Date());
  const log = options.log ?? (() => {});
  const serviceCidrs = checkNetworks(options.serviceCidrs ?? ['10.96.0.0/16'], options.clusterCidrs ?? []);
  prepareDirectory(options.dataDir);
  const store = SqliteStore.open(join(options.dataDir, 'store.db'));
  const undo: (() => unknown)[] = [() => store.close()];
  try {
    const core = new Core({
      store,
      clock,
      log,
      ...(options.nodePorts && { nodePorts: options.nodePorts }),
    });
    const { registry } = core;
    const fds = options.listenFds ?? [];
    const listen = options.listen ?? (fds.length > 0 ? [] : [{ host: '127.0.0.1', port: 6443 }]);
    const given = typeof options.advertise === 'string' ? [options.advertise] : options.advertise;
    const advertise = given ?? listen.map(({ host }) => host).filter((host) => !isWildcard(host));
    const kubernetesIps = serviceCidrs.map((cidr) => cidr.host(1).toString());
    const names = new Set([
      ...SERVICE_NAMES,
      '127.0.0.1',
      '::1',
      ...kubernetesIps,
      ...advertise,
      ...(options.names ?? []),
    ]);
    for (const { host } of listen) if (!isWildcard(host)) names.add(host);
    const subjectAltNames = [...names];
    const credentials = await ensureCredentials(options.dataDir, subjectAltNames, clock());
    let ready = false;
    let address = '';
    const handler = createHandler({
      registry,
      sourceOf: (resource) => core.sourceOf(resource),
      get address() {
        return address;
      },
      isReady: () => ready,
      ...(options.podLogs && { podLogs: options.podLogs }),
      ...(options.bookmarkIntervalMs !== undefined && { bookmarkIntervalMs: options.bookmarkIntervalMs }),
    });
    const server = new HttpServer({
      handler,
      streams: createStreamHandler({
        registry,
        ...(options.podStreams && { podStreams: options.podStreams }),
        ...(options.podLogs && { podLogs: options.podLogs }),
      }),
      tokenUser: tokenUsers(options.dataDir),
      authority: credentials.authority,
      certificate: credentials.server.certificate,
      key: credentials.server.key,
      log,
    });
    undo.unshift(() => server.close());
    const listening: ListenAddress[] = [];
    for (const at of listen) listening.push(await server.listen(at));
    for (const fd of fds) listening.push(await server.listen({ fd }));
    const port = listening[0]!.port;
    const advertisePort = options.advertisePort ?? port;
    const reach = advertise[0] ?? (isWildcard(listening[0]!.host) ? '127.0.0.1' : listening[0]!.host);
    const local = listening.find(({ host }) => !isWildcard(host))?.host ?? '127.0.0.1';
    const url = `https://${urlHost(isWildcard(listening[0]!.host) ? local : listening[0]!.host)}:${port}`;
    address = `${urlHost(reach)}:${advertisePort}`;
    writeAdminKubeconfig(options.dataDir, url);
    const cluster: BootstrapOptions = {
      serviceCidrs: serviceCidrs.map(String),
      kubernetesIps,
      endpoints: advertise
        .filter((host) => isIP(host) && host !== '127.0.0.1' && host !== '::1')
        .map((host) => ({ address: host, port: advertisePort })),
    };
    undo.unshift(() => core.close());
    // Before default/kubernetes is made: somebody may have its address.
    await bootstrapNetworks(registry, cluster);
    await core.keepServicesRight(kubernetesIps[0]!);
    await bootstrap(registry, cluster);
    core.start(options.compactIntervalMs ?? 300_000);
    const keeper = keepBootstrapped(registry, cluster, (key, error) =>
      log('warn', { key, error: String(error) }, 'repair failed, will be repeated'),
    );
    undo.unshift(() => keeper.close());
    ready = true;
    log('info', { url, revision: store.revision }, 'API server is ready');
    return {
      url,
      addresses: listening,
      store,
      close: async () => {
        ready = false;
        for (const step of undo) await step();
      },
    };
  } catch (error) {
    for (const step of undo) await step();
    throw error;
  }
}
