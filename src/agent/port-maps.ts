/**
 * hostPorts of this node, from both who name them: Pods of the API, and container runtimes by the CNI capability
 * `portMappings`.
 *
 *     Pods (API) ───────────┐
 *                           ├─► one table ─► ServicePlanner ─► engine          keyed pod/namespace/name
 *     attachments (CNI) ────┘        │                                          or container/network/id
 *          ▲                         └─ claim: does anybody else have that port?
 *          └── ADD returns when the engine has them, DEL when it has them no more
 *
 * A kubelet's pod is named by both: it is one entry, whose addresses are the attachment's, which is right before the
 * Pod's status tells, and after.
 */
import { parseIp } from '../addr/index.ts';
import { mappingText, type PortPublisher } from '../cni/index.ts';
import { cniError } from '../errors/index.ts';
import type { Attachment, AttachmentStore, PortMapping } from '../ipam/index.ts';
import {
  frontendKey,
  type HostPort,
  type HostPortFacts,
  planHostPorts,
  type ServiceController,
  type ServiceEngine,
  socketAddress,
  type TableSource,
} from '../service/index.ts';

/** How long an ADD waits for the first list of Services after a start. */
const READY_WAIT_MS = 5000;
const READY_LOOK_MS = 20;

export interface PortMapsOptions {
  readonly store: Pick<AttachmentStore, 'list' | 'holder' | 'pools' | 'onChange'>;
  /** hostPorts by the API, keyed as their plans. */
  readonly pods: TableSource<HostPortFacts>;
  readonly controller: () => Pick<
    ServiceController,
    'ready' | 'node' | 'plans' | 'failed' | 'ownerOf' | 'tried'
  >;
  readonly engine: () => Pick<ServiceEngine, 'diff'>;
}

export class PortMaps implements PortPublisher {
  /** What the planner reads. */
  readonly table: TableSource<HostPortFacts>;
  readonly #options: PortMapsOptions;
  readonly #items = new Map<string, HostPortFacts>();
  /** Attachments with mappings, by container id and interface, oldest first. */
  readonly #published = new Map<string, Attachment>();
  /** Ports of ADDs that are under way, by container id and interface. */
  readonly #claimed = new Map<string, { readonly key: string; readonly frontends: ReadonlySet<string> }>();
  readonly #listeners: ((keys: ReadonlySet<string>) => void)[] = [];

