/**
 * Joins sources, compiler and kernel:
 *
 *     reflectors, links ─► dirty keys ─► compile ─► engine (one netlink transaction) ─► cut what is forbidden
 *          CNI ADD ──────────────────────────────────────┘ waits for it before the pod may send
 *
 * Pods and namespaces are read only once there is a policy; without any, nothing of this is in memory or in the kernel.
 * Before the first sync nothing that a former process isolated is opened, and a pod that starts is closed until its
 * policies are known.
 */
import type { IpAddress } from '../addr/index.ts';
import { policyError } from '../errors/index.ts';
import type { Attachment } from '../ipam/index.ts';
import { attachmentKey } from '../ipam/index.ts';
import { Conntrack } from '../kernel/conntrack/index.ts';
import { Rtnl } from '../kernel/rtnl/index.ts';
import type { Labels } from '../model/label-selector.ts';
import { type ObjectStatus, PENDING } from '../reconcile/index.ts';
import { nodesByAddress } from './cluster-facts.ts';
import { type LocalPod, PolicyCompiler } from './compiler.ts';
import { NftPolicyEngine } from './engine.ts';
import { cutForbidden, type Judge } from './established.ts';
import type { Endpoint } from './evaluate.ts';
import { HostDecider, type HostSources, type NodePolicyFacts, type NodePolicyState } from './host/index.ts';
import type { Logging } from './logging.ts';
import { policyPlanText } from './plan.ts';
import type { ClusterPolicyFacts, PodFacts, PolicyFacts, TableSource } from './types.ts';

export interface PolicyLog {
  info(context: object, message: string): void;
  warn(context: object, message: string): void;
}

export interface PolicyControllerOptions {
  readonly nodeName: string;
  readonly policies: TableSource<PolicyFacts>;
  readonly pods: TableSource<PodFacts>;
  readonly namespaces: TableSource<Labels>;
  /** ClusterNetworkPolicies, nodes for those that name them, and policies of nodes; undefined where nobody has any. */
  readonly cluster?: HostSources & { readonly policies: TableSource<ClusterPolicyFacts> };
  /** Called once, when the first policy is seen: pods, namespaces and nodes have to be listed from now on. */
  readonly startSources?: () => void;
  /** The node's namespace, default the process's own. */
  readonly netns?: number | { readonly fd: number } | undefined;
  /** Cut established connections that policies forbid; default true. */
  readonly cutEstablished?: boolean;
  readonly log?: PolicyLog;
}

export interface PolicyStatus {
  readonly state: ObjectStatus;
  readonly synced: boolean;
  readonly policies: number;
  /** Policies that select pods of this node. */
  readonly active: number;
  readonly isolatedPods: number;
  readonly unknownPods: number;
  /** metadata.generation of each policy as the kernel enforces it; a ClusterNetworkPolicy has no namespace. */
  readonly enforced: Readonly<Record<string, number>>;
  /** Policies of the node itself that select this one. */
  readonly nodePolicies: readonly NodePolicyState[];
  readonly connectionsCut: number;
  readonly timing: { readonly count: number; readonly lastMs: number; readonly maxMs: number };
}

/** First and longest wait before trying again. */
const RETRY_MS = 100;
const RETRY_MAX_MS = 10_000;
/** A burst of changes makes one look at connection tracking; a second look finds what was on its way meanwhile. */
const CUT_AFTER_MS = [5, 1000] as const;

