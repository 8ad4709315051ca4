/**
 * A process that opens a Service engine as the agent does, programs Services, takes away what the other engine left,
 * and ends. Argument: JSON of `SwitchInput`. To be run inside the node's network namespace.
 */
import { execFileSync } from 'node:child_process';
import { openEngine } from '../../src/agent/service-engine.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import type { ServiceFacts, SliceFacts } from '../../src/service/types.ts';

/** A Service with port 80/TCP and 53/UDP in both families. */
export interface SwitchService {
  readonly name: string;
  readonly vips: readonly [ip4: string, ip6: string];
  /** Of TCP and UDP. */
  readonly nodePorts: readonly [tcp: number, udp: number];
  /** externalTrafficPolicy: Local. */
  readonly local?: boolean;
  /** `10.244.1.2 node-a`; their port is 8080. */
  readonly endpoints: readonly string[];
}

export interface SwitchInput {
  readonly engine: 'auto' | 'ebpf' | 'nftables';
  readonly bpffs: string;
  readonly cgroup: string;
  readonly podLinks: readonly number[];
  readonly nodeLinks: readonly { readonly ifindex: number; readonly ip4: string; readonly ip6: string }[];
  readonly nodeAddresses: readonly string[];
  readonly services: readonly SwitchService[];
  /** At the end conntrack is emptied, and the engine looks after itself. */
  readonly forget?: boolean;
}

const input = JSON.parse(process.argv[2]!) as SwitchInput;
const log = { trace() {}, debug() {}, info() {}, warn: console.error, error: console.error };
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
engine.setServiceRanges(['10.96.0.0/16', 'fd00:10:96::/112']);
for (const ifindex of input.podLinks) engine.attachPodLink(ifindex);
for (const { ifindex, ...addresses } of input.nodeLinks) engine.attachNodeInterface(ifindex, addresses);
const services = new Map<string, ServiceFacts>();
const slices = new Map<string, SliceFacts>();
for (const { name, vips, nodePorts, local, endpoints } of input.services) {
  const ports = [
    { name: 'tcp', port: 80, nodePort: nodePorts[0], protocol: 'TCP' as const },
    { name: 'udp', port: 53, nodePort: nodePorts[1], protocol: 'UDP' as const },
  ];
  const service = serviceFacts(
    aService(
      {
        type: 'NodePort',
        clusterIPs: [...vips],
        ports,
        ...(local ? { externalTrafficPolicy: 'Local' as const } : {}),
      },
      { name },
    ),
  );
  services.set(service.key, service);
  for (const six of [false, true])
    for (const { name: portName, protocol } of ports) {
      const words = endpoints.filter((endpoint) => endpoint.split(' ')[0]!.includes(':') === six);
      if (words.length === 0) continue;
      const slice = aSlice(words, { name: `${name}-${six}-${portName}`, service: name, portName, protocol });
      const facts = sliceFacts(slice);
      slices.set(facts.key, facts);
    }
}
const planner = new ServicePlanner(
  { services, slices },
  aNode({ nodePortAddresses: [...input.nodeAddresses], localAddresses: [...input.nodeAddresses] }),
);
const { failed } = await engine.apply(planner.planAll());
for (const error of failed.values()) throw error;
await retireOther();
const passed = () => engine.status().stores.find((store) => store.name === 'lb_passed')?.entries;
const before = passed();
if (input.forget) {
  execFileSync('conntrack', ['-F'], { stdio: 'ignore' });
  await engine.heal?.();
}
const { engine: name, because } = engine.status();
console.log(JSON.stringify({ engine: name, because, passed: input.forget ? [before, passed()] : undefined }));
