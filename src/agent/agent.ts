/**
 * One node's agent: sources, planners and the kernel put together.
 *
 *   Nodes ────────► leases ──► OverlayReconciler ──► links, routes, neighbours, FDB, nft
 *   Services ─────► plans ───► EbpfEngine ─────────► maps, programs       or NftablesEngine ──► nft sets
 *   Pods ─────────► PodManager ─► PodNetworking ───► addresses, veth, sysctl
 *   CNI socket ───────────────────────┘   before a pod is ready: its policies are in force
 *   NetworkPolicies ─► PolicyController ─────────────► nft chains and sets
 *
 * Nothing waits for anything but what it needs: with the API away, what runs goes on and what the kernel loses
 * comes back; a node without a pod CIDR says so in its Node and starts no pods.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Family } from '../addr/index.ts';
import { ApiClient, EventRecorder, followKubeconfig, type Log, loadKubeconfig } from '../client/index.ts';
import { answerCall, CniServer, installCni, PodNetworking } from '../cni/index.ts';
import { kernelError } from '../errors/index.ts';
import { AttachmentStore } from '../ipam/index.ts';
import { keepYoungHeapSmall, settleMemory } from '../kernel/process/heap.ts';
import { Rtnl } from '../kernel/rtnl/index.ts';
import { DEFAULT_PORT, leaseAnnotations } from '../overlay/index.ts';
import { PodLinks } from '../podlink/index.ts';
import { Durations } from '../reconcile/index.ts';
import type { HostPortFacts } from '../service/index.ts';
import { type NodeEgress, openEgress } from './egress.ts';
import { serveHealthz } from './healthz.ts';
import { hostPortTable, podHostPorts } from './host-ports.ts';
import { LastSeenFile } from './last-seen.ts';
import { lockStateDir } from './lock.ts';
import { agentMetrics, listenMetrics } from './metrics.ts';
import { nodeAddresses } from './node-addresses.ts';
import { NodeNetwork } from './node-network.ts';
import { type NodeFacts, standardLabels } from './node-object.ts';
import type { AgentOptions } from './options.ts';
import type { AgentParts } from './parts.ts';
import { PodSources } from './pod-sources.ts';
import { podStreams } from './pod-streams.ts';
import { openPods } from './pods.ts';
import { openPolicy } from './policy.ts';
import { PortMaps } from './port-maps.ts';
import { Registration } from './registration.ts';
import { agentRoutes } from './routes.ts';
import { chooseEngine } from './service-engine.ts';
import { type NodeServices, openServices } from './services.ts';
import { serveSocket } from './socket.ts';
import { openSources } from './sources.ts';

export interface Agent {
  readonly parts: AgentParts;
  /** Lets go of everything and leaves it in the kernel: pods and connections go on. */
  close(): Promise<void>;
}

/**
 * Starts the agent. Throws AGENT_RUNNING, AGENT_NO_ROUTE, KERNEL_NEEDS_ROOT, KERNEL_FEATURE_MISSING,
 * CLIENT_KUBECONFIG_*, SERVICE_ENGINE_OPEN, IPAM_STORE_*; what it had made by then it lets go of.
 */
export async function startAgent(options: AgentOptions, log: Log): Promise<Agent> {
  const stop = new AbortController();
  // Undone last first, and each although another fails.
  const undo = new AsyncDisposableStack();
  const close = async () => {
    stop.abort();
    await undo.disposeAsync();
  };
  try {
    return { parts: await openParts(options, log, stop.signal, undo), close };
  } catch (error) {
    await close().catch((second: unknown) => log.warn({ error: String(second) }, 'while giving up'));
    throw error;
  }
}

