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
import { Rtnl } from '../kernel/rtnl/index.ts';
import { type ObjectStatus, PENDING } from '../reconcile/index.ts';
import { AddressBook } from './address-book.ts';
import { PolicyCompiler } from './compiler.ts';
import { ConnectionCutter } from './connection-cutter.ts';
import { NftPolicyEngine } from './engine.ts';
import type { Endpoint, Flow } from './evaluate.ts';
import {
  HostDecider,
  judgeNode,
  type NodePolicyFacts,
  type NodePolicyState,
  type NodeVerdict,
} from './host/index.ts';
import type { LocalPod } from './known-world.ts';
import type { Logging } from './logging.ts';
import { policyPlanText } from './plan.ts';
import { type PolicySourceOptions, PolicySources } from './sources.ts';
import type { Direction } from './types.ts';

export interface PolicyControllerOptions extends PolicySourceOptions {
  readonly nodeName: string;
  /** The node's namespace, default the process's own. */
  readonly netns?: number | { readonly fd: number } | undefined;
  /** Cut established connections that policies forbid; default true. */
  readonly cutEstablished?: boolean;
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

export class PolicyController {
  readonly compiler: PolicyCompiler;
  readonly engine: NftPolicyEngine;
  readonly #options: PolicyControllerOptions;
  readonly #cut: boolean;
  readonly #sources: PolicySources;
  readonly #host: HostDecider | undefined;
  readonly #addresses: AddressBook;
  readonly #cutter: ConnectionCutter;
  #known = false;
  #closed = false;
  #reapply = false;
  /** Something was told since the last look at what is dirty. */
  #again = false;
  #locals = false;
  /** The node's own policies are to be decided anew. */
  #hostChanged = false;
  /** The tables of the compiler are whole: no look at what changed has failed half-way. */
  #compiled = true;
  /** Rules are to go on counting through the next change: whoever watches must not set them back. */
  #keepCounts = false;
  #running: Promise<void> | undefined;
  #retryMs = 0;
  #retryTimer: NodeJS.Timeout | undefined;
  #state: ObjectStatus = PENDING;
  #enforced: Record<string, number> = {};
  #since: number | undefined;
  #timing = { count: 0, lastMs: 0, maxMs: 0 };

  constructor(options: PolicyControllerOptions) {
    this.#options = options;
    this.#cut = options.cutEstablished ?? true;
    this.compiler = new PolicyCompiler({ nodeName: options.nodeName, cutEstablished: this.#cut });
    this.#addresses = new AddressBook(this.compiler, options.nodeName);
    this.#cutter = new ConnectionCutter({
      world: this.compiler,
      addresses: this.#addresses,
      nodeAddresses: () => this.nodeAddresses(),
      netns: options.netns,
      log: options.log,
    });
    this.engine = new NftPolicyEngine({
      netns: options.netns,
      onForeignChange: () => {
        this.#options.log?.warn({}, 'policy rules were changed by somebody else and are put right');
        this.#reapply = true;
        this.#trigger();
      },
    });
    this.#sources = new PolicySources(options, () => this.#trigger());
    if (options.cluster)
      this.#host = new HostDecider(options.cluster, options.nodeName, () => this.#trigger());
  }

