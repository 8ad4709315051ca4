/** A cluster over a ServiceNet: the real API server and controllers, and on each node a planner and the engine. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseIp } from '../../../src/addr/index.ts';
import { podHostPorts } from '../../../src/agent/host-ports.ts';
import { type NodePortAddresses, nodeContext } from '../../../src/agent/node-context.ts';
import { type ApiServer, type ApiServerOptions, startApiServer } from '../../../src/apiserver/index.ts';
import { ApiClient, type Log, loadKubeconfig, Reflector, resources } from '../../../src/client/index.ts';
import { startControllers } from '../../../src/controllers/index.ts';
import { Conntrack } from '../../../src/kernel/conntrack/index.ts';
import { type Netns, openNetns } from '../../../src/kernel/netns/index.ts';
import { listenInNetns } from '../../../src/kernel/socket/listen.ts';
import type {
  EndpointSlice,
  KubeObject,
  Node,
  Pod,
  Service,
  ServiceCIDR,
} from '../../../src/model/kubernetes.ts';
import {
  destroyStaleSockets,
  HealthCheckServers,
  ServiceController,
  type ServiceEngine,
  type ServiceFacts,
  type SliceFacts,
  serviceFacts,
  sliceFacts,
} from '../../../src/service/index.ts';
import { anEndpoint } from '../../../src/service/testing.ts';
import { eventually } from '../../lib/until.ts';
import type { EngineUnderTest } from './engine.ts';
import {
  EXTRA,
  FAMILY_NAMES,
  type FamilyName,
  type NetNode,
  type NetPod,
  type Prober,
  ServiceNet,
} from './net.ts';

/** Zones of the nodes at the beginning. */
const ZONES: Readonly<Record<string, string>> = { 'node-a': 'za', 'node-b': 'zb', 'node-c': 'zc' };

/** A node with its planner and engine. */
export interface ClusterNode {
  readonly net: NetNode;
  engine: ServiceEngine;
  controller: ServiceController;
  healthChecks: HealthCheckServers;
}

/** What differs between nodes' agents, as their command line has it. */
export interface ServiceFlags {
  readonly externalIPs?: boolean;
  readonly masqueradeAll?: boolean;
  readonly nodePortAddresses?: NodePortAddresses;
  readonly proxyName?: string;
}

/** The API server now, and how to start it again. */
interface Api {
  server: ApiServer;
  readonly options: ApiServerOptions;
}

type ServiceSpec = Partial<Service['spec']>;

const silent: Log = { debug() {}, info() {}, warn() {}, error() {} };

export class ServiceCluster implements AsyncDisposable {
  readonly net: ServiceNet;
  readonly client: ApiClient;
  readonly nodes: ClusterNode[] = [];
  readonly #engine: EngineUnderTest;
  readonly #stop = new AbortController();
  readonly #undo = new AsyncDisposableStack();
  /** What the nodes have seen: kind and key to resourceVersion. */
  readonly #seen = new Map<string, string>();
  readonly #services: Reflector<Service, ServiceFacts>;
  readonly #slices: Reflector<EndpointSlice, SliceFacts>;
  readonly #ranges: Reflector<ServiceCIDR, readonly string[]>;
  readonly #zones = new Map<string, string>(Object.entries(ZONES));
  readonly #pods = new Map<string, Reflector<Pod>>();
  readonly #api: Api;
  readonly #spaces = new Map<string, readonly Netns[]>();
  readonly #flags = new Map<string, ServiceFlags>();

