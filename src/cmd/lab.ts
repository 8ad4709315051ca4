/** `portolan lab`: a cluster of network namespaces on this machine. */
import { type Command, InvalidArgumentError } from 'commander';
import { examples } from './help.ts';
import { DEFAULT_NAME, type NamedFlags, type UpFlags } from './lab-flags.ts';

export function registerLab(program: Command): void {
  const lab = program
    .command('lab')
    .description('a cluster on this machine, every node a network namespace')
    .addHelpText(
      'after',
      examples(
        'sudo ./portolan lab up',
        'sudo ./portolan lab kubectl get pods -o wide',
        'sudo ./portolan lab exec node1 -- ip route',
        'sudo ./portolan lab down',
      ),
    );
  const named = (command: Command) => command.option('--name <name>', 'which lab', DEFAULT_NAME);

  named(lab.command('up'))
    .description('start a cluster, apply examples/hello.yaml, and show who reaches whom')
    .option('--nodes <count>', 'how many nodes', whole, 3)
    .option('--backend <name>', 'vxlan or host-gw', 'vxlan')
    .option('--service-engine <name>', 'what carries Services: ebpf, nftables or auto', 'auto')
    .option('--pod-link <kind>', 'how pods are connected: routed, or bridge', 'routed')
    .option('--no-direct-routing', 'encapsulate although all nodes share a link: shows VXLAN at work')
    .option('--dual-stack', 'IPv6 beside IPv4', false)
    .option('--port <port>', 'port of the API server on 127.0.0.1', whole, 6443)
    .option('--no-demo', 'apply nothing')
    .option('--json', 'print JSON at the end', false)
    .addHelpText(
      'after',
      '\nExamples:\n  sudo ./portolan lab up\n  sudo ./portolan lab up --nodes 5 --backend host-gw\n  sudo ./portolan lab up --dual-stack --port 16443\n  sudo ./portolan lab up --service-engine nftables\n  sudo ./portolan lab up --pod-link bridge',
    )
    .action(async (flags: UpFlags) => (await actions()).up(flags));

  named(lab.command('down'))
    .description('end a lab and remove all that it made')
    .option('--json', 'print JSON', false)
    .addHelpText('after', examples('sudo ./portolan lab down', 'sudo ./portolan lab down --name second'))
    .action(async (flags: NamedFlags) => (await actions()).end(flags));

  named(lab.command('status'))
    .description('nodes, pods and processes; --probe also tries all connections')
    .option('--probe', 'try connections', false)
    .option('--json', 'print JSON', false)
    .addHelpText(
      'after',
      examples(
        'sudo ./portolan lab status',
        'sudo ./portolan lab status --probe',
        'sudo ./portolan lab status --json',
      ),
    )
    .action(async (flags: NamedFlags & { probe: boolean }) => (await actions()).status(flags));

  named(lab.command('restart'))
    .description(
      'end one process of a lab and start it again: an agent by its node, apiserver or controllers',
    )
    .argument('<what>', 'node1, apiserver, controllers')
    .option('--kill', 'kill -9: it has no moment to tidy up', false)
    .option('--json', 'print JSON', false)
    .addHelpText(
      'after',
      '\nExamples:\n  sudo ./portolan lab restart node1\n  sudo ./portolan lab restart apiserver --kill',
    )
    .action(async (what: string, flags: NamedFlags & { kill: boolean }) =>
      (await actions()).restart(what, flags),
    );

  named(lab.command('exec'))
    .description('run a command on a node: in its namespace and its cgroup')
    .argument('<node>', 'e.g. node1')
    .argument('<command...>', 'after "--"')
    .passThroughOptions()
    .addHelpText(
      'after',
      '\nExamples:\n  sudo ./portolan lab exec node1 -- ip route\n  sudo ./portolan lab exec node2 -- curl -s http://10.96.0.80/\n  sudo ./portolan lab exec node1 -- portolan status',
    )
    .action(async (node: string, words: string[], flags: NamedFlags) =>
      (await actions()).execute(node, words, flags),
    );

  named(lab.command('kubectl'))
    .description('run kubectl against the lab, e.g. lab kubectl get pods -o wide')
    .argument('[arguments...]')
    .helpOption(false)
    .allowUnknownOption()
    .passThroughOptions()
    .action(async (args: string[], flags: NamedFlags) => (await actions()).kubectl(args, flags));

  named(lab.command('kubeconfig'))
    .description('print the path of the admin kubeconfig, which only root can read, or write a copy of it')
    .option('--out <file>', 'write a copy there, for the user who called sudo and nobody else')
    .addHelpText(
      'after',
      examples(
        'export KUBECONFIG=$(sudo ./portolan lab kubeconfig)',
        'sudo ./portolan lab kubeconfig --out ~/lab.kubeconfig',
      ),
    )
    .action(async (flags: NamedFlags & { out?: string }) => (await actions()).kubeconfig(flags));
}

/** Loaded when a command of the lab runs: starting up must stay quick. */
const actions = () => import('./lab-actions.ts');

function whole(text: string): number {
  if (!/^\d{1,6}$/.test(text)) throw new InvalidArgumentError('want a whole number');
  return Number(text);
}