  /** Takes over the pods that are attached, waits for the policies, and enforces. Resolves after the first time. */
  async start(attachments: Iterable<Attachment>): Promise<void> {
    for (const attachment of attachments) this.#setLocal(attachment);
    await this.#sources.start();
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
    const mayBeOpen = this.#compiled && !this.compiler.isolated.has(attachmentKey(attachment));
    if (this.#state.state === 'error' && !mayBeOpen)
      throw policyError('POLICY_NO_ISOLATION', { pod, why: this.#state.error.message }, this.#state.error);
  }

  /** The pod's link is gone. */
  async forget(attachment: Attachment): Promise<void> {
    this.compiler.setLocal(attachmentKey(attachment), undefined);
    this.#addresses.forgetPods();
    if (!this.#known) return;
    this.#locals = true;
    this.#trigger();
    await this.settled();
  }

  /** Reports packets by nflog from now on, or no longer. */
  setLogging(logging: Logging): void {
    this.compiler.setLogging(logging);
    this.#keepCounts = true;
    this.#trigger();
  }

  /** Resolves when all that was told so far is in the kernel, or has failed. */
  async settled(): Promise<void> {
    // Events of reflectors are told in a microtask of their own.
    await Promise.resolve();
    do await this.#running;
    while (this.#running);
  }

  /** Pods, namespaces and nodes are listed from now on, with or without policies; resolves when all are known. */
  async allKnown(): Promise<void> {
    this.#sources.need();
    await this.#sources.ready();
    await this.settled();
  }

  /** What this node's own policies say of a connection that it makes or takes; nothing where it has none. */
  nodeVerdicts(flow: Flow): Partial<Record<Direction, NodeVerdict>> {
    const { compiler } = this;
    const { nodeName } = this.#options;
    const { host } = compiler;
    if (host.length === 0) return {};
    return {
      ...(flow.from.node === nodeName && { egress: judgeNode(flow, 'egress', host, compiler) }),
      ...(flow.to.node === nodeName && { ingress: judgeNode(flow, 'ingress', host, compiler) }),
    };
  }

  /** How the policies of this node would stand with this one among them. */
  async checkNodePolicy(policy: NodePolicyFacts): Promise<readonly NodePolicyState[]> {
    await this.allKnown();
    return this.#host?.check(policy, this.compiler) ?? [];
  }

  /** How the policies of this node stand. Throws POLICY_NOT_SYNCED while nobody can know. */
  async nodePolicies(): Promise<readonly NodePolicyState[]> {
    if (this.#known) await this.settled();
    const states = this.#host ? this.#host.states : [];
    if (!this.#known || states === undefined) throw policyError('POLICY_NOT_SYNCED', {});
    return states;
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
      connectionsCut: this.#cutter.count,
      timing: { ...this.#timing },
    };
  }

  /** Who has an address: a pod, this node, or nobody that is known. */
  endpoint(address: IpAddress, nodeAddresses?: ReadonlySet<string>): Endpoint {
    return this.#addresses.endpoint(address, nodeAddresses);
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
    this.#cutter.close();
    await this.#running;
    this.engine.close();
  }

  get #anyPolicies(): boolean {
    const { compiler } = this;
    const known = compiler.policies.size + compiler.clusterPolicies.size + compiler.host.length;
    return known + this.#sources.newPolicies > 0;
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
    this.#addresses.forgetPods();
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
      try {
        if (!(await this.#takeChanges())) continue;
        if (this.#closed) return;
        this.#apply();
      } catch (thrown) {
        if (!this.#closed) this.#failed(thrown instanceof Error ? thrown : new Error(String(thrown)));
        return;
      }
    }
  }

  /** Nothing is programmed, so what was in force is in force still; tried again after a while. */
  #failed(error: Error): void {
    const tries = this.#state.state === 'error' ? this.#state.tries + 1 : 1;
    this.#state = { state: 'error', error, tries, sinceMs: Date.now() };
    this.#options.log?.warn({ error: error.message }, 'network policies are not programmed');
    this.#retryMs = Math.min(RETRY_MAX_MS, this.#retryMs === 0 ? RETRY_MS : this.#retryMs * 2);
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => {
      this.#reapply = true;
      this.#trigger();
    }, this.#retryMs);
  }

  async #takeChanges(): Promise<boolean> {
    if (this.#sources.newPolicies > 0) await this.#sources.ready();
    const { compiler } = this;
    this.#compiled = false;
    this.#hostChanged = this.#sources.takeInto(compiler, this.#addresses) || this.#hostChanged;
    const host = this.#host?.decide(this.#hostChanged, compiler);
    if (host) compiler.setHost(host);
    this.#hostChanged = false;
    const changed = compiler.compile();
    this.#compiled = true;
    const reapply = this.#reapply || this.#locals;
    this.#reapply = false;
    this.#locals = false;
    return changed || reapply;
  }

  #apply(): void {
    const keepCounts = this.#keepCounts;
    this.#keepCounts = false;
    const changed = this.engine.apply(this.compiler.tables, keepCounts);
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
    // A former process may have been ended between its rules and its look at connections.
    const first = this.#timing.count === 1;
    if ((changed || first) && this.#cut && this.compiler.isolated.size > 0) this.#cutter.soon();
  }
}
