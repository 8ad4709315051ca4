/** `portolan apiserver`: the Kubernetes API on an embedded store. */
import { join } from 'node:path';
import type { Command } from 'commander';
import { apiError } from '../errors/api.ts';
import type { Pod } from '../model/kubernetes.ts';
import { logging } from './help.ts';
import { registerIssue } from './issue.ts';

interface Options {
  dataDir: string;
  listen: string[];
  listenNetns: string[];
  nodeStateRoot?: string;
  advertiseAddress: string[];
  advertisePort?: string;
  name: string[];
  serviceCidr: string[];
  clusterCidr: string[];
  serviceNodePortRange?: string;
  logLevel: string;
  json?: boolean;
}

const commaList = (value: string, before: string[]) => [
  ...before,
  ...value.split(',').filter((part) => part !== ''),
];

/** `host:port`, `[v6]:port` or `:port`. @throws API_BAD_OPTION */
export function parseListen(text: string): { host: string; port: number } {
  const match = /^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (!match || port > 65535)
    throw apiError('API_BAD_OPTION', {
      option: '--listen',
      value: text,
      want: 'HOST:PORT, such as 127.0.0.1:6443 or [::1]:6443',
    });
  return { host: match[1] ?? (match[2] || '0.0.0.0'), port };
}

/** Adds the sub-command to the program. */
export function registerApiserver(program: Command): Command {
  const apiserver = logging(
    program
      .command('apiserver')
      .description('serve the Kubernetes API from an embedded store')
      .option(
        '--data-dir <path>',
        'directory of the store, the keys and admin.kubeconfig',
        '/var/lib/portolan/apiserver',
      )
      .option(
        '--listen <host:port>',
        'address to listen on, repeatable (default 127.0.0.1:6443)',
        commaList,
        [],
      )
      .option(
        '--listen-netns <netns=ip:port>',
        'address to listen on inside a network namespace, repeatable',
        commaList,
        [],
      )
      .option(
        '--node-state-root <path>',
        "folder of the nodes' state folders on this machine, for kubectl logs, exec, attach, port-forward",
      )
      .option(
        '--advertise-address <ip>',
        'address under which nodes and pods reach the server, repeatable',
        commaList,
        [],
      )
      .option('--advertise-port <port>', 'port at those addresses (default: that of --listen)')
      .option('--name <name>', 'further name or address in the server certificate, repeatable', commaList, [])
      .option(
        '--service-cidr <cidr>',
        'service networks, primary family first (default 10.96.0.0/16)',
        commaList,
        [],
      )
      .option('--cluster-cidr <cidr>', 'pod networks; must not overlap the service networks', commaList, [])
      .option('--service-node-port-range <first-last>', 'where node ports lie (default 30000-32767)'),
  )
    .addHelpText(
      'after',
      `
Examples:
  portolan apiserver
  portolan apiserver --listen 0.0.0.0:6443 --advertise-address 192.0.2.1 --cluster-cidr 10.244.0.0/16
  portolan apiserver issue-node host2 --server https://192.0.2.1:6443 --out host2.kubeconfig`,
    )
    .action(async (options: Options) => {
      await serve(options);
    });
  registerIssue(apiserver);
  return apiserver;
}

/** @throws API_BAD_OPTION */
function parseNodePorts<Range>(value: string, parse: (text: string) => Range | undefined): Range {
  const range = parse(value);
  if (range) return range;
  throw apiError('API_BAD_OPTION', {
    option: '--service-node-port-range',
    value,
    want: 'FIRST-LAST, such as 30000-32767',
  });
}

async function serve(options: Options): Promise<void> {
  const root = options.nodeStateRoot;
  const { commandLog } = await import('./log.ts');
  const { live } = await import('./life.ts');
  const log = commandLog({ level: options.logLevel, json: options.json ?? false });
  const { parsePortRange, startApiServer } = await import('../apiserver/index.ts');
  const { readPodLog } = await import('../pods/index.ts');
  const { dialPod, execInPod } = await import('../agent/stream-client.ts');
  await live(log, async () =>
    startApiServer({
      dataDir: options.dataDir,
      listen: (options.listen.length > 0 ? options.listen : ['127.0.0.1:6443']).map(parseListen),
      ...(options.serviceCidr.length > 0 && { serviceCidrs: options.serviceCidr }),
      clusterCidrs: options.clusterCidr,
      ...(options.serviceNodePortRange !== undefined && {
        nodePorts: parseNodePorts(options.serviceNodePortRange, parsePortRange),
      }),
      ...(options.advertiseAddress.length > 0 && { advertise: options.advertiseAddress }),
      ...(options.advertisePort !== undefined && { advertisePort: Number(options.advertisePort) }),
      names: options.name,
      listenFds: await Promise.all(options.listenNetns.map(listenInside)),
      ...(root && {
        podLogs: async (pod: Pod, query: URLSearchParams, signal: AbortSignal) =>
          readPodLog(join(root, pod.spec.nodeName ?? ''), pod, query, signal),
        podStreams: {
          exec: (pod: Pod, wanted: Parameters<typeof execInPod>[1]) => execInPod(placeOf(root, pod), wanted),
          dial: (pod: Pod, port: number) => dialPod(placeOf(root, pod), port),
        },
      }),
      log: (level, fields, message) => log[level](fields, message),
    }),
  );
}

const placeOf = (root: string, { spec, metadata }: Pod) => ({
  stateDir: join(root, spec.nodeName ?? ''),
  namespace: metadata.namespace ?? 'default',
  name: metadata.name,
});

/** `NETNS=IP:PORT` to a socket that listens there. */
async function listenInside(text: string): Promise<number> {
  const { openNetns } = await import('../kernel/netns/index.ts');
  const { listenInNetns } = await import('../kernel/socket/listen.ts');
  const at = text.indexOf('=');
  const { host, port } = parseListen(text.slice(at + 1));
  using netns = openNetns(text.slice(0, at));
  return listenInNetns(netns, host, port);
}
