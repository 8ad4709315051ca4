/** `portolan policy explain`: what texts name as ends of a connection, and what policies make of it. */
import { type Family, type IpAddress, tryParseIp } from '../addr/index.ts';
import { policyError } from '../errors/index.ts';
import type { Protocol } from '../model/kubernetes.ts';
import {
  type Endpoint,
  type Explanation,
  endpointText,
  evaluate,
  explain,
  type Flow,
  type PolicyController,
} from '../policy/index.ts';
import type { ServiceFacts, SliceFacts } from '../service/index.ts';

type Controller = Pick<
  PolicyController,
  'allKnown' | 'compiler' | 'endpoint' | 'nodeAddresses' | 'nodeVerdicts'
>;

export interface ExplainSources {
  readonly controller: Controller;
  readonly services: { readonly items: ReadonlyMap<string, ServiceFacts> };
  readonly slices: { readonly items: ReadonlyMap<string, SliceFacts> };
  /** Whether two nodes reach each other's pods by the tunnel, as far as this node knows. */
  readonly tunnelled?: (one: string, other: string, family: Family) => boolean;
}

/** What a connection is made to; without a protocol it is one without ports. */
interface Target {
  readonly protocol: Protocol | undefined;
  readonly port: number;
}

/** Of each destination that is meant; of two families only what differs. Throws POLICY_*. */
export async function explainTraffic(
  query: URLSearchParams,
  sources: ExplainSources,
): Promise<Explanation[]> {
  const { controller } = sources;
  await controller.allKnown();
  const target = readPort(query.get('port') ?? '80/tcp');
  const own = controller.nodeAddresses();
  const from = ends(query.get('from') ?? '', controller, own);
  const found = destinations(query.get('to') ?? '', from[0], target, sources, own);
  // Backends of a Service are told one by one, but not once more for their other family.
  const known = new Set<string>();
  return found.flatMap(({ to, port, asked, via, byNode }) => {
    return pairs(from, to).flatMap(([source, destination]) => {
      // A node that hands on to a pod elsewhere takes the answers back under its own address.
      const sender = via ? nodeOf(source, controller) : source;
      const handsOn = asked && destination.pod?.node !== asked.node;
      // To a node's address nobody uses the tunnel.
      const seen =
        byNode && !handsOn ? sender : throughTunnel(handsOn ? asked : sender, destination, sources);
      const says = (flow: Flow) =>
        explain(flow, evaluate(flow, controller.compiler), controller.nodeVerdicts(flow));
      const { protocol } = target;
      const told = says({ from: seen, to: destination, protocol, port });
      const plain = via ? joined(says({ from: source, to: via, protocol, port: target.port }), told) : told;
      const explanation = withUnknown(plain, [source, destination], controller);
      const who = [explanation.from, explanation.to, explanation.port];
      const decided = [...who, ...explanation.reasons].join().replace(/\([0-9a-f.:]+\)/g, '');
      if (known.has(decided)) return [];
      known.add(decided);
      return [explanation];
    });
  });
}

/** The address under which other nodes are sent what a pod sends to them: that of its own node, if it is known. */
function nodeOf(source: Endpoint, { compiler }: Controller): Endpoint {
  const node = source.pod?.node;
  const addresses = node === undefined ? undefined : compiler.nodes.get(node)?.addresses;
  const address = addresses?.find(({ family }) => family === source.address.family);
  return address ? { address, node } : source;
}

/** What a node sends to a pod behind the tunnel has the address of its end of it. */
function throughTunnel(source: Endpoint, destination: Endpoint, sources: ExplainSources): Endpoint {
  const { family } = source.address;
  const [from, to] = [source.node, destination.pod?.node];
  if (from === undefined || to === undefined || from === to || destination.pod?.hostNetwork) return source;
  if (!sources.tunnelled?.(from, to, family)) return source;
  const tunnel = sources.controller.compiler.nodes.get(from)?.tunnel ?? [];
  const address = tunnel.find((each) => each.family === family);
  return address ? { ...source, address } : source;
}

/** What leaves a pod for another node, and what reaches the backend from there. */
function joined(sent: Explanation, received: Explanation): Explanation {
  const leaving = sent.reasons.slice(0, 1);
  const arriving = received.reasons.slice(-1);
  return {
    ...received,
    from: sent.from,
    allowed: sent.allowed && received.allowed,
    reasons: [...leaving, ...arriving],
  };
}

/** Ends that can talk to each other: the first of each family. */
function pairs(from: readonly Endpoint[], to: readonly Endpoint[]): [Endpoint, Endpoint][] {
  return ([4, 6] as const).flatMap((family) => {
    const ofFamily = ({ address }: Endpoint) => address.family === family;
    const source = from.find(ofFamily);
    const destination = to.find(ofFamily);
    return source && destination ? [[source, destination] as [Endpoint, Endpoint]] : [];
  });
}

function readPort(text: string): Target {
  if (text.toLowerCase() === 'icmp') return { protocol: undefined, port: 0 };
  const [number = '', name = 'tcp', more] = text.split('/');
  const protocol = name.toUpperCase();
  const port = Number(number);
  const isPort = /^\d{1,5}$/.test(number) && port >= 1 && port <= 65_535;
  if (!isPort || more !== undefined || !/^(TCP|UDP|SCTP)$/.test(protocol))
    throw policyError('POLICY_BAD_PORT', { text });
  return { protocol: protocol as Protocol, port };
}