async function openParts(
  options: AgentOptions,
  log: Log,
  signal: AbortSignal,
  undo: AsyncDisposableStack,
): Promise<AgentParts> {
  const { nodeName, stateDir } = options;
  keepYoungHeapSmall();
  assertKernel(options);
  // What a person may have got wrong is read before anything is made.
  const access = loadKubeconfig(options.kubeconfig);
  const addresses = ownAddresses(options);
  const lock = lockStateDir(stateDir);
  undo.defer(() => lock.release());
  mkdirSync(join(stateDir, 'pods'), { recursive: true, mode: 0o700 });
  const client = new ApiClient(access);
  undo.defer(() => client.close());
  followKubeconfig({ path: options.kubeconfig, access, client, signal, log });
  const recorder = new EventRecorder({ client, component: 'portolan-agent', host: nodeName, log });
  const sources = openSources({ client, signal, log }, nodeName, options.services?.proxyName);
  const { nodes, ownPods } = sources;

  const store = new AttachmentStore({ path: join(stateDir, 'attachments.db') });
  undo.defer(() => store.close());
  const lastSeen = new LastSeenFile(join(stateDir, 'last-seen.json'), nodeName, log);
  undo.defer(() => lastSeen.close());
  const links = new PodLinks();
  links.bridge.onMade((ifindex, before) => {
    if (before !== undefined) engine.detachPodLink(before);
    engine.attachPodBridge?.(ifindex);
  });
  undo.defer(() => links.close());
  let told = '';
  let reachedFrom = addresses.map(String).join();
  const network = new NodeNetwork({
    options,
    nodes,
    lastSeen,
    pools: {
      setPools: (pools) => {
        store.setPools(pools);
        // The bridge of pods is their gateway.
        networking.resync();
      },
    },
    addresses,
    ignore: [links.port],
    log,
    onChange: () => {
      const from = network.addresses.map(String).join();
      if (from !== reachedFrom) {
        reachedFrom = from;
        // Connections from an address that is gone would stay silent until they time out.
        log.info({ addresses: from }, "this node's addresses changed");
        client.reconnect();
      }
      registration.trigger();
      // Nodes change all the time; what Services need of this one hardly ever.
      const { isUp, zone } = network;
      const now = JSON.stringify([isUp, zone, network.addresses.map(String)]);
      if (now === told) return;
      told = now;
      services.follow({ addresses: network.addresses, zone });
      egress.controller.trigger();
    },
  });
  const health = () => network.health();
  const facts = () => nodeFacts(options, network, egress);
  const registration = new Registration({ client, nodes, nodeName, facts, signal, log });
  undo.defer(() => registration.stop());

  // Programs are adopted or attached before anything else is made, so that they serve from the first moment.
  const podNetns = () => networking.list().map(({ netns }) => netns);
  const apiHostPorts =
    options.pods === 'process'
      ? podHostPorts(ownPods)
      : hostPortTable(sources.hostPorts, (facts: HostPortFacts) => facts);
  const portMaps = new PortMaps({
    store,
    pods: apiHostPorts,
    controller: () => services.controller,
    engine: () => services.engine,
  });
  const services: NodeServices = openServices(
    {
      options,
      client,
      sources,
      hostPorts: portMaps.table,
      isApiPod: (key) => apiHostPorts.items.has(key),
      recorder,
      addresses,
      otherAddresses: () => egress.movable(),
      onRole: () => egress.controller.trigger(),
      podNetns,
      log,
    },
    undo,
  );
  const { engine, controller } = services;
  const egress: NodeEgress = openEgress(
    {
      client,
      recorder,
      nodeName,
      stateDir,
      clusterCidrs: options.clusterCidrs,
      nodes,
      ranges: sources.ranges,
      ownCidrs: () => network.config?.podCidrs ?? [],
      announcer: () => services.announcer,
      onClaims: () => registration.trigger(),
      signal,
      log,
    },
    undo,
  );

  // Pod links.
  // Programs hang on the host end by its number; a link that was made anew has another one.
  const interfaces = new Map<string, number>();
  const detach = (hostLink: string, unless?: number) => {
    const ifindex = interfaces.get(hostLink);
    if (ifindex === undefined || ifindex === unless) return;
    engine.detachPodLink(ifindex);
    interfaces.delete(hostLink);
  };
  const cutEstablished = options.cutEstablished ?? true;
  const tunnelPort = options.backend === 'vxlan' ? DEFAULT_PORT : undefined;
  const policy = openPolicy({
    client,
    nodeName,
    stateDir,
    cutEstablished,
    logging: options.policyLog,
    recorder,
    server: access.server,
    tunnelPort,
    signal,
    log,
  });
  undo.defer(() => policy.controller.close());
  undo.defer(() => policy.reports.close());
  // The eBPF engine's program at the pod's link sees to it by itself.
  const podSources = new PodSources({
    checked: engine.name !== 'ebpf' && options.podSources !== 'any',
    log,
  });
  undo.defer(() => podSources.close());
  const networking: PodNetworking = new PodNetworking({
    store,
    links,
    kind: options.podLink,
    mtuBytes: () => network.podMtuBytes,
    beforeLink: async (attachment) => {
      podSources.add(attachment);
      egress.admit(attachment);
      await policy.controller.isolate(attachment);
    },
    beforeReady: ({ hostLink, addresses, kind }, { ifindex }) => {
      detach(hostLink, ifindex);
      engine.attachPodLink(ifindex, options.podSources === 'any' ? undefined : addresses);
      if (kind === 'bridge' && links.bridge.ifindex !== undefined)
        engine.attachPodBridge?.(links.bridge.ifindex);
      interfaces.set(hostLink, ifindex);
    },
    afterRemoved: async (attachment) => {
      detach(attachment.hostLink);
      podSources.remove(attachment);
      egress.forget(attachment);
      await policy.controller.forget(attachment);
    },
    ports: portMaps,
    health,
    onError: (error) => log.error({ error: (error as Error).message }, 'pod links'),
  });
  undo.defer(() => networking.close());
  await networking.start();
  podSources.start(networking.list());
  // What an earlier agent did not live to detach, or what start() has just removed.
  engine.dropGoneInterfaces();
  undo.defer(() => network.stop());
  network.start();

  const socketPath = join(stateDir, 'cni.sock');
  const cniCalls = new Durations();
  const cni = new CniServer({
    socketPath,
    answer: (call) => answerCall(call, networking),
    onCall: (call) => {
      cniCalls.observe(call.durationMs / 1000, { verb: call.command, code: call.status });
      log.debug(call, 'cni');
    },
  });
  undo.defer(() => cni.close());
  await cni.listen();
  if (options.cni) installCni({ ...options.cni, socketPath });

  const hostIps = () => network.addresses.map(String);
  const pods =
    options.pods === 'process'
      ? await openPods({ options, client, recorder, source: ownPods, networking, hostIps, log }, undo)
      : undefined;

  const failures = new Map<string, Error>();
  const parts: AgentParts = {
    options,
    startedAt: Date.now(),
    nodes,
    services: sources.services,
    slices: sources.slices,
    registration,
    overlay: () => network.overlay,
    overlayConfig: () => network.config,
    engine,
    controller,
    networking,
    policy,
    manager: pods?.manager,
    runner: pods?.runner,
    egress: egress.controller,
    findPod: egress.findPod,
    serviceRules: services.rules,
    podSources,
    announcer: services.announcer,
    cniCalls,
    health,
    failures,
  };
  const streams = pods ? podStreams(pods) : {};
  const socket = await serveSocket(join(stateDir, 'agent.sock'), agentRoutes(parts), streams);
  undo.defer(() => socket.close());
  if (options.metricsListen) {
    const metrics = await listenMetrics(options.metricsListen, () => agentMetrics(parts));
    undo.defer(() => metrics.close());
  }
  if (options.healthzListen) {
    const healthz = serveHealthz({
      ...options.healthzListen,
      programmed: () => controller.ready,
      node: () => nodes.items.get(nodeName),
      log,
    });
    undo.defer(() => healthz.close());
  }

  for (const reflector of [nodes, sources.services, sources.slices, sources.ranges]) reflector.start();
  policy.startSources();
  egress.start(networking.list());
  if (pods) ownPods.start();
  else sources.hostPorts.start();
  const background = async (what: string, start: () => Promise<unknown> | undefined) => {
    try {
      await start();
    } catch (error) {
      if (signal.aborted) return;
      log.error({ error: (error as Error).message }, what);
      failures.set(what, error as Error);
    }
  };
  void background('registration', () => registration.start());
  void background('services', async () => {
    await services.start();
    // Lists of everything are read once; what they took is not needed again.
    settleMemory();
  });
  void background('network policy', () => policy.controller.start(networking.list()));
  void background('pods', () => pods?.manager.start());
  log.info({ node: nodeName, stateDir, backend: options.backend }, 'agent started');
  return parts;
}