  private constructor(engine: EngineUnderTest, net: ServiceNet, client: ApiClient, api: Api) {
    this.#api = api;
    this.#engine = engine;
    this.net = net;
    this.client = client;
    const common = { client, signal: this.#stop.signal, log: silent };
    this.#services = new Reflector({
      ...common,
      resource: resources.services,
      project: (service: Service) => {
        this.#note('services', service);
        return serviceFacts(service);
      },
    });
    this.#slices = new Reflector({
      ...common,
      resource: resources.endpointSlices,
      project: (slice: EndpointSlice) => {
        this.#note('slices', slice);
        return sliceFacts(slice);
      },
    });
    this.#ranges = new Reflector({
      ...common,
      resource: resources.serviceCidrs,
      project: (object: ServiceCIDR): readonly string[] => object.spec?.cidrs ?? [],
    });
  }

  static async create(engine: EngineUnderTest): Promise<ServiceCluster> {
    const undo = new AsyncDisposableStack();
    try {
      const folder = mkdtempSync(join(tmpdir(), 'portolan-conformance-'));
      undo.defer(() => rmSync(folder, { recursive: true, force: true }));
      const options = {
        dataDir: join(folder, 'data'),
        listen: [{ host: '127.0.0.1', port: 0 }],
        serviceCidrs: ['10.96.0.0/16', 'fd00:10:96::/112'],
        clusterCidrs: ['10.244.0.0/16', 'fd00:10:244::/48'],
      };
      const [net, server] = await Promise.all([
        ServiceNet.create(`pcs${process.pid}`).then((net) => (engine.hook ? net.asCards() : net)),
        startApiServer(options),
      ]);
      const api = { server, options: { ...options, listen: server.addresses } };
      undo.use(net);
      undo.defer(() => api.server.close());
      const client = new ApiClient(loadKubeconfig(join(folder, 'data/admin.kubeconfig')));
      undo.defer(() => client.close());
      const cluster = new ServiceCluster(engine, net, client, api);
      await cluster.#start(undo);
      return cluster;
    } catch (error) {
      await undo.disposeAsync();
      throw error;
    }
  }

  async #start(undo: AsyncDisposableStack): Promise<void> {
    const { client, net } = this;
    this.#undo.use(undo.move());
    this.#undo.defer(() => this.#stop.abort());
    const controllers = startControllers({
      client,
      clusterCidrs: [],
      signal: this.#stop.signal,
      log: silent,
      only: ['endpoint-slices', 'services', 'load-balancers'],
    });
    controllers.done.catch(() => {});
    for (const node of net.nodes) {
      await client.create(resources.nodes, {
        apiVersion: 'v1',
        kind: 'Node',
        metadata: { name: node.name, labels: { 'topology.kubernetes.io/zone': ZONES[node.name]! } },
      });
      await client.patchStatus(
        resources.nodes,
        { name: node.name },
        {
          status: {
            addresses: FAMILY_NAMES.map((family) => ({ type: 'InternalIP', address: node[family] })),
            conditions: [{ type: 'Ready', status: 'True', reason: 'KubeletReady' }],
          },
        },
        { type: 'strategic' },
      );
    }
    for (const reflector of [this.#services, this.#slices, this.#ranges]) reflector.start();
    const watched = new Reflector<Node, string>({
      client,
      signal: this.#stop.signal,
      log: silent,
      resource: resources.nodes,
      project: (node: Node) => {
        this.#note('nodes', node);
        return node.metadata.labels?.['topology.kubernetes.io/zone'] ?? '';
      },
    });
    watched.onChange(() => {
      for (const [name, zone] of watched.items) this.#zones.set(name, zone);
      for (const node of this.nodes) this.#tell(node);
    });
    watched.start();
    await Promise.all([controllers.ready, ...net.nodes.map((node) => this.#open(node))]);
  }

  async #open(net: NetNode): Promise<void> {
    const node: ClusterNode = { net, ...(await this.#opened(net)) };
    this.nodes.push(node);
    this.nodes.sort((a, b) => (a.net.name < b.net.name ? -1 : 1));
    this.#undo.defer(async () => {
      node.controller.close();
      await node.healthChecks.close();
      node.engine.remove();
    });
    await node.controller.start();
  }

  /** An engine and its planner for a node, attached; not yet started. */
  async #opened(net: NetNode): Promise<Omit<ClusterNode, 'net'>> {
    const engine = await this.#engine.open({
      nodeName: net.name,
      netns: net.netns,
      bpffsDir: net.bpffs,
      cgroupPath: net.cgroup,
      onStaleSockets: destroyStaleSockets({
        namespaces: () => this.#namespaces(net),
        onDone: (_destroyed, error) => {
          if (error) throw error;
        },
      }),
    });
    for (const { ifindex, bridge } of net.pods) {
      engine.attachPodLink(ifindex);
      if (bridge !== undefined) engine.attachPodBridge?.(bridge);
    }
    engine.attachNodeInterface(net.uplink, this.#engine.hook ? { ip4: net.ip4, ip6: net.ip6 } : {});
    const hook = engine.status().nodeHooks?.[0]?.hook;
    if (this.#engine.hook !== undefined && hook !== this.#engine.hook)
      throw new Error(`${net.name} is served in ${hook}, not ${this.#engine.hook}`);
    const healthChecks = new HealthCheckServers({
      healthy: () => controller.ready,
      listen: (server, port) => server.listen({ fd: listenInNetns(net.netns, net.ip4, port) }),
    });
    const controller: ServiceController = new ServiceController({
      services: this.#services,
      slices: this.#slices,
      ranges: this.#ranges,
      hostPorts: podHostPorts(this.#podsOf(net.name)),
      engine,
      node: this.#context(net),
      onApplied: (delta) => healthChecks.apply(delta),
    });
    return { engine, controller, healthChecks };
  }

  /** The Pods bound to a node, as its agent watches them. */
  #podsOf(nodeName: string): Reflector<Pod> {
    let pods = this.#pods.get(nodeName);
    if (!pods) {
      pods = new Reflector<Pod>({
        client: this.client,
        signal: this.#stop.signal,
        log: silent,
        resource: resources.pods,
        fieldSelector: `spec.nodeName=${nodeName}`,
        project: (pod: Pod) => {
          this.#note('pods', pod);
          return pod;
        },
      });
      pods.start();
      this.#pods.set(nodeName, pods);
    }
    return pods;
  }

  /** The namespace of a node and those of its pods, opened once. */
  #namespaces(net: NetNode): readonly Netns[] {
    let known = this.#spaces.get(net.name);
    if (!known) {
      const pods = net.pods.map((pod) => openNetns(pod.netns));
      this.#undo.defer(() => {
        for (const netns of pods) netns.close();
      });
      known = [net.netns, ...pods];
      this.#spaces.set(net.name, known);
    }
    return known;
  }

  /** Stops the engine of a node as an agent that ends would, and starts another one in its place. */
  async restart(letter: string): Promise<void> {
    const node = this.node(letter);
    node.controller.close();
    await node.healthChecks.close();
    node.engine.close();
    Object.assign(node, await this.#opened(node.net));
    await node.controller.start();
  }

  /** A node by its letter. */
  node(letter: string): ClusterNode {
    return this.nodes.find(({ net }) => net.name === `node-${letter}`)!;
  }

  /** Gives the agents of all nodes these flags; without them those they began with. */
  async flags(flags: ServiceFlags = {}): Promise<void> {
    for (const node of this.nodes) {
      this.#flags.set(node.net.name, flags);
      this.#tell(node);
    }
    await this.settled();
  }

  #context(net: NetNode) {
    return nodeContext({
      nodeName: net.name,
      zone: this.#zones.get(net.name) || undefined,
      addresses: [parseIp(net.ip4), parseIp(net.ip6)],
      local: [parseIp(EXTRA.ip4), parseIp(EXTRA.ip6)],
      externalIPs: true,
      ...this.#flags.get(net.name),
    });
  }

  #tell(node: ClusterNode): void {
    const context = this.#context(node.net);
    if (node.controller.ready && JSON.stringify(context) !== JSON.stringify(node.controller.node))
      node.controller.setNode(context);
  }

  #note(kind: string, { metadata }: KubeObject): void {
    this.#seen.set(`${kind} ${metadata.namespace ?? ''}/${metadata.name}`, metadata.resourceVersion!);
  }

  /** Resolves when every node has programmed what the API has now. */
  async settled(): Promise<void> {
    const { client } = this;
    const known = { services: this.#services, slices: this.#slices } as const;
    const lists = {
      services: await client.listAll<KubeObject>(resources.services),
      slices: await client.listAll<KubeObject>(resources.endpointSlices),
    };
    const nodes = await client.listAll(resources.nodes);
    const pods = await client.listAll(resources.pods);
    const seen = (kind: string, { metadata }: KubeObject) =>
      Number(this.#seen.get(`${kind} ${metadata.namespace ?? ''}/${metadata.name}`) ?? 0) >=
      Number(metadata.resourceVersion);
    await eventually('the nodes see what the API has', () => {
      for (const kind of ['services', 'slices'] as const) {
        const names = new Set(lists[kind].map(({ metadata }) => `${metadata.namespace}/${metadata.name}`));
        for (const object of lists[kind]) if (!seen(kind, object)) return false;
        for (const key of known[kind].items.keys()) if (!names.has(key)) return false;
      }
      const names = new Set(pods.map(({ metadata }) => `${metadata.namespace}/${metadata.name}`));
      for (const { items } of this.#pods.values())
        for (const key of items.keys()) if (!names.has(key)) return false;
      return nodes.every((node) => seen('nodes', node)) && pods.every((pod) => seen('pods', pod));
    });
    await Promise.all(this.nodes.map(({ controller }) => controller.settled()));
  }

  /** Creates the Service, or changes it to be this; its address families are both. Names are in namespace default. */
  async service(
    name: string,
    spec: ServiceSpec,
    more: { labels?: Record<string, string>; annotations?: Record<string, string> } = {},
  ): Promise<Service> {
    const present = await this.client
      .get(resources.services, { namespace: 'default', name })
      .catch(() => undefined);
    const dual = spec.type === 'ExternalName' ? {} : { ipFamilyPolicy: 'RequireDualStack' as const };
    const keep = (field: 'clusterIP' | 'clusterIPs' | 'healthCheckNodePort') =>
      present?.spec[field] !== undefined && spec.type !== 'ExternalName'
        ? { [field]: present.spec[field] }
        : {};
    const object = {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: {
        name,
        namespace: 'default',
        ...(more.labels && { labels: more.labels }),
        ...(more.annotations && { annotations: more.annotations }),
      },
      spec: {
        ...dual,
        ...(present?.spec.clusterIP !== 'None' && { ...keep('clusterIP'), ...keep('clusterIPs') }),
        ...(spec.externalTrafficPolicy === 'Local' &&
          spec.type === 'LoadBalancer' &&
          keep('healthCheckNodePort')),
        ports: [
          { name: 'tcp', port: 80, targetPort: 8080, protocol: 'TCP' },
          { name: 'udp', port: 80, targetPort: 8080, protocol: 'UDP' },
        ],
        ...spec,
      },
    } as Service;
    return present
      ? this.client.update(resources.services, object)
      : this.client.create(resources.services, object);
  }

  /** A Service in namespace default, as the API has it. */
  get(name: string): Promise<Service> {
    return this.client.get(resources.services, { namespace: 'default', name });
  }

  async deleteService(name: string): Promise<void> {
    await this.client.delete(resources.services, { namespace: 'default', name });
  }

  /** Changes fields of a Service by a merge patch, and waits until it is programmed. */
  async patch(name: string, patch: object): Promise<void> {
    await this.client.patch(resources.services, { namespace: 'default', name }, patch);
    await this.settled();
  }

  /** Gives a Service of type LoadBalancer these ingress addresses, as a load balancer's controller would. */
  async ingress(name: string, ingress: readonly { ip: string; ipMode?: 'VIP' | 'Proxy' }[]): Promise<void> {
    await this.client.patchStatus(
      resources.services,
      { namespace: 'default', name },
      { status: { loadBalancer: { ingress } } },
    );
  }

  /** An endpoint's address: of a pod, of a node (`node-a`, its host network) or of the outside. */
  address(name: string, family: FamilyName): string {
    if (name === 'outside') return this.net.outside[family];
    return name.startsWith('node-') ? this.net.node(name.slice(5))[family] : this.net.pod(name)[family];
  }

  /**
   * Writes the slices of a Service without selector by hand, one a family and port: endpoints in the words of
   * `anEndpoint`, by place: `a1`, `b1 unready`, `node-a terminating`, `c1 zone:za`. Waits until it is programmed.
   */
  async endpoints(
    service: string,
    words: readonly string[],
    ports: readonly { name: string; port: number; protocol: 'TCP' | 'UDP' }[] = [
      { name: 'tcp', port: 8080, protocol: 'TCP' },
      { name: 'udp', port: 8080, protocol: 'UDP' },
    ],
  ): Promise<void> {
    for (const family of FAMILY_NAMES) {
      const endpoints = words.map((text) => {
        const [place, ...rest] = text.split(' ') as [string, ...string[]];
        const node = place.startsWith('node-') ? place : place === 'outside' ? '' : this.net.pod(place).node;
        return anEndpoint([this.address(place, family), node, ...rest].join(' '));
      });
      await this.slice(`${service}-${family}`, {
        metadata: { name: '', labels: { 'kubernetes.io/service-name': service } },
        addressType: family === 'ip4' ? 'IPv4' : 'IPv6',
        ports: ports.map((port) => ({ ...port })),
        endpoints,
      });
    }
    await this.settled();
  }

  /** Creates a slice, or puts it in the place of the present one. */
  async slice(name: string, slice: Omit<EndpointSlice, 'apiVersion' | 'kind'>): Promise<void> {
    const object: EndpointSlice = {
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      ...slice,
      metadata: { ...slice.metadata, name, namespace: 'default' },
    };
    const present = await this.client
      .get(resources.endpointSlices, { namespace: 'default', name })
      .catch(() => undefined);
    if (present) await this.client.update(resources.endpointSlices, object);
    else await this.client.create(resources.endpointSlices, object);
  }

  /** A Pod object of a pod of the network, bound to its node and with its addresses; ready unless told. */
  async pod(
    name: string,
    labels: Record<string, string>,
    more: { ready?: boolean; ports?: Pod['spec']['containers'][0]['ports'] } = {},
  ): Promise<void> {
    const pod: NetPod = this.net.pod(name);
    await this.client.create(resources.pods, {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name, namespace: 'default', labels },
      spec: {
        nodeName: pod.node,
        containers: [{ name: 'c', image: 'none', ...(more.ports && { ports: more.ports }) }],
      },
    } as Pod);
    await this.ready(name, more.ready ?? true);
  }

  async ready(name: string, ready: boolean): Promise<void> {
    const { ip4, ip6, node } = this.net.pod(name);
    await this.client.patchStatus(
      resources.pods,
      { namespace: 'default', name },
      {
        status: {
          phase: 'Running',
          podIP: ip4,
          podIPs: [{ ip: ip4 }, { ip: ip6 }],
          hostIP: this.net.nodes.find((one) => one.name === node)!.ip4,
          conditions: [{ type: 'Ready', status: ready ? 'True' : 'False' }],
        },
      },
      { type: 'strategic' },
    );
  }

  /** Begins to delete a pod (it has a grace period and no kubelet), or deletes it at once. */
  async deletePod(name: string, graceSeconds = 0): Promise<void> {
    await this.client.delete(
      resources.pods,
      { namespace: 'default', name },
      { gracePeriodSeconds: graceSeconds },
    );
  }

  /** Waits until the slices of a Service name exactly these places in IPv4, each with a mark: + ready, ~ only serving, - neither. */
  async published(service: string, wanted: readonly string[]): Promise<void> {
    const byAddress = new Map(
      this.net.nodes.flatMap(({ pods }) => pods).map((pod) => [pod.ip4, pod.name] as const),
    );
    let last = '';
    const want = [...wanted].sort().join(' ');
    await eventually(
      `endpoints of ${service} are ${want}`,
      async () => {
        const slices = await this.client.listAll(resources.endpointSlices, {
          namespace: 'default',
          labelSelector: `kubernetes.io/service-name=${service}`,
        });
        const words = slices
          .filter(({ addressType }) => addressType === 'IPv4')
          .flatMap(({ endpoints }) => endpoints ?? [])
          .map(
            ({ addresses, conditions }) =>
              `${byAddress.get(addresses[0]!) ?? addresses[0]}${conditions?.ready ? '+' : conditions?.serving ? '~' : '-'}`,
          );
        last = [...new Set(words)].sort().join(' ');
        return last === want;
      },
      5000,
    ).catch((error: Error) => {
      throw new Error(`${error.message}; they are ${last}`);
    });
    await this.settled();
  }

  /** Waits until the zones that IPv4 endpoints of a Service are hinted for are these, sorted. */
  async hinted(service: string, zones: string): Promise<void> {
    await eventually(`hints of ${service} are ${zones}`, async () => {
      const slices = await this.client.listAll(resources.endpointSlices, {
        namespace: 'default',
        labelSelector: `kubernetes.io/service-name=${service}`,
      });
      const found = slices
        .filter(({ addressType }) => addressType === 'IPv4')
        .flatMap(({ endpoints }) => endpoints ?? [])
        .flatMap(({ hints }) => hints?.forZones?.map(({ name }) => name) ?? ['none']);
      return found.sort().join(' ') === zones;
    });
    await this.settled();
  }

  /** Stops the API server, does something without it, and starts it again with the same store and port. */
  async restartApi(meanwhile: () => Promise<void>): Promise<void> {
    await this.#api.server.close();
    try {
      await meanwhile();
    } finally {
      this.#api.server = await startApiServer(this.#api.options);
    }
  }

  /** Deletes Services with their slices, and Pods, that a case made. */
  async clear(): Promise<void> {
    const { client } = this;
    for (const { metadata } of await client.listAll(resources.services))
      if (metadata.name !== 'kubernetes')
        await client.delete(resources.services, metadata as { name: string; namespace: string });
    for (const { metadata } of await client.listAll(resources.pods))
      await client.delete(resources.pods, metadata as { name: string; namespace: string }, {
        gracePeriodSeconds: 0,
      });
    for (const { metadata } of await client.listAll(resources.endpointSlices))
      if (!metadata.labels?.['endpointslice.kubernetes.io/managed-by'] && metadata.name !== 'kubernetes')
        await client
          .delete(resources.endpointSlices, metadata as { name: string; namespace: string })
          .catch(() => {});
    // A client's port that comes again must not meet what conntrack remembers of another case.
    for (const { net } of this.nodes) {
      using conntrack = Conntrack.open({ netns: net.netns });
      conntrack.delete(conntrack.list());
    }
    if (this.#flags.size > 0) {
      this.#flags.clear();
      for (const node of this.nodes) this.#tell(node);
    }
  }

  /** A client by its place: `a1` (a pod), `packets a1` (a pod no socket hook sees), `node-a`, `outside`. */
  at(place: string): Prober {
    if (place === 'outside') return this.net.outside.prober;
    if (place.startsWith('packets ')) return this.net.packets.get(place.slice(8))!;
    if (place.startsWith('node-')) return this.net.node(place.slice(5)).prober;
    return this.net.pod(place).prober;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#undo.disposeAsync();
  }
}
