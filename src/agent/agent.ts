/**
 * One node's agent: sources, planners and the kernel put together.
 *
 *   Nodes ────────► leases ──► OverlayReconciler ──► links, routes, neighbours, FDB, nft
 *   Services ─────► plans ───► EbpfEngine ─────────► maps, programs
 *   Pods ─────────► PodManager ─► PodNetworking ───► addresses, veth, sysctl
 *   CNI socket ───────────────────────┘   before a pod is ready: its policies are in force
 *   NetworkPolicies ─► PolicyController ─────────────► nft chains and sets
 *
 * Nothing waits for anything but what it needs: with the API away, what runs goes on and what the kernel loses
 * comes back; a node without a pod CIDR says so in its Node and starts no pods.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type Cidr, type Family, parseCidr } from '../addr/index.ts';
import { ApiClient, EventRecorder, type Log, loadKubeconfig, Reflector, resources } from '../client/index.ts';
import { answerCall, CniServer, installCni, type NetworkHealth, PodNetworking } from '../cni/index.ts';
import { isNetError, kernelError } from '../errors/index.ts';
import { AttachmentStore } from '../ipam/index.ts';
import { bpfFeatures, ensureBpffs, requireFeature } from '../kernel/bpf/index.ts';
import { ensureCgroup } from '../kernel/cgroup/index.ts';
import { compactHeap, keepYoungHeapSmall } from '../kernel/process/heap.ts';
import { Rtnl } from '../kernel/rtnl/index.ts';
import type { ConfigMap, EndpointSlice, Node, Pod, Service, ServiceCIDR } from '../model/kubernetes.ts';
import { type Lease, leaseAnnotations, type OverlayConfig, OverlayReconciler } from '../overlay/index.ts';
import { PodLinks } from '../podlink/index.ts';
import { PodManager, type PodNetwork, ProcessRunner, podApi } from '../pods/index.ts';
import {
  EbpfEngine,
  HealthCheckServers,
  masqueradeParts,
  type NodeContext,
  ServiceController,
  type ServiceFacts,
  type SliceFacts,
  serviceFacts,
  sliceFacts,
} from '../service/index.ts';
import { lockStateDir } from './lock.ts';
import { NftParts } from './nft-parts.ts';
import { nodeAddresses } from './node-addresses.ts';
import { type NodeFacts, standardLabels } from './node-object.ts';
import type { AgentOptions } from './options.ts';
import { peerLeases } from './peers.ts';
import { type AgentPolicy, openPolicy } from './policy.ts';
import { Registration } from './registration.ts';
import { agentRoutes } from './routes.ts';
import { serveSocket } from './socket.ts';
import { staleSocketHandler } from './stale-sockets.ts';

/** Until the overlay has told the real one; pods made meanwhile must fit through any tunnel. */
const FIRST_MTU_BYTES = 1400;
/** After the first Services are programmed: when the other first lists are through as well. */
const COMPACT_AFTER_MS = 2000;
/** Wrong kubelet neighbours keep out of our way: pods of the agent itself belong to no CNI network. */
const POD_IFNAME = 'eth0';

/** What the agent is made of; `routes.ts` answers questions from it. */
export interface AgentParts {
  readonly options: AgentOptions;
  readonly startedAt: number;
  readonly nodes: Reflector<Node, Node>;
  readonly services: Reflector<Service, ServiceFacts>;
  readonly slices: Reflector<EndpointSlice, SliceFacts>;
  readonly registration: Registration;
  readonly overlay: () => OverlayReconciler | undefined;
  readonly overlayConfig: () => OverlayConfig | undefined;
  readonly engine: EbpfEngine;
  readonly controller: ServiceController;
  readonly networking: PodNetworking;
  readonly policy: AgentPolicy;
  readonly manager: PodManager | undefined;
  readonly runner: ProcessRunner | undefined;
  readonly serviceRules: NftParts;
  readonly health: () => NetworkHealth;
}

export interface Agent {
  readonly parts: AgentParts;
  /** Lets go of everything and leaves it in the kernel: pods and connections go on. */
  close(): Promise<void>;
}

/**
 * Starts the agent. Throws AGENT_RUNNING, KERNEL_NEEDS_ROOT, KERNEL_FEATURE_MISSING, CLIENT_KUBECONFIG_*,
 * SERVICE_ENGINE_OPEN, IPAM_STORE_*.
 */
