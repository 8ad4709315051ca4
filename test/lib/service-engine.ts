/** The eBPF engine of a `ServiceNode`, and Services and slices programmed into an engine in few words. */
import assert from 'node:assert/strict';
import { EbpfEngine, type EbpfEngineOptions } from '../../src/service/engines/ebpf/index.ts';
import { sliceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aSlice } from '../../src/service/testing.ts';
import type { NodeContext, ServiceFacts, SliceFacts } from '../../src/service/types.ts';
import type { ServiceNode } from './services.ts';

/** The engine of this node, which is `node-a` unless `more` says otherwise. */
export function openEngine(node: ServiceNode, more: Partial<EbpfEngineOptions> = {}): EbpfEngine {
  return EbpfEngine.open({
    bpffsDir: node.bpffs,
    cgroupPath: node.cgroup,
    netns: node.netns,
    nodeName: 'node-a',
    ...more,
  });
}

/** Addresses of an endpoint in both families. */
export interface EndpointPlace {
  readonly ip4: string;
  readonly ip6: string;
}

/** A port of a Service; endpoints have it as `targetPort`, 8080 unless said. */
export interface SlicePort {
  readonly name: string;
  readonly protocol: 'TCP' | 'UDP';
  readonly targetPort?: number;
}

/**
 * Slices of a Service, one for each family and port, as slices have one family; ports of one name are one. Endpoints are
 * on `node-a` unless `nodeNameOf` says otherwise.
 */
export function slicesOf<Place extends EndpointPlace>(
  places: readonly Place[],
  ports: readonly SlicePort[],
  options: { service?: string; nodeNameOf?: (place: Place) => string } = {},
): SliceFacts[] {
  const { service = 'web', nodeNameOf = () => 'node-a' } = options;
  return (['ip4', 'ip6'] as const).flatMap((family) =>
    ports.map(({ name, protocol, targetPort: port = 8080 }) =>
      sliceFacts(
        aSlice(
          places.map((place) => `${place[family]} ${nodeNameOf(place)}`),
          { name: `${service}-${family}-${name}`, service, portName: name, protocol, port },
        ),
      ),
    ),
  );
}

/** A planner of these Services and slices, for a node without addresses for nodePorts unless `node` has some. */
export function plannerOf(
  services: readonly ServiceFacts[],
  slices: readonly SliceFacts[],
  node: Partial<NodeContext> = {},
): ServicePlanner {
  return new ServicePlanner(
    {
      services: new Map(services.map((facts) => [facts.key, facts])),
      slices: new Map(slices.map((facts) => [facts.key, facts])),
    },
    aNode({ nodePortAddresses: [], ...node }),
  );
}

/** Programs all that is planned, and nothing fails. */
export function applyAll(engine: Pick<EbpfEngine, 'apply'>, planner: ServicePlanner): void {
  assert.deepEqual([...engine.apply(planner.planAll()).failed], []);
}