/** What an engine of Services needs besides is asked for when it is chosen. Throws KERNEL_NEEDS_ROOT. */
function assertKernel({ serviceEngine, bpffsDir }: AgentOptions): void {
  if (process.getuid?.() !== 0) throw kernelError('KERNEL_NEEDS_ROOT', { action: 'run the agent' });
  chooseEngine(serviceEngine ?? 'auto', bpffsDir);
}

function ownAddresses({ nodeIps, clusterCidrs }: AgentOptions) {
  if (nodeIps.length > 0) return [...nodeIps];
  const families = new Set<Family>(clusterCidrs.map(({ family }) => family));
  using rtnl = Rtnl.open();
  return nodeAddresses({ routes: rtnl.routes(), addrs: rtnl.addrs() }, families);
}

/** What this node says of itself now. */
function nodeFacts(options: AgentOptions, network: NodeNetwork, egress: NodeEgress): NodeFacts {
  const { nodeName, nodeLabels } = options;
  const ownsStatus = options.pods === 'process';
  const { cannotAdd } = network.health();
  return {
    name: nodeName,
    addresses: network.addresses.map(String),
    labels: ownsStatus ? { ...standardLabels(nodeName), ...nodeLabels } : nodeLabels,
    annotations: { ...(network.lease ? leaseAnnotations(network.lease) : {}), ...egress.annotations() },
    notReady: cannotAdd ? { reason: 'PortolanNotReady', message: cannotAdd } : undefined,
    networkUp: network.isUp,
    ownsStatus,
    version: `v${options.version}`,
  };
}