export async function startAgent(options: AgentOptions, log: Log): Promise<Agent> {
  const { nodeName, stateDir } = options;
  keepYoungHeapSmall();
  assertKernel();
  const stop = new AbortController();
  const { signal } = stop;
  const closing: (() => Promise<void> | void)[] = [];
  const close = async () => {
    stop.abort();
    for (const step of closing.reverse()) await step();
  };
  try {
    // What a person may have got wrong is read before anything is made.
    const access = loadKubeconfig(options.kubeconfig);
    const lock = lockStateDir(stateDir);
    closing.push(() => lock.release());
    mkdirSync(join(stateDir, 'pods'), { recursive: true, mode: 0o700 });
    const client = new ApiClient(access);
    closing.push(() => client.close());
    const recorder = new EventRecorder({ client, component: 'portolan-agent', host: nodeName, log });

    const nodes = new Reflector({ client, resource: resources.nodes, project: slimNode, signal, log });
    const services = new Reflector({
      client,
      resource: resources.services,
      project: (service: Service) => serviceFacts(service),
      signal,
      log,
    });
    const slices = new Reflector({
      client,
      resource: resources.endpointSlices,
      project: sliceFacts,
      signal,
      log,
    });
    const ranges = new Reflector({
      client,
      resource: resources.serviceCidrs,
      project: (object: ServiceCIDR): readonly string[] => object.spec?.cidrs ?? [],
      signal,
      log,
    });
    const ownPods = new Reflector<Pod>({
      client,
      resource: resources.pods,
      fieldSelector: `spec.nodeName=${nodeName}`,
      signal,
      log,
    });

    // The overlay starts when the node has its pod CIDRs and follows them.
    const families = new Set<Family>(options.clusterCidrs.map(({ family }) => family));
    let overlay: OverlayReconciler | undefined;
    let overlayConfig: OverlayConfig | undefined;
    let lease: Lease | undefined;
    let podMtuBytes = FIRST_MTU_BYTES;
    let addresses = ownAddresses(options, families);

    const ownNode = () => nodes.items.get(nodeName);
    const networkUp = () => overlay?.status().tables.state === 'done';
    const health = (): NetworkHealth => {
      if (!overlayConfig) return { cannotAdd: `node "${nodeName}" has no pod CIDR yet` };
      const tables = overlay?.status().tables;
      if (tables?.state === 'pending') return { cannotAdd: 'the overlay is being programmed' };
      return {};
    };
    const facts = (): NodeFacts => {
      const { cannotAdd } = health();
      return {
        name: nodeName,
        addresses: addresses.map(String),
        labels:
          options.pods === 'process'
            ? { ...standardLabels(nodeName), ...options.nodeLabels }
            : options.nodeLabels,
        annotations: lease ? leaseAnnotations(lease) : {},
        notReady: cannotAdd ? { reason: 'PortolanNotReady', message: cannotAdd } : undefined,
        networkUp: networkUp(),
        ownsStatus: options.pods === 'process',
        version: `v${options.version}`,
      };
    };
    const registration = new Registration({ client, nodes, nodeName, facts, signal, log });
    closing.push(() => registration.stop());

    // Services: programs are adopted or attached before anything else, so that they serve from the first moment.
    ensureBpffs();
    ensureCgroup(options.cgroupPath);
    mkdirSync(options.bpffsDir, { recursive: true, mode: 0o700 });
    const engine = EbpfEngine.open({
      bpffsDir: options.bpffsDir,
      cgroupPath: options.cgroupPath,
      nodeName,
      onStaleSockets: staleSocketHandler(() => networking.list().map(({ netns }) => netns), log),
    });
    closing.push(() => engine.close());
    const serviceRules = new NftParts('service rules', masqueradeParts());
    closing.push(() => serviceRules.stop());
    serviceRules.start();
    // Clients outside reach NodePorts and load balancer addresses by the links that have this node's addresses.
    const attachNodeInterfaces = () => {
      using rtnl = Rtnl.open();
      const own = new Set(addresses.map(String));
      for (const { address, ifindex } of rtnl.addrs())
        if (own.has(String(address))) engine.attachNodeInterface(ifindex);
    };
    attachNodeInterfaces();
    const healthChecks = new HealthCheckServers({ healthy: () => controller.ready });
    closing.push(() => healthChecks.close());
    const controller: ServiceController = new ServiceController({
      services,
      slices,
      ranges,
      engine,
      node: nodeContext(nodeName, undefined, addresses.map(String)),
      log,
      onApplied: (delta) => healthChecks.apply(delta),
      onResult: (key, error) => {
        const [namespace, name] = key.split('/') as [string, string];
        if (!error) return;
        const occurrence = {
          type: 'Warning',
          reason: 'ServiceNotProgrammed',
          message: `${nodeName}: ${error.message}`,
        } as const;
        recorder.record({ apiVersion: 'v1', kind: 'Service', namespace, name }, occurrence);
      },
    });
    closing.push(() => controller.close());

    // Pod links.
    const store = new AttachmentStore({ path: join(stateDir, 'attachments.db') });
    closing.push(() => store.close());
    const links = new PodLinks();
    closing.push(() => links.close());
    // Programs hang on the host end by its number; a link that was made anew has another one.
    const interfaces = new Map<string, number>();
    const detach = (hostLink: string, unless?: number) => {
      const ifindex = interfaces.get(hostLink);
      if (ifindex === undefined || ifindex === unless) return;
      engine.detachPodLink(ifindex);
      interfaces.delete(hostLink);
    };
    const policy = openPolicy({
      client,
      nodeName,
      cutEstablished: options.cutEstablished ?? true,
      signal,
      log,
    });
    closing.push(() => policy.controller.close());
    const networking: PodNetworking = new PodNetworking({
      store,
      links,
      mtuBytes: () => podMtuBytes,
      beforeReady: async (attachment, { ifindex }) => {
        const { hostLink } = attachment;
        await policy.controller.isolate(attachment);
        detach(hostLink, ifindex);
        engine.attachPodLink(ifindex);
        interfaces.set(hostLink, ifindex);
      },
      afterRemoved: async (attachment) => {
        detach(attachment.hostLink);
        await policy.controller.forget(attachment);
      },
      health,
      onError: (error) => log.error({ error: (error as Error).message }, 'pod links'),
    });
    await networking.start();
    closing.push(() => networking.close());
    // What an earlier agent did not live to detach, or what start() has just removed.
    engine.dropGoneInterfaces();

    const cni = new CniServer({
      socketPath: join(stateDir, 'cni.sock'),
      answer: (call) => answerCall(call, networking),
      onCall: (call) => log.debug(call, 'cni'),
    });
    await cni.listen();
    closing.push(() => cni.close());
    if (options.cni) installCni({ ...options.cni, socketPath: join(stateDir, 'cni.sock') });

    // Nodes become leases; this node's own CIDRs become the pools and the overlay's configuration.
    let zone: string | undefined;
    const onNodes = () => {
      const own = ownNode();
      const podCidrs = (own?.spec?.podCIDRs ?? [])
        .map((text) => parseCidr(text))
        .filter(({ family }) => families.has(family));
      if (podCidrs.length > 0 && podCidrs.map(String).join() !== overlayConfig?.podCidrs.map(String).join())
        configureOverlay(podCidrs);
      const { leases, unreadable } = peerLeases(nodes.items.values(), nodeName);
      for (const { node, error } of unreadable)
        log.warn({ node, error: error.message }, 'a peer is left out');
      overlay?.setLeases(leases);
      const zoneNow = own?.metadata.labels?.['topology.kubernetes.io/zone'];
      if (zoneNow !== zone && controller.ready) {
        zone = zoneNow;
        controller.setNode(nodeContext(nodeName, zone, addresses.map(String)));
      }
    };
    const configureOverlay = (podCidrs: Cidr[]) => {
      store.setPools(podCidrs);
      overlayConfig = {
        node: nodeName,
        backend: options.backend,
        podCidrs,
        clusterCidrs: options.clusterCidrs,
        directRouting: options.directRouting,
        interface: options.interface,
        addresses: options.nodeIps.length > 0 ? options.nodeIps : undefined,
        subnetEnvPath: options.subnetEnvPath,
      };
      if (overlay) return overlay.setConfig(overlayConfig);
      let wasUp = false;
      overlay = new OverlayReconciler({
        config: overlayConfig,
        onLease: (next) => {
          lease = next;
          addresses = Object.values(next.endpoints).flatMap((endpoint) =>
            endpoint ? [endpoint.publicIp] : [],
          );
          registration.trigger();
        },
        onPodMtu: (mtu) => {
          podMtuBytes = mtu;
        },
        onChange: (change) => log.debug({ change: change.do }, 'overlay'),
        onStatus: ({ tables }) => {
          if (tables.state === 'error') log.warn({ error: tables.error.message }, 'overlay');
          if ((tables.state === 'done') === wasUp) return;
          wasUp = tables.state === 'done';
          registration.trigger();
        },
      });
      overlay.start();
      return undefined;
    };
    nodes.onChange(onNodes);
    closing.push(() => overlay?.stop());

    // Pods.
    let runner: ProcessRunner | undefined;
    let manager: PodManager | undefined;
    if (options.pods === 'process') {
      const podLog = (message: string, error?: unknown) =>
        error === undefined
          ? log.info({}, message)
          : log.warn({ error: (error as Error).message ?? String(error) }, message);
      runner = await ProcessRunner.open({
        stateDir,
        cgroupRoot: join(options.cgroupPath, 'pods'),
        network: podNetwork(networking),
        netnsPrefix: `${netnsPrefix(options)}-`,
        log: podLog,
      });
      const openRunner = runner;
      closing.push(() => openRunner.close());
      manager = new PodManager({
        nodeName,
        runner,
        source: ownPods,
        api: podApi(client),
        events: recorder,
        configMap: (namespace, name) => readConfigMap(client, namespace, name),
        hostIps: () => addresses.map(String),
        stateDir,
        log: podLog,
      });
      const openManager = manager;
      closing.push(() => openManager.close());
    }

    const parts: AgentParts = {
      options,
      startedAt: Date.now(),
      nodes,
      services,
      slices,
      registration,
      overlay: () => overlay,
      overlayConfig: () => overlayConfig,
      engine,
      controller,
      networking,
      policy,
      manager,
      runner,
      serviceRules,
      health,
    };
    const socket = await serveSocket(join(stateDir, 'agent.sock'), agentRoutes(parts));
    closing.push(() => socket.close());

    for (const reflector of [nodes, services, slices, ranges]) reflector.start();
    policy.startSources();
    if (manager) ownPods.start();
    const background = (what: string, work: Promise<unknown> | undefined) =>
      work?.catch((error: unknown) => {
        if (!signal.aborted) log.error({ error: (error as Error).message }, what);
      });
    void background('registration', registration.start());
    void background(
      'services',
      controller.start().then(() => {
        onNodes();
        // Lists of everything are read once; what they took is not needed again.
        setTimeout(compactHeap, COMPACT_AFTER_MS).unref();
      }),
    );
    void background('network policy', policy.controller.start(networking.list()));
    void background('pods', manager?.start());
    log.info({ node: nodeName, stateDir, backend: options.backend }, 'agent started');
    return { parts, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Asks for all that the data path cannot do without. Throws KERNEL_NEEDS_ROOT, KERNEL_FEATURE_MISSING. */
function assertKernel(): void {
  if (process.getuid?.() !== 0) throw kernelError('KERNEL_NEEDS_ROOT', { action: 'run the agent' });
  const { hashMaps, lpmMaps, socketHooks } = bpfFeatures;
  for (const needed of [hashMaps, lpmMaps, socketHooks]) requireFeature(needed);
}

/** What of a Node the agent keeps: thousands of them must stay small. */
function slimNode(node: Node): Node {
  const { name, uid, labels, annotations } = node.metadata;
  return {
    apiVersion: node.apiVersion,
    kind: node.kind,
    metadata: { name, ...(uid && { uid }), ...(labels && { labels }), ...(annotations && { annotations }) },
    ...(node.spec && { spec: node.spec }),
    ...(node.status && {
      status: {
        ...(node.status.addresses && { addresses: node.status.addresses }),
        ...(node.status.conditions && { conditions: node.status.conditions }),
        ...(node.status.capacity && { capacity: node.status.capacity }),
        ...(node.status.nodeInfo && { nodeInfo: node.status.nodeInfo }),
      },
    }),
  };
}

function ownAddresses(options: AgentOptions, families: ReadonlySet<Family>) {
  if (options.nodeIps.length > 0) return [...options.nodeIps];
  using rtnl = Rtnl.open();
  return nodeAddresses({ routes: rtnl.routes(), addrs: rtnl.addrs() }, families);
}

function nodeContext(nodeName: string, zone: string | undefined, addresses: readonly string[]): NodeContext {
  return {
    nodeName,
    zone,
    nodePortAddresses: [...addresses, '127.0.0.1', '::1'],
    externalIPs: false,
    masqueradeAll: false,
    proxyName: undefined,
  };
}

function podNetwork(networking: PodNetworking): PodNetwork {
  const keyOf = (sandboxId: string) => ({ containerId: sandboxId, ifname: POD_IFNAME });
  return {
    async add({ sandboxId, metadata, netnsPath }) {
      const { namespace, name, uid } = metadata;
      const attachment = await networking.add({
        ...keyOf(sandboxId),
        netns: netnsPath,
        pod: { namespace, name, uid },
        ifAttached: 'ensure',
      });
      return { ips: attachment.addresses.map(String) };
    },
    del: ({ sandboxId }) => networking.del(keyOf(sandboxId)),
    async check({ sandboxId, netnsPath }) {
      const missing = await networking.check(keyOf(sandboxId), netnsPath);
      if (missing.length > 0) throw new Error(missing.join('; '));
    },
  };
}

/** Namespaces of pods are named after the node's own folder, so that two nodes of a lab are told apart. */
function netnsPrefix({ stateDir }: AgentOptions): string {
  return stateDir.replace(/^\/run\//, '').replace(/[^a-z0-9-]+/g, '-');
}

async function readConfigMap(
  client: ApiClient,
  namespace: string,
  name: string,
): Promise<ConfigMap | undefined> {
  try {
    return await client.get(resources.configMaps, { namespace, name });
  } catch (error) {
    if (isNetError(error, 'CLIENT_NOT_FOUND')) return undefined;
    throw error;
  }
}
