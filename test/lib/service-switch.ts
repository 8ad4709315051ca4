/**
 * A process that opens a Service engine as the agent does, programs one Service, takes away what the other engine
 * left, and ends. Argument: JSON of `SwitchInput`. To be run inside the node's network namespace.
 */
import { openEngine } from '../../src/agent/service-engine.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';

export interface SwitchInput {
  readonly engine: 'auto' | 'ebpf' | 'nftables';
  readonly bpffs: string;
  readonly cgroup: string;
  readonly podLinks: readonly number[];
  readonly nodeLink: number;
  readonly vip: string;
  readonly nodeAddress: string;
  readonly nodePort: number;
  /** `10.244.1.2 node-a` */
  readonly endpoints: readonly string[];
}

const input = JSON.parse(process.argv[2]!) as SwitchInput;
const log = { trace() {}, debug() {}, info() {}, warn() {}, error: console.error };
await using undo = new AsyncDisposableStack();
const { engine, retireOther } = openEngine(
  {
    choice: input.engine,
    bpffsDir: input.bpffs,
    cgroupPath: input.cgroup,
    nodeName: 'node-a',
    onStaleSockets: () => {},
    log: log as never,
  },
  undo,
);
for (const ifindex of input.podLinks) engine.attachPodLink(ifindex);
engine.attachNodeInterface(input.nodeLink);
const ports = [{ port: 80, nodePort: input.nodePort, protocol: 'TCP' as const }];
const service = serviceFacts(aService({ type: 'NodePort', clusterIPs: [input.vip], ports }));
const slice = sliceFacts(aSlice(input.endpoints));
const tables = {
  services: new Map([[service.key, service]]),
  slices: new Map([[slice.key, slice]]),
};
const planner = new ServicePlanner(tables, aNode({ nodePortAddresses: [input.nodeAddress] }));
const { failed } = await engine.apply(planner.planAll());
for (const error of failed.values()) throw error;
await retireOther();
const { engine: name, because } = engine.status();
console.log(JSON.stringify({ engine: name, because }));
