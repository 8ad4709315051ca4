/** `portolan controller`: the controllers beside an embedded API server. */
import { type Command, InvalidArgumentError } from 'commander';
import { type ControllerName, controllerNames } from '../controllers/names.ts';
import { controllersError } from '../errors/controllers.ts';
import { examples, logging } from './help.ts';

interface ControllerFlags {
  kubeconfig?: string;
  context?: string;
  clusterCidr: string[];
  serviceCidr: string[];
  nodeCidrMaskSizeIpv4: number;
  nodeCidrMaskSizeIpv6: number;
  nodeMonitorGracePeriod: number;
  terminatedPodGcThreshold: number;
  controllers: ControllerName[];
  leaderElect: boolean;
  logLevel: string;
  json: boolean;
}

/** Adds the sub-command `controller` to the program. */
export function registerController(program: Command): void {
  logging(
    program
      .command('controller')
      .description(
        'run the controllers: node CIDRs, node health, EndpointSlices, load balancer addresses, scheduler',
      )
      .option(
        '--kubeconfig <path>',
        'how to reach the API server (default: $KUBECONFIG, or the pod this runs in)',
      )
      .option('--context <name>', 'context of the kubeconfig instead of its current one')
      .option(
        '--cluster-cidr <networks>',
        'pod networks, comma-separated, one or more of each family',
        list,
        ['10.244.0.0/16'],
      )
      .option('--service-cidr <networks>', 'Service networks, to refuse overlaps with', list, [])
      .option('--node-cidr-mask-size-ipv4 <length>', "prefix length of a node's IPv4 network", whole, 24)
      .option('--node-cidr-mask-size-ipv6 <length>', "prefix length of a node's IPv6 network", whole, 64)
      .option('--node-monitor-grace-period <seconds>', 'silence after which a node is unreachable', whole, 40)
      .option(
        '--terminated-pod-gc-threshold <pods>',
        'finished Pods that are kept, the youngest; 0 for all',
        whole,
        12_500,
      )
      .option('--controllers <names>', `some of ${controllerNames.join(',')}`, controllers, [
        ...controllerNames,
      ])
      .option('--leader-elect', 'work only while holding the Lease kube-system/portolan-controller', false),
  )
    .addHelpText(
      'after',
      examples(
        'portolan controller --kubeconfig /etc/portolan/controller.kubeconfig',
        'portolan controller --cluster-cidr 10.244.0.0/16,fd00:10:244::/56 --leader-elect',
        'portolan controller --controllers endpoint-slices,scheduler',
      ),
    )
    .action(async (flags: ControllerFlags) => {
      const { ApiClient, followKubeconfig } = await import('../client/index.ts');
      const { startControllers } = await import('../controllers/index.ts');
      const { commandLog } = await import('./log.ts');
      const log = commandLog({ level: flags.logLevel, json: flags.json });
      const { live } = await import('./life.ts');
      await live(log, async () => {
        const stop = new AbortController();
        const { access, path } = await accessOf(flags);
        const client = new ApiClient(access);
        const { signal } = stop;
        if (path !== undefined)
          followKubeconfig({ path, context: flags.context, access, client, signal, log });
        const { done } = startControllers({
          client,
          clusterCidrs: flags.clusterCidr,
          serviceCidrs: flags.serviceCidr,
          nodeMaskV4: flags.nodeCidrMaskSizeIpv4,
          nodeMaskV6: flags.nodeCidrMaskSizeIpv6,
          nodeGraceMs: flags.nodeMonitorGracePeriod * 1000,
          finishedPodLimit: flags.terminatedPodGcThreshold,
          leaderElect: flags.leaderElect,
          only: flags.controllers,
          signal: stop.signal,
          log,
        });
        return {
          done,
          close: async () => {
            stop.abort();
            await done.finally(() => client.close());
          },
        };
      });
    });
}

async function accessOf(flags: ControllerFlags) {
  const { inClusterAccess, loadKubeconfig } = await import('../client/index.ts');
  const path = flags.kubeconfig ?? process.env['KUBECONFIG'];
  if (path) {
    const context = flags.context === undefined ? {} : { context: flags.context };
    return { path, access: loadKubeconfig(path, context) };
  }
  const inCluster = inClusterAccess(process.env);
  if (inCluster) return { path: undefined, access: inCluster };
  throw controllersError('CONTROLLER_BAD_OPTION', {
    option: '--kubeconfig',
    value: '',
    want: 'the path of a kubeconfig',
  });
}

function list(text: string): string[] {
  return text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '');
}

function whole(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('want a whole number');
  return Number(text);
}

function controllers(text: string): ControllerName[] {
  return list(text).map((name) => {
    const known = controllerNames.find((one) => one === name);
    if (!known) throw new InvalidArgumentError(`want some of ${controllerNames.join(', ')}`);
    return known;
  });
}
