/** Why a Service does what it does, from its plan. Pure: what `service explain` prints, and its JSON. */
import { isNetError } from '../errors/index.ts';
import { backendReason, frontendText, socketAddress } from './describe.ts';
import { mergeEndpoints } from './endpoint-sets.ts';
import type { BackendPlan, NodeContext, PortPlan, ServicePlan, SetName, SliceFacts } from './types.ts';

export interface BackendExplanation {
  readonly backend: string;
  readonly node: string;
  /** Whether new connections inside get it, and why or why not. */
  readonly inside: { readonly chosen: boolean; readonly because: string };
  /** The same for clients outside; absent when the Service has no frontend for them. */
  readonly outside?: { readonly chosen: boolean; readonly because: string };
  readonly weight: number;
}

export interface PortExplanation {
  readonly port: string;
  readonly frontends: readonly string[];
  /** In words: what a new connection gets; when nobody can serve, or the engine does not, why. */
  readonly whenEmpty: string;
  readonly affinity: string;
  readonly backends: readonly BackendExplanation[];
}

export interface ServiceExplanation {
  readonly service: string;
  /** Why the Service is not in the data path. */
  readonly ignored?: string;
  readonly ports: readonly PortExplanation[];
  readonly healthCheck?: string;
  readonly problems: readonly string[];
}

/**
 * `slices` are those of the Service: endpoints that serve nobody are in no plan and are explained from them.
 * `failure` is why the engine could not program it.
 */
export function explainService(
  plan: ServicePlan,
  node: NodeContext,
  { slices = [], failure }: { slices?: readonly SliceFacts[]; failure?: Error | undefined } = {},
): ServiceExplanation {
  const problems = [...plan.problems, ...(failure ? [failure] : [])].map((error) => error.message);
  return {
    service: plan.key,
    ...(plan.ignored === undefined ? {} : { ignored: plan.ignored }),
    ports: plan.ports.map((port) => explainPort(port, node, slices, unserved(port, failure))),
    ...(plan.healthCheck
      ? {
          healthCheck: `port ${plan.healthCheck.port}: ${plan.healthCheck.localReady} ready endpoints on this node`,
        }
      : {}),
    problems,
  };
}

/** Why an engine serves a port not at all; undefined when it does. */
function unserved({ protocol }: PortPlan, failure: Error | undefined): string | undefined {
  if (!isNetError(failure, 'SERVICE_PROTOCOL_UNSUPPORTED') || protocol === 'TCP' || protocol === 'UDP')
    return undefined;
  return `the engine "${String(failure.context['engine'])}" carries no ${protocol}`;
}

function explainPort(
  port: PortPlan,
  node: NodeContext,
  slices: readonly SliceFacts[],
  unserved: string | undefined,
): PortExplanation {
  const planned = new Set(port.backends.map(({ endpoint }) => endpoint));
  const useless = mergeEndpoints(slices, port, port.family).filter(({ endpoint }) => !planned.has(endpoint));
  const cluster = port.frontends.find(({ kind }) => kind === 'ClusterIP');
  const external = port.frontends.find(({ kind }) => kind !== 'ClusterIP');
  const inside = (cluster ?? external)?.rules.pod.set ?? 'cluster';
  const outside = external?.rules.outside.set;
  const verdict = (cluster ?? external)?.rules.pod.verdict;
  return {
    port: port.key,
    frontends: port.frontends.map((frontend) =>
      unserved === undefined
        ? frontendText(frontend, port.protocol)
        : `${frontend.kind} ${socketAddress(frontend.address, frontend.port)}/${port.protocol} not served`,
    ),
    whenEmpty:
      unserved !== undefined
        ? `not served: ${unserved}`
        : verdict === 'reject'
          ? port.backends.some(({ weight }) => weight === 0)
            ? 'refused: all endpoints have weight 0'
            : 'refused: there is no endpoint anywhere'
          : verdict === 'drop'
            ? 'dropped: policy Local, and endpoints are only on other nodes'
            : 'forwarded',
    affinity:
      port.affinitySeconds === 0 ? 'none' : `ClientIP, ${port.affinitySeconds} s after the last connection`,
    backends: [...port.backends.map(explainBackend), ...useless.map(explainUseless)],
  };

  function explainUseless({ endpoint, port: number }: (typeof useless)[number]): BackendExplanation {
    const because = endpoint.terminating ? 'terminating and not serving' : 'not ready';
    const inside = { chosen: false, because };
    const backend = socketAddress(endpoint.address, number);
    return { backend, node: endpoint.nodeName, inside, ...(outside ? { outside: inside } : {}), weight: 1 };
  }

  function explainBackend(backend: BackendPlan): BackendExplanation {
    return {
      backend: socketAddress(backend.endpoint.address, backend.port),
      node: backend.endpoint.nodeName,
      weight: backend.weight,
      inside: {
        chosen: unserved === undefined && isChosen(backend, inside),
        because: unserved ?? backendReason(backend, port, inside, node),
      },
      ...(outside === undefined
        ? {}
        : {
            outside: {
              chosen: unserved === undefined && isChosen(backend, outside),
              because: unserved ?? backendReason(backend, port, outside, node),
            },
          }),
    };
  }
}

function isChosen(backend: BackendPlan, set: SetName): boolean {
  return backend.weight > 0 && (set === 'cluster' ? backend.inCluster : backend.inLocal);
}

/** The explanation as lines of text. */
export function explanationText(explained: ServiceExplanation): string[] {
  const lines = [`Service ${explained.service}`];
  if (explained.ignored !== undefined) lines.push(`  not in the data path: ${explained.ignored}`);
  for (const port of explained.ports) {
    lines.push(
      `  ${port.port}: ${port.whenEmpty}${port.affinity === 'none' ? '' : `, affinity ${port.affinity}`}`,
    );
    for (const frontend of port.frontends) lines.push(`    ${frontend}`);
    for (const { backend, node, inside, outside, weight } of port.backends) {
      const mark = inside.chosen || outside?.chosen ? '+' : '-';
      const also = outside && outside.because !== inside.because ? `; from outside: ${outside.because}` : '';
      const share = weight === 1 ? '' : ` weight ${weight}`;
      lines.push(`    ${mark} ${backend}${node ? ` on ${node}` : ''}${share}: ${inside.because}${also}`);
    }
    if (port.backends.length === 0) lines.push('    no endpoints');
  }
  if (explained.healthCheck) lines.push(`  health check ${explained.healthCheck}`);
  for (const problem of explained.problems) lines.push(`  problem: ${problem}`);
  return lines;
}