export class PolicyController {
  readonly compiler: PolicyCompiler;
  readonly engine: NftPolicyEngine;
  readonly #options: PolicyControllerOptions;
  readonly #cut: boolean;
  readonly #dirty = {
    policies: new Set<string>(),
    clusterPolicies: new Set<string>(),
    pods: new Set<string>(),
    namespaces: new Set<string>(),
    nodes: new Set<string>(),
    nodePolicies: new Set<string>(),
  };
  readonly #host: HostDecider | undefined;
  readonly #timers = new Set<NodeJS.Timeout>();
  #known = false;
  #sourcesStarted = false;
  #closed = false;
  #reapply = false;
  /** Something was told since the last look at what is dirty. */
  #again = false;
  #locals = false;
  #running: Promise<void> | undefined;
  #retryMs = 0;
  #retryTimer: NodeJS.Timeout | undefined;
  #state: ObjectStatus = PENDING;
  #enforced: Record<string, number> = {};
  #connectionsCut = 0;
  #since: number | undefined;
  #timing = { count: 0, lastMs: 0, maxMs: 0 };
  #byAddress: Map<string, PodFacts> | undefined;
  #nodesByAddress: Map<string, string> | undefined;

  constructor(options: PolicyControllerOptions) {
    this.#options = options;
    this.#cut = options.cutEstablished ?? true;
    this.compiler = new PolicyCompiler({ nodeName: options.nodeName, cutEstablished: this.#cut });
    this.engine = new NftPolicyEngine({
      netns: options.netns,
      onForeignChange: () => {
        this.#options.log?.warn({}, 'policy rules were changed by somebody else and are put right');
        this.#reapply = true;
        this.#trigger();
      },
    });
    const follow = <P>(source: TableSource<P>, dirty: Set<string>) =>
      source.onChange((keys) => {
        for (const key of keys) dirty.add(key);
        this.#trigger();
      });
    follow(options.policies, this.#dirty.policies);
    follow(options.pods, this.#dirty.pods);
    follow(options.namespaces, this.#dirty.namespaces);
    if (!options.cluster) return;
    this.#host = new HostDecider(options.cluster, options.nodeName, () => this.#trigger());
    follow(options.cluster.policies, this.#dirty.clusterPolicies);
    follow(options.cluster.nodes, this.#dirty.nodes);
    follow(options.cluster.nodePolicies, this.#dirty.nodePolicies);
  }

  /** Takes over the pods that are attached, waits for the policies, and enforces. Resolves after the first time. */
  async start(attachments: Iterable<Attachment>): Promise<void> {
    for (const attachment of attachments) this.#setLocal(attachment);
    const { policies, cluster } = this.#options;
    await Promise.all([policies.synced, cluster?.policies.synced, cluster?.nodePolicies.synced]);
    for (const key of policies.items.keys()) this.#dirty.policies.add(key);
    for (const key of cluster?.policies.items.keys() ?? []) this.#dirty.clusterPolicies.add(key);
    for (const key of cluster?.nodePolicies.items.keys() ?? []) this.#dirty.nodePolicies.add(key);
    await this.#waitForSources();
    if (this.#closed) return;
    this.#known = true;
    this.#reapply = true;
    this.#trigger();
    await this.settled();
  }

  /**
   * Before a pod may send or receive: returns when its policies are in force, or when it is closed because they are not
   * known yet. Throws POLICY_NO_ISOLATION.
   */
  async isolate(attachment: Attachment): Promise<void> {
    if (!attachment.pod) return;
    const pod = `${attachment.pod.namespace}/${attachment.pod.name}`;
    this.#setLocal(attachment);
    try {
      if (!this.#known) {
        // What was attached before is closed or open as a former process left it.
        if (attachment.state === 'pending')
          await this.#alone(async () => this.engine.lockDown(attachment.addresses, pod));
        return;
      }
      if (!this.#anyPolicies && !this.#busy) {
        this.compiler.compile();
        return;
      }
      this.#trigger();
      await this.settled();
    } catch (error) {
      throw policyError('POLICY_NO_ISOLATION', { pod, why: (error as Error).message }, error);
    }
    if (this.#state.state === 'error' && this.compiler.isolated.has(attachmentKey(attachment)))
      throw policyError('POLICY_NO_ISOLATION', { pod, why: this.#state.error.message }, this.#state.error);
  }

  /** The pod's link is gone. */
  async forget(attachment: Attachment): Promise<void> {
    this.compiler.setLocal(attachmentKey(attachment), undefined);
    this.#byAddress = undefined;
    if (!this.#known) return;
    this.#locals = true;
    this.#trigger();
    await this.settled();
  }

  /** Reports packets by nflog from now on, or no longer. */
  setLogging(logging: Logging): void {
    this.compiler.setLogging(logging);
    this.#trigger();
  }

  /** Resolves when all that was told so far is in the kernel, or has failed. */
  async settled(): Promise<void> {
    // Events of reflectors are told in a microtask of their own.
    await Promise.resolve();
    do await this.#running;
    while (this.#running);
  }

  /** How the policies of this node would stand with this one among them. */
  async checkNodePolicy(policy: NodePolicyFacts): Promise<readonly NodePolicyState[]> {
    this.#needSources();
    await this.#waitForSources();
    await this.settled();
    return this.#host?.check(policy, this.compiler) ?? [];
  }

  /** What would be done now as nft text. */
  async plan(): Promise<string> {
    if (!this.#known) throw policyError('POLICY_NOT_SYNCED', {});
    await this.settled();
    const plans = this.engine.plan(this.compiler.tables);
    return plans.map(policyPlanText).join('');
  }

  status(): PolicyStatus {
    const states = [...this.compiler.isolated.values()];
    return {
      state: this.#state,
      synced: this.#known,
      policies: this.compiler.policies.size + this.compiler.clusterPolicies.size,
      active: this.compiler.activePolicies().size + this.compiler.activeClusterPolicies().size,
      isolatedPods: states.length,
      unknownPods: states.filter(({ unknown }) => unknown).length,
      enforced: this.#enforced,
      nodePolicies: this.#host?.states ?? [],
      connectionsCut: this.#connectionsCut,
      timing: { ...this.#timing },
    };
  }

  /** Who has an address: a pod, this node, or nobody that is known. */
  endpoint(address: IpAddress, nodeAddresses?: ReadonlySet<string>): Endpoint {
    const text = String(address);
    const pod = this.#podsByAddress().get(text);
    if (pod) return { address, pod };
    if (nodeAddresses?.has(text)) return { address, node: this.#options.nodeName };
    this.#nodesByAddress ??= nodesByAddress(this.compiler.nodes);
    const node = this.#nodesByAddress.get(text);
    return node === undefined ? { address } : { address, node };
  }

  /** Addresses of this node's interfaces now. */
  nodeAddresses(): Set<string> {
    using rtnl = Rtnl.open({ netns: this.#options.netns });
    return new Set(rtnl.addrs().map(({ address }) => String(address)));
  }

  /** Stops following; what is in the kernel stays in force. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retryTimer);
    this.#host?.close();
    for (const timer of this.#timers) clearTimeout(timer);
    await this.#running;
    this.engine.close();
  }

  get #anyPolicies(): boolean {
    const { compiler } = this;
    const { policies, clusterPolicies, nodePolicies } = this.#dirty;
    const known = compiler.policies.size + compiler.clusterPolicies.size + compiler.host.length;
    return known + policies.size + clusterPolicies.size + nodePolicies.size > 0;
  }

  get #busy(): boolean {
    return this.#running !== undefined || this.#reapply;
  }

  #setLocal(attachment: Attachment): void {
    if (!attachment.pod) return;
    const { namespace, name, uid } = attachment.pod;
    const local: LocalPod = {
      id: attachmentKey(attachment),
      namespace,
      name,
      uid,
      addresses: attachment.addresses,
    };
    this.compiler.setLocal(local.id, local);
    this.#byAddress = undefined;
    this.#locals = true;
  }

  #trigger(): void {
    this.#since ??= performance.now();
    this.#again = true;
    if (this.#closed || this.#running || !this.#known) return;
    this.#running = this.#work().finally(() => {
      this.#running = undefined;
      // Told after the last look and before this line.
      if (this.#again) this.#trigger();
    });
  }

  /** Runs alone: never beside a run that programs. */
  async #alone(work: () => Promise<void>): Promise<void> {
    while (this.#running) await this.#running;
    const running = work();
    const done = running
      .catch(() => {})
      .finally(() => {
        this.#running = undefined;
        if (this.#known) this.#trigger();
      });
    this.#running = done;
    await running;
  }

  async #work(): Promise<void> {
    // Whatever else arrives in this turn belongs to the same run.
    await Promise.resolve();
    while (this.#again && !this.#closed) {
      this.#again = false;
      const took = await this.#takeChanges();
      if (this.#closed) return;
      if (!took) continue;
      try {
        this.#apply();
      } catch (thrown) {
        const error = thrown instanceof Error ? thrown : new Error(String(thrown));
        const tries = this.#state.state === 'error' ? this.#state.tries + 1 : 1;
        this.#state = { state: 'error', error, tries, sinceMs: Date.now() };
        this.#options.log?.warn({ error: error.message }, 'network policies are not programmed');
        this.#retryMs = Math.min(RETRY_MAX_MS, this.#retryMs === 0 ? RETRY_MS : this.#retryMs * 2);
        clearTimeout(this.#retryTimer);
        this.#retryTimer = setTimeout(() => {
          this.#reapply = true;
          this.#trigger();
        }, this.#retryMs);
        return;
      }
    }
  }

  async #takeChanges(): Promise<boolean> {
    const dirty = this.#dirty;
    if (dirty.policies.size + dirty.clusterPolicies.size + dirty.nodePolicies.size > 0)
      await this.#waitForSources();
    const { policies, pods, namespaces, cluster } = this.#options;
    const { compiler } = this;
    const hostChanged = dirty.nodePolicies.size + dirty.nodes.size > 0;
    dirty.nodePolicies.clear();
    for (const key of drain(dirty.namespaces)) compiler.setNamespace(key, namespaces.items.get(key));
    for (const key of drain(dirty.pods)) {
      compiler.setPod(key, pods.items.get(key));
      this.#byAddress = undefined;
    }
    for (const key of drain(dirty.policies)) {
      const policy = policies.items.get(key);
      for (const problem of policy?.problems ?? [])
        this.#options.log?.warn({ policy: key, problem }, 'a part of a network policy matches nothing');
      compiler.setPolicy(key, policy);
    }
    for (const name of drain(dirty.nodes)) {
      compiler.setNode(name, cluster?.nodes.items.get(name));
      this.#nodesByAddress = undefined;
    }
    for (const name of drain(dirty.clusterPolicies)) {
      const policy = cluster?.policies.items.get(name);
      for (const problem of policy?.problems ?? [])
        this.#options.log?.warn(
          { policy: name, problem },
          'a part of a cluster network policy is not understood',
        );
      compiler.setClusterPolicy(name, policy);
    }
    const host = this.#host?.decide(hostChanged, compiler);
    if (host) compiler.setHost(host);
    const changed = compiler.compile();
    const reapply = this.#reapply || this.#locals;
    this.#reapply = false;
    this.#locals = false;
    return changed || reapply;
  }

  #apply(): void {
    const changed = this.engine.apply(this.compiler.tables);
    this.#state = this.#state.state === 'done' ? this.#state : { state: 'done', sinceMs: Date.now() };
    this.#retryMs = 0;
    const { compiler } = this;
    this.#enforced = Object.fromEntries([
      ...[...compiler.activePolicies()].map((key) => [key, compiler.policies.get(key)?.generation ?? 0]),
      ...[...compiler.activeClusterPolicies()].map((name) => [
        name,
        compiler.clusterPolicies.get(name)?.generation ?? 0,
      ]),
    ]);
    const lastMs = performance.now() - (this.#since ?? performance.now());
    this.#since = undefined;
    this.#timing = {
      count: this.#timing.count + 1,
      lastMs,
      maxMs: Math.max(this.#timing.maxMs, lastMs),
    };
    if (changed && this.#cut && this.compiler.isolated.size > 0) this.#cutSoon();
  }

  #needSources(): void {
    if (this.#sourcesStarted) return;
    this.#sourcesStarted = true;
    this.#options.startSources?.();
  }

  /** Pods and namespaces are needed from the first policy on. */
  async #waitForSources(): Promise<void> {
    const { policies, pods, namespaces, cluster } = this.#options;
    const ofCluster = (cluster?.policies.items.size ?? 0) + (cluster?.nodePolicies.items.size ?? 0);
    const none = policies.items.size + ofCluster === 0;
    if (none && !this.#sourcesStarted) return;
    this.#needSources();
    await Promise.all([pods.synced, namespaces.synced, cluster?.nodes.synced]);
  }

  #cutSoon(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    for (const ms of CUT_AFTER_MS) {
      const timer = setTimeout(() => {
        this.#timers.delete(timer);
        this.#cutNow();
      }, ms);
      timer.unref();
      this.#timers.add(timer);
    }
  }

  #cutNow(): void {
    if (this.#closed) return;
    try {
      const own = this.nodeAddresses();
      const isolated = new Set(
        [...this.compiler.isolated.values()].flatMap(({ unknown, local }) =>
          unknown ? [] : local.addresses.map(String),
        ),
      );
      if (isolated.size === 0) return;
      const judge: Judge = {
        world: this.compiler,
        endpoint: (address) => this.endpoint(address, own),
        isIsolated: (address) => isolated.has(String(address)),
      };
      using conntrack = Conntrack.open({ netns: this.#options.netns });
      const count = cutForbidden(conntrack, judge);
      this.#connectionsCut += count;
      if (count > 0) this.#options.log?.info({ count }, 'connections that policies forbid were cut');
    } catch (error) {
      this.#options.log?.warn(
        { error: (error as Error).message },
        'established connections were not checked',
      );
    }
  }

  #podsByAddress(): Map<string, PodFacts> {
    if (this.#byAddress) return this.#byAddress;
    const byAddress = new Map<string, PodFacts>();
    for (const [key, pod] of this.compiler.pods) {
      const local = { ...pod, node: pod.node };
      for (const address of this.compiler.addressesOf(key, pod)) byAddress.set(String(address), local);
    }
    this.#byAddress = byAddress;
    return byAddress;
  }
}

function drain(keys: Set<string>): string[] {
  const list = [...keys];
  keys.clear();
  return list;
}
