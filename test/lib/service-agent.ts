/**
 * A process that does with Services what an agent does, to be killed by tests: opens the engine, programs, and
 * changes endpoints all the time. Argument: JSON of `AgentInput`. Writes `ready` when the first sync is done.
 */
import { openNetns } from '../../src/kernel/netns/index.ts';
import { EbpfEngine, type NodeHook } from '../../src/service/engines/ebpf/index.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import type { ServiceFacts, SliceFacts } from '../../src/service/types.ts';

export interface AgentInput {
  readonly bpffs: string;
  readonly cgroup: string;
  readonly netns: string;
  readonly podLinks: readonly number[];
  readonly vip: string;
  /** Endpoints that are there all the time, and one that comes and goes. */
  readonly endpoints: readonly string[];
  readonly flapping: string;
  /** The Service has affinity. */
  readonly affinity?: boolean;
  /** Other Services, without endpoints. */
  readonly others: number;
  /** Clients outside are served, too. */
  readonly outside?: {
    readonly nodeHook: NodeHook;
    readonly links: readonly { readonly ifindex: number; readonly ip4: string }[];
    readonly nodeAddress: string;
    readonly nodePort: number;
    /** Endpoints of the Service on another node. */
    readonly elsewhere: readonly string[];
  };
}

const input = JSON.parse(process.argv[2]!) as AgentInput;
const { outside } = input;
using netns = openNetns(input.netns);
const engine = EbpfEngine.open({
  bpffsDir: input.bpffs,
  cgroupPath: input.cgroup,
  netns,
  nodeName: 'node-a',
  nodeHook: outside?.nodeHook,
});
const services = new Map<string, ServiceFacts>();
const slices = new Map<string, SliceFacts>();
const add = (name: string, ip: string, more: Parameters<typeof aService>[0] = {}) => {
  const facts = serviceFacts(aService({ clusterIPs: [ip], ...more }, { name }));
  services.set(facts.key, facts);
};
add('web', input.vip, {
  ...(input.affinity ? { sessionAffinity: 'ClientIP' as const } : {}),
  ...(outside && { type: 'NodePort' as const, ports: [{ port: 80, nodePort: outside.nodePort }] }),
});
for (let at = 0; at < input.others; at++) add(`other-${at}`, `10.97.${at >> 8}.${at & 255}`);
const put = (endpoints: readonly string[]) => {
  const slice = sliceFacts(
    aSlice([
      ...endpoints.map((address) => `${address} node-a`),
      ...(outside?.elsewhere ?? []).map((address) => `${address} node-b`),
    ]),
  );
  slices.set(slice.key, slice);
  return slice.key;
};
put(input.endpoints);
const nodePortAddresses = outside ? [outside.nodeAddress] : [];
const planner = new ServicePlanner({ services, slices }, aNode({ nodePortAddresses }));
const first = engine.apply(planner.planAll());
for (const { ifindex, ip4 } of outside?.links ?? []) engine.attachNodeInterface(ifindex, { ip4 });
for (const ifindex of input.podLinks) engine.attachPodLink(ifindex);
console.log(`ready ${first.changes}`);
for (let round = 0; ; round++) {
  engine.apply(planner.plan([], [put(round % 2 ? input.endpoints : [...input.endpoints, input.flapping])]));
  await new Promise((resolve) => setTimeout(resolve, 1));
}