  constructor(options: PortMapsOptions) {
    this.#options = options;
    const { store, pods } = options;
    for (const attachment of store.list())
      if (attachment.portMappings.length > 0 && attachment.state === 'ready')
        this.#published.set(idOf(attachment), attachment);
    pods.onChange((keys) => this.#update(keys));
    // A Pod's hostPorts end with its attachment, whenever the API comes to know of it.
    store.onChange(() =>
      this.#update([...pods.items].flatMap(([key, pod]) => (this.#isStale(key, pod) ? [key] : []))),
    );
    this.#update([...this.#published.values()].map(keyOf));
    this.table = {
      items: this.#items,
      synced: pods.synced.then(() => this.#update(pods.items.keys())),
      onChange: (listener) => {
        this.#listeners.push(listener);
      },
    };
  }

  /** Takes the ports for an attachment. Throws CNI_HOST_PORT_TAKEN, _ADDRESS, CNI_HOST_PORTS_UNKNOWN. */
  async claim(attachment: Attachment): Promise<void> {
    const controller = this.#options.controller();
    const end = performance.now() + READY_WAIT_MS;
    while (!controller.ready) {
      if (performance.now() > end)
        throw cniError('CNI_HOST_PORTS_UNKNOWN', { ports: portsText(attachment.portMappings) });
      await new Promise((resolve) => setTimeout(resolve, READY_LOOK_MS));
    }
    // From here on nothing is waited for: of two ADDs one comes first.
    const facts = factsOf([attachment]);
    const plan = planHostPorts(facts, controller.node);
    for (const mapping of attachment.portMappings) this.#checkAddress(mapping, attachment, controller.node);
    const wanted = new Set<string>();
    for (const port of plan.ports)
      for (const frontend of port.frontends) {
        const key = frontendKey(frontend, port.protocol);
        const owner = this.#ownerOf(key, facts.key);
        if (owner !== undefined)
          throw cniError('CNI_HOST_PORT_TAKEN', {
            frontend: `${socketAddress(frontend.address, frontend.port)}/${port.protocol}`,
            owner: ownerText(owner),
          });
        wanted.add(key);
      }
    this.#claimed.set(idOf(attachment), { key: facts.key, frontends: wanted });
  }

  /** Resolves when the ports work. Throws CNI_HOST_PORT_FAILED, CNI_HOST_PORT_TAKEN. */
  async publish(attachment: Attachment): Promise<void> {
    const controller = this.#options.controller();
    const key = keyOf(attachment);
    this.#published.set(idOf(attachment), attachment);
    this.#update([key]);
    await controller.tried();
    const failure = controller.failed.get(key);
    if (failure)
      throw cniError(
        'CNI_HOST_PORT_FAILED',
        { ports: portsText(attachment.portMappings), why: failure.message },
        failure,
      );
    // A Service may have got the number as its nodePort since the claim.
    for (const port of controller.plans.get(key)?.ports ?? [])
      for (const { address, port: number, shadowedBy } of port.frontends)
        if (shadowedBy !== undefined)
          throw cniError('CNI_HOST_PORT_TAKEN', {
            frontend: `${socketAddress(address, number)}/${port.protocol}`,
            owner: ownerText(shadowedBy),
          });
    this.#claimed.delete(idOf(attachment));
  }

  /** Resolves when the ports lead here no more. Those of a newer container of the same name stay. */
  async withdraw(attachment: Attachment): Promise<void> {
    this.#claimed.delete(idOf(attachment));
    if (!this.#published.delete(idOf(attachment))) return;
    this.#update([keyOf(attachment)]);
    await this.#options.controller().tried();
  }

  check(attachment: Attachment): string[] {
    const controller = this.#options.controller();
    const key = keyOf(attachment);
    const ports = portsText(attachment.portMappings);
    if (!controller.ready) return [];
    const failure = controller.failed.get(key);
    if (failure) return [`port mappings ${ports}: ${failure.message}`];
    const plan = controller.plans.get(key);
    if (!plan) return [`port mappings ${ports} are not planned`];
    const missing = plan.problems.map(({ message }) => message);
    for (const port of plan.ports)
      for (const { address, port: number, shadowedBy } of port.frontends)
        if (shadowedBy !== undefined)
          missing.push(
            `port mapping ${socketAddress(address, number)}/${port.protocol} belongs to ${ownerText(shadowedBy)}`,
          );
    return [
      ...missing,
      ...this.#options
        .engine()
        .diff([plan])
        .missing.map((line) => `port mappings ${ports}: the kernel lacks ${line}`),
    ];
  }

  #checkAddress(mapping: PortMapping, { addresses }: Attachment, node: ServiceController['node']): void {
    const { hostIP } = mapping;
    if (hostIP === undefined) return;
    const family = hostIP.includes(':') ? 6 : 4;
    const why = !addresses.some((address) => address.family === family)
      ? `the container has no IPv${family} address`
      : hostIP !== '0.0.0.0' && hostIP !== '::' && !node.localAddresses.includes(hostIP)
        ? 'the node has no such address'
        : undefined;
    if (why) throw cniError('CNI_HOST_PORT_ADDRESS', { mapping: mappingText(mapping), why });
  }

  /** Who but `own` has a port; a Pod of the API that is not here any more has none. */
  #ownerOf(frontend: string, own: string): string | undefined {
    for (const { key, frontends } of this.#claimed.values())
      if (key !== own && frontends.has(frontend)) return key;
    const owner = this.#options.controller().ownerOf(frontend);
    return owner === own ? undefined : owner;
  }

  /** Makes the entries of these keys anew, and tells of those that differ. */
  #update(keys: Iterable<string>): void {
    const changed = new Set<string>();
    for (const key of keys) {
      const now = this.#factsOf(key);
      if (JSON.stringify(now) === JSON.stringify(this.#items.get(key))) continue;
      if (now) this.#items.set(key, now);
      else this.#items.delete(key);
      changed.add(key);
    }
    if (changed.size > 0) for (const listener of this.#listeners) listener(changed);
  }

  #factsOf(key: string): HostPortFacts | undefined {
    const pod = this.#options.pods.items.get(key);
    const own = [...this.#published.values()].filter((attachment) => keyOf(attachment) === key);
    if (own.length > 0) return factsOf(own, pod);
    return pod && this.#isHere(pod) ? pod : undefined;
  }

  #isStale(key: string, pod: HostPortFacts): boolean {
    return this.#items.has(key) !== this.#isHere(pod);
  }

  /** Addresses of our pools without an attachment are those of a pod that has gone, whatever the API says. */
  #isHere({ key, addresses }: HostPortFacts): boolean {
    const { store } = this.#options;
    const ours = addresses.filter((text) => store.pools.some((pool) => pool.contains(parseIp(text))));
    return (
      ours.length === 0 ||
      ours.some((text) => {
        const holder = store.holder(parseIp(text));
        return holder && (holder.pod === undefined || keyOf(holder) === key);
      })
    );
  }
}

/** The key under which a container's ports are planned: its Pod's, so that both who name them mean the same. */
function keyOf({ pod, network, containerId }: Attachment): string {
  return pod ? `pod/${pod.namespace}/${pod.name}` : `container/${network}/${containerId}`;
}

function idOf({ containerId, ifname }: Attachment): string {
  return `${containerId}/${ifname}`;
}

/** Of attachments with one key the last one counts: an older sandbox of a Pod may be deleted later. */
function factsOf(attachments: readonly Attachment[], pod?: HostPortFacts): HostPortFacts {
  const last = attachments.at(-1)!;
  const ports: HostPort[] = [...last.portMappings];
  for (const port of pod?.ports ?? [])
    if (!ports.some((one) => frontOf(one) === frontOf(port))) ports.push(port);
  return {
    key: keyOf(last),
    createdAt: new Date(last.createdAtMs).toISOString(),
    addresses: last.addresses.map(String),
    ports,
    problems: pod?.problems ?? [],
  };
}

function frontOf({ hostIP, hostPort, protocol }: HostPort): string {
  return `${hostIP ?? ''} ${hostPort} ${protocol}`;
}

/** Whose a plan is, for people. */
export function ownerText(key: string): string {
  const [kind, first = '', ...rest] = key.split('/');
  if (kind === 'pod' && rest.length > 0) return `pod "${first}/${rest.join('/')}"`;
  if (kind === 'container' && rest.length > 0) return `container "${rest[0]}"`;
  return `Service "${key}"`;
}

function portsText(mappings: readonly PortMapping[]): string {
  return mappings.map(mappingText).join(', ');
}
