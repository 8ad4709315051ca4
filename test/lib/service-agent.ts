/**
 * A process that does with Services what an agent does, to be killed by tests: opens the engine, programs, and
 * changes endpoints all the time. Argument: JSON of `AgentInput`. Writes `ready` when the first sync is done.
 */
import { openNetns } from '../../src/kernel/netns/index.ts';
import { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
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
}

const input = JSON.parse(process.argv[2]!) as AgentInput;
using netns = openNetns(input.netns);
const engine = EbpfEngine.open({
  bpffsDir: input.bpffs,
  cgroupPath: input.cgroup,
  netns,
  nodeName: 'node-a',
});
const services = new Map<string, ServiceFacts>();
const slices = new Map<string, SliceFacts>();
const add = (name: string, ip: string, affinity = false) => {
  const facts = serviceFacts(
    aService({ clusterIPs: [ip], ...(affinity ? { sessionAffinity: 'ClientIP' as const } : {}) }, { name }),
  );
  services.set(facts.key, facts);
};
add('web', input.vip, input.affinity);
for (let at = 0; at < input.others; at++) add(`other-${at}`, `10.97.${at >> 8}.${at & 255}`);
const put = (endpoints: readonly string[]) => {
  const slice = sliceFacts(aSlice(endpoints.map((address) => `${address} node-a`)));
  slices.set(slice.key, slice);
  return slice.key;
};
put(input.endpoints);
const planner = new ServicePlanner({ services, slices }, aNode({ nodePortAddresses: [] }));
const first = engine.apply(planner.planAll());
for (const ifindex of input.podLinks) engine.attachPodLink(ifindex);
console.log(`ready ${first.changes}`);
for (let round = 0; ; round++) {
  engine.apply(planner.plan([], [put(round % 2 ? input.endpoints : [...input.endpoints, input.flapping])]));
  await new Promise((resolve) => setTimeout(resolve, 1));
}
