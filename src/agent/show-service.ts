/** What `portolan service list` and `show` ask the agent: plans beside what the kernel has counted. */
import { setTimeout as sleep } from 'node:timers/promises';
import { agentError } from '../errors/index.ts';
import { type Netns, openNetns } from '../kernel/netns/index.ts';
import {
  countOpenSockets,
  portText,
  type ServicePlan,
  type ShownService,
  showService,
} from '../service/index.ts';
import type { AgentParts } from './parts.ts';
import { noSuchService, serviceName } from './service-names.ts';

/** One Service as `portolan service list` shows it. */
export interface ServiceRow {
  service: string;
  ports: string[];
  state: string;
  /** New connections and first datagrams since the agent's maps were made. */
  connections: number;
  /** Refused or dropped ones. */
  refused: number;
}

/** Longest time between two looks for figures per second. */
const MOST_SECONDS = 10;

export function serviceRows({ controller, engine }: AgentParts): ServiceRow[] {
  const counts = engine.portCounts();
  return [...controller.plans].map(([service, plan]) => {
    const ports = plan.ports.map(({ key }) => counts.get(key));
    return {
      service,
      ports: plan.ports.flatMap((port) => portText(port)),
      state: controller.failed.get(service)?.message ?? 'done',
      connections: ports.reduce((sum, count) => sum + (count?.connections ?? 0), 0),
      refused: ports.reduce((sum, count) => sum + (count?.refused ?? 0), 0),
    };
  });
}

/** `service=NAMESPACE/NAME`, `seconds` between two looks, 0 for one look. Throws AGENT_NO_SUCH_SERVICE, AGENT_BAD_OPTION. */
export async function shownService(parts: AgentParts, query: URLSearchParams): Promise<ShownService> {
  const { controller, engine } = parts;
  const service = serviceName(query.get('service') ?? '');
  const seconds = Number(query.get('seconds') ?? 0);
  if (!(seconds >= 0 && seconds <= MOST_SECONDS))
    throw agentError('AGENT_BAD_OPTION', {
      option: 'seconds',
      value: query.get('seconds') ?? '',
      want: `0 to ${MOST_SECONDS}`,
      command: 'service show',
    });
  const plan = planOf(parts, service);
  const began = performance.now();
  const before = seconds > 0 ? engine.observe([plan]) : undefined;
  if (before) await sleep(seconds * 1000);
  const after = controller.plans.get(service) ?? plan;
  const elapsed = (performance.now() - began) / 1000;
  return showService({
    plan: after,
    node: controller.node,
    slices: controller.slicesOf(service),
    failure: controller.failed.get(service),
    now: engine.observe([after]),
    ...(before ? { before: { ports: before, seconds: elapsed } } : {}),
    sockets: openSockets(parts, after),
  });
}

function planOf({ controller }: AgentParts, service: string): ServicePlan {
  const plan = controller.plans.get(service);
  if (!plan) throw noSuchService(service, controller.plans.keys());
  return plan;
}

/** Sockets of this node and its pods that a Service connected. */
function openSockets({ engine, networking }: AgentParts, plan: ServicePlan): Map<number, number> {
  const backends = new Set(
    plan.ports.flatMap(({ backends }) => backends.map(({ endpoint, port }) => `${endpoint.address}|${port}`)),
  );
  if (backends.size === 0) return new Map();
  const opened: Netns[] = [];
  try {
    for (const path of ['/proc/self/ns/net', ...networking.list().map(({ netns }) => netns)]) {
      try {
        opened.push(openNetns(path));
      } catch {
        // Its pod has ended, and its sockets with it.
      }
    }
    return countOpenSockets(engine, backends, opened);
  } finally {
    for (const netns of opened) netns.close();
  }
}