/** The addresses that a text names: itself, or those of a pod. */
function ends(text: string, controller: Controller, own: ReadonlySet<string>): Endpoint[] {
  const address = tryParseIp(text);
  if (address) return [controller.endpoint(address, own)];
  const name = text.replace(/^pods?\//, '');
  const pod = controller.compiler.pods.get(name);
  const known: readonly IpAddress[] = pod ? controller.compiler.addressesOf(name, pod) : [];
  const addresses = known.length > 0 ? known : (pod?.addresses ?? []);
  if (!pod || addresses.length === 0) throw policyError('POLICY_NO_SUCH_ENDPOINT', { text });
  // What such a pod sends, its node sends.
  const node = pod.hostNetwork ? pod.node : undefined;
  return addresses.map((each) => ({ address: each, pod, node }));
}

interface Destination {
  readonly to: readonly Endpoint[];
  readonly port: number;
  /** The node whose address strangers ask, where that may be what the destination sees of them. */
  readonly asked?: Endpoint | undefined;
  /** The node whose port a pod of another node asks: policies of the pod judge that, those of the backend its node. */
  readonly via?: Endpoint | undefined;
  /** It is asked by an address of its node, or of the node that hands on. */
  readonly byNode?: boolean | undefined;
}

/** What a connection may end at: one destination, or every backend of a Service. */
function destinations(
  text: string,
  from: Endpoint | undefined,
  target: Target,
  sources: ExplainSources,
  own: ReadonlySet<string>,
): Destination[] {
  const { controller, services, slices } = sources;
  const address = tryParseIp(text);
  const end = address && controller.endpoint(address, own);
  const frontend = end && serviceAt(end, target, sources);
  const key = frontend?.key ?? /^(?:service|svc)\/(.+)$/.exec(text)?.[1];
  const crosses = isPod(from) && end?.node !== undefined && from?.pod?.node !== end.node;
  const via = crosses ? end : undefined;
  if (key === undefined) {
    const pod = end && hostPortAt(end, target, controller, own);
    return [pod ? { ...pod, via, byNode: true } : { to: ends(text, controller, own), port: target.port }];
  }
  const service = services.items.get(key);
  if (!service) throw policyError('POLICY_NO_SUCH_ENDPOINT', { text });
  const wanted = service.ports.find(
    ({ port, nodePort, protocol }) =>
      protocol === target.protocol && (frontend?.byNodePort ? nodePort : port) === target.port,
  );
  const handsOn = frontend?.byNodePort && !service.externalLocal;
  const asked = handsOn && (crosses || (!isPod(from) && from?.node !== end?.node)) ? end : undefined;
  if (!wanted) {
    const has = service.ports.map(({ port, protocol }) => `${port}/${protocol.toLowerCase()}`);
    const port = target.protocol ? `${target.port}/${target.protocol.toLowerCase()}` : 'icmp';
    throw policyError('POLICY_NO_SUCH_SERVICE_PORT', { service: key, port, has });
  }
  const found: Destination[] = [];
  for (const slice of slices.items.values()) {
    if (slice.service !== key || (address && slice.family !== address.family)) continue;
    const backend = slice.ports.find(
      ({ name, protocol }) => name === wanted.name && protocol === wanted.protocol,
    );
    if (!backend) continue;
    for (const endpoint of slice.endpoints) {
      const at = tryParseIp(endpoint.address);
      if (at)
        found.push({
          to: [controller.endpoint(at, own)],
          port: backend.port,
          asked,
          via,
          byNode: frontend?.byNodePort,
        });
    }
  }
  return found;
}

/** The pod that has a port of a node as its hostPort. */
function hostPortAt(
  { address, node }: Endpoint,
  target: Target,
  controller: Controller,
  own: ReadonlySet<string>,
): Destination | undefined {
  if (node === undefined) return undefined;
  const { compiler } = controller;
  const isAny = (hostIP: IpAddress) => hostIP.family === address.family && BigInt(hostIP.value) === 0n;
  for (const [key, pod] of compiler.pods) {
    if (pod.node !== node || !pod.hostPorts) continue;
    const found = pod.hostPorts.find(
      ({ protocol, hostPort, hostIP }) =>
        protocol === target.protocol &&
        hostPort === target.port &&
        (hostIP === undefined || isAny(hostIP) || hostIP.equals(address)),
    );
    const at = found && compiler.addressesOf(key, pod).find(({ family }) => family === address.family);
    if (found && at) return { to: [controller.endpoint(at, own)], port: found.port };
  }
  return undefined;
}

/** The Service that takes what is sent to an address of its own, or to one of its ports of a node. */
function serviceAt(
  { address, node }: Endpoint,
  target: Target,
  { services }: ExplainSources,
): { key: string; byNodePort: boolean } | undefined {
  const text = String(address);
  for (const { key, clusterIPs, loadBalancerIPs, externalIPs, ports } of services.items.values()) {
    if ([clusterIPs, loadBalancerIPs, externalIPs].some((list) => list.includes(text)))
      return { key, byNodePort: false };
    const isNodePort = ({ nodePort, protocol }: (typeof ports)[number]) =>
      nodePort !== 0 && nodePort === target.port && protocol === target.protocol;
    if (node !== undefined && ports.some(isNodePort)) return { key, byNodePort: true };
  }
  return undefined;
}

/** An end with a network of its own. */
function isPod(end: Endpoint | undefined): boolean {
  return end?.pod !== undefined && !end.pod.hostNetwork;
}

/** A pod of this node that nothing is known of is closed, whatever policies would say. */
function withUnknown(
  explanation: Explanation,
  sides: readonly Endpoint[],
  controller: Controller,
): Explanation {
  const closed = [...controller.compiler.isolated.values()].filter(({ unknown }) => unknown);
  const side = sides.find(({ address }) =>
    closed.some(({ local }) => local.addresses.some((each) => each.equals(address))),
  );
  if (!side) return explanation;
  const why = `${endpointText(side)} is closed until its labels are known: its namespace has policies`;
  return { ...explanation, allowed: false, reasons: [why, ...explanation.reasons] };
}
