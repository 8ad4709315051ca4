/** The overlay of one node as a process of its own, to be killed: argv is the namespace, the config and the leases. */
import { parseCidr } from '../../src/addr/index.ts';
import { openNetns } from '../../src/kernel/netns/index.ts';
import {
  leaseOfNode,
  type NodeRecord,
  type OverlayConfig,
  OverlayReconciler,
} from '../../src/overlay/index.ts';

export interface AgentArguments {
  readonly netns: string;
  readonly config: Omit<OverlayConfig, 'podCidrs' | 'clusterCidrs'> & {
    readonly podCidrs: string[];
    readonly clusterCidrs: string[];
  };
  readonly nodes: readonly NodeRecord[];
}

const { netns, config, nodes } = JSON.parse(process.argv[2]!) as AgentArguments;
const overlay = new OverlayReconciler({
  config: {
    ...config,
    podCidrs: config.podCidrs.map(parseCidr),
    clusterCidrs: config.clusterCidrs.map(parseCidr),
  },
  netns: openNetns(netns),
});
overlay.setLeases(nodes.flatMap((node) => leaseOfNode(node) ?? []));
overlay.start();
await overlay.settled();
process.stdout.write('settled\n');
