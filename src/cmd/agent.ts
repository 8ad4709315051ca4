/** `portolan agent`: the node agent. */
import { hostname } from 'node:os';
import { type Command, Option } from 'commander';
import type { AgentFlags } from '../agent/options.ts';
import { logging } from './help.ts';
import { version } from './version.ts';

type Flags = AgentFlags & { logLevel: string; json: boolean };

export function registerAgent(program: Command): void {
  const list = (text: string, before: string[] = []) => [...before, ...text.split(',').filter(Boolean)];
  logging(
    program
      .command('agent')
      .description('run the agent of this node: overlay, pod links, CNI, Services, pods')
      .requiredOption('--kubeconfig <path>', 'how to reach the API server', process.env['KUBECONFIG'])
      .option('--node-name <name>', 'name of this Node', hostname().toLowerCase())
      .option('--state-dir <path>', 'sockets, attachments and pods; one agent a folder', '/run/portolan')
      .option(
        '--bpffs <path>',
        "folder in a bpffs that is this node's alone",
        process.env['PORTOLAN_BPFFS'] ?? '/sys/fs/bpf/portolan',
      )
      .option(
        '--cgroup <path>',
        'cgroup2 folder whose processes reach Services at their sockets',
        defaultCgroup(),
      )
      .option('--backend <name>', 'vxlan or host-gw', 'vxlan')
      .option(
        '--service-engine <name>',
        'what carries Services: ebpf, nftables, or auto: nftables where eBPF is not to be had',
        'auto',
      )
      .option('--no-direct-routing', 'encapsulate to peers on the same link, too')
      .option(
        '--cluster-cidr <networks>',
        'pod networks of the cluster, comma-separated (default: 10.244.0.0/16)',
        list,
      )
      .option(
        '--node-ip <addresses>',
        'addresses by which other nodes reach this one (default: by the default route)',
        list,
      )
      .option('--interface <name>', 'link to the other nodes (default: that of the default route)')
      .option(
        '--pod-link <kind>',
        'how pods to come are connected: routed, or bridge: as ports of one bridge with the gateway address',
        'routed',
      )
      .option('--pods <mode>', 'process: run the Pods of this node; none: a kubelet does', 'none')
      .option('--cni-bin-dir <path>', 'install the CNI plugin here, e.g. /opt/cni/bin')
      .option('--cni-conf-dir <path>', 'install its configuration here, e.g. /etc/cni/net.d')
      .option('--subnet-env <path>', "write flannel's subnet.env here, e.g. /run/flannel/subnet.env")
      .addOption(
        new Option('--policy-established <what>', 'open connections that a new network policy forbids')
          .choices(['cut', 'keep'])
          .default('cut'),
      )
      .option(
        '--nodeport-addresses <list>',
        'who serves nodePorts: networks of local addresses, and "primary" (default: primary,127.0.0.1/32,::1/128)',
        list,
      )
      .option(
        '--external-ips',
        'serve externalIPs of Services; whoever writes a Service may claim any address',
      )
      .option(
        '--node-hook <where>',
        'where packets of clients outside are met: native (XDP in the driver), generic (XDP), tc, or auto: native where it works, else tc',
        'auto',
      )
      .addOption(
        new Option(
          '--dsr-dispatch <way>',
          'how the node of a backend is told of clients of Services with direct return: inside another packet, or by an option in its header',
        )
          .choices(['ipip', 'option'])
          .default('ipip'),
      )
      .option('--masquerade-all', 'hide the client of every connection to a ClusterIP behind the node')
      .option(
        '--service-proxy-name <name>',
        'serve only Services with this label service.kubernetes.io/service-proxy-name (default: those without)',
      )
      .option(
        '--policy-log <which>',
        'what network policies decide goes to the log: off, denied or all',
        'off',
      )
      .option(
        '--pod-sources <which>',
        'addresses that pods may send from: own, or any: nothing keeps a pod from being taken for another',
        'own',
      )
      .option('--metrics-listen <address>', 'serve figures for Prometheus here, e.g. 127.0.0.1:9090')
      .option(
        '--healthz-listen <address>',
        'tell load balancers whether to send clients to this node, at /healthz; off: do not',
        '[::]:10256',
      )
      .option('--metrics-services <number>', 'Services with figures of their own; 0 for none', '1000')
      .option('--label <key=value>', 'label of the Node, repeatable', list),
  )
    .addHelpText(
      'after',
      `
Examples:
  portolan agent --kubeconfig /etc/portolan/node.kubeconfig
  portolan agent --kubeconfig node.kubeconfig --pods process --backend host-gw
  portolan agent --kubeconfig node.kubeconfig --service-engine nftables
  portolan agent --kubeconfig node.kubeconfig --pod-link bridge
  portolan agent --kubeconfig node.kubeconfig --nodeport-addresses primary,192.168.0.0/16 --external-ips
  portolan agent --kubeconfig /etc/kubernetes/kubelet.conf --cni-bin-dir /opt/cni/bin --cni-conf-dir /etc/cni/net.d`,
    )
    .action(async (flags: Flags) => {
      const { agentOptions } = await import('../agent/options.ts');
      const { startAgent } = await import('../agent/agent.ts');
      const { commandLog } = await import('./log.ts');
      const { live } = await import('./life.ts');
      const options = agentOptions(
        {
          ...flags,
          clusterCidr: flags.clusterCidr ?? ['10.244.0.0/16'],
          nodeIp: flags.nodeIp ?? [],
          label: flags.label ?? [],
        },
        version,
      );
      const log = commandLog({ level: flags.logLevel, json: flags.json });
      await live(log, async () => {
        const agent = await startAgent(options, log);
        return {
          close: () => {
            log.info({}, 'agent stops; what it made stays and works on');
            return agent.close();
          },
        };
      });
    });
}

/** Where cgroup2 is mounted on most machines; one with a hybrid hierarchy names its own. */
function defaultCgroup(): string {
  return process.env['PORTOLAN_CGROUP'] ?? '/sys/fs/cgroup';
}
