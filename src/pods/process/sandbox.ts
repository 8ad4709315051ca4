import { join } from 'node:path';
import { podsError } from '../../errors/index.ts';
import { ensureCgroup, removeCgroup } from '../../kernel/cgroup/index.ts';
import { createNetns, deleteNetns, NETNS_FOLDER } from '../../kernel/netns/index.ts';
import type { ProcessIdentity } from '../../kernel/process/identity.ts';
import { Pidfd } from '../../kernel/process/pidfd.ts';
import type { NetworkRequest, Sandbox, SandboxConfig } from '../types.ts';
import { podCgroup, type RunnerContext, shimCgroup } from './context.ts';
import { hostsFile, resolvConf } from './files.ts';
import {
  parseSandboxPid,
  readIfThere,
  recordVersion,
  type SandboxRecord,
  writeFileAtomically,
} from './records.ts';
import { encodeRequest } from './request.ts';
import { startShim } from './shim.ts';

/** A process that does not end within this time after SIGKILL waits for a device. */
const KILL_TIMEOUT_MS = 10_000;

/** One pod's namespaces and network. */
export class ProcessSandbox {
  readonly context: RunnerContext;
  record: SandboxRecord;
  /** Process 1 of the pod while it lives. */
  process: ProcessIdentity | undefined;
  #watched: Pidfd | undefined;

  constructor(context: RunnerContext, record: SandboxRecord) {
    this.context = context;
    this.record = record;
  }

  get id(): string {
    return this.record.id;
  }

  get folder(): string {
    return this.context.records.sandboxFolder(this.id);
  }

  get netnsPath(): string | undefined {
    return this.record.netns === undefined ? undefined : join(NETNS_FOLDER, this.record.netns);
  }

  get isReady(): boolean {
    return this.record.phase === 'ready' && this.process !== undefined;
  }

  status(): Sandbox {
    const { record, netnsPath } = this;
    return {
      id: record.id,
      metadata: record.config.metadata,
      state: this.isReady ? 'ready' : 'notReady',
      createdAtMs: record.createdAtMs,
      hostNetwork: record.config.hostNetwork,
      ips: record.ips,
      ...(netnsPath === undefined ? {} : { netnsPath }),
      ...(this.process ? { pid: this.process.pid } : {}),
      labels: record.config.labels,
      annotations: record.config.annotations,
    };
  }

  /** Makes everything; after a failure nothing is left. `onEnd` is called when process 1 ends by itself. */
  static async create(
    context: RunnerContext,
    config: SandboxConfig,
    onEnd: (sandbox: ProcessSandbox) => void,
  ): Promise<ProcessSandbox> {
    const id = context.newId();
    const record: SandboxRecord = {
      version: recordVersion,
      id,
      config,
      createdAtMs: context.nowMs(),
      bootId: context.bootId,
      ips: [],
      phase: 'creating',
    };
    if (!config.hostNetwork) record.netns = `${context.netnsPrefix}${id.slice(0, 12)}`;
    const sandbox = new ProcessSandbox(context, record);
    context.records.saveSandbox(record);
    try {
      if (record.netns !== undefined) createNetns(record.netns).close();
      const cgroup = shimCgroup(context, id);
      if (cgroup !== undefined) ensureCgroup(cgroup);
      // The network and the other namespaces need only the network namespace: both at once.
      const [network, shim] = await Promise.allSettled([sandbox.#addNetwork(), sandbox.#startProcess()]);
      if (network.status === 'rejected') throw network.reason;
      if (shim.status === 'rejected') throw shim.reason;
      record.ips = network.value;
      sandbox.#writeFiles();
      record.phase = 'ready';
      context.records.saveSandbox(record);
    } catch (error) {
      await sandbox.undo().catch((left) => context.log(`sandbox ${id} was not taken back wholly`, left));
      throw error;
    }
    sandbox.watch(onEnd);
    return sandbox;
  }

  /** Follows process 1; it may be gone already. */
  watch(onEnd: (sandbox: ProcessSandbox) => void): void {
    if (!this.process) return;
    this.#watched = Pidfd.open(this.process);
    const ended = () => {
      this.process = undefined;
      onEnd(this);
    };
    if (this.#watched) void this.#watched.exited.then(ended);
    else ended();
  }

  unwatch(): void {
    this.#watched?.close();
  }

  /** Reads what the shim noted; for adoption. */
  readProcess(): void {
    const text = readIfThere(join(this.folder, 'pid'));
    this.process = text === undefined ? undefined : parseSandboxPid(text);
  }

  /** Ends the processes, gives the network back, deletes the namespace. May be repeated after a failure. */
  async stop(): Promise<void> {
    await this.#kill();
    await this.#deleteNetwork();
    if (this.record.phase !== 'stopped') {
      this.record.phase = 'stopped';
      this.context.records.saveSandbox(this.record);
    }
  }

  /** Stops it and forgets it. */
  async undo(): Promise<void> {
    this.readProcess();
    await this.#kill();
    await this.#deleteNetwork();
    await this.remove();
  }

  async remove(): Promise<void> {
    this.unwatch();
    const cgroup = podCgroup(this.context, this.id);
    if (cgroup !== undefined) await removeCgroup(cgroup);
    this.context.records.remove(this.folder);
  }

  networkRequest(): NetworkRequest {
    const { config, id } = this.record;
    return {
      sandboxId: id,
      metadata: config.metadata,
      netnsPath: this.netnsPath ?? '',
      labels: config.labels,
      annotations: config.annotations,
    };
  }

  async #addNetwork(): Promise<string[]> {
    if (this.record.netns === undefined) return [];
    try {
      return (await this.context.network.add(this.networkRequest())).ips;
    } catch (cause) {
      throw podsError('PODS_SANDBOX_NETWORK', { pod: this.#pod(), action: 'set up' }, cause);
    }
  }

  async #deleteNetwork(): Promise<void> {
    if (this.record.netns === undefined || this.record.phase === 'stopped') return;
    try {
      await this.context.network.del(this.networkRequest());
    } catch (cause) {
      throw podsError('PODS_SANDBOX_NETWORK', { pod: this.#pod(), action: 'remove' }, cause);
    }
    deleteNetns(this.record.netns);
  }

  async #startProcess(): Promise<void> {
    const { config, id } = this.record;
    const request = encodeRequest({
      dir: this.folder,
      hostname: config.hostname,
      netns: this.netnsPath,
      cgroup: shimCgroup(this.context, id),
      volume: config.memoryVolumes.map(({ name, sizeBytes }) =>
        sizeBytes === undefined ? name : `${name}:${sizeBytes}`,
      ),
      sysctl: Object.entries(config.sysctls).map(([key, value]) => `${key}=${value}`),
    });
    const { channel } = await startShim(this.context.shimPath, 'sandbox', id, request);
    channel.close();
    this.readProcess();
  }

  #writeFiles(): void {
    const { config, ips } = this.record;
    const ofNode = (path: string) => readIfThere(path) ?? '';
    const files = {
      hosts: hostsFile(config, ips, ofNode('/etc/hosts')),
      hostname: `${config.hostname}\n`,
      'resolv.conf': resolvConf(config.dns, ofNode('/etc/resolv.conf')),
    };
    for (const [name, text] of Object.entries(files))
      writeFileAtomically(join(this.folder, name), text, 0o644);
  }

  async #kill(): Promise<void> {
    if (!this.process) return;
    const target = Pidfd.open(this.process);
    if (target) {
      target.signal('SIGKILL');
      const { promise: late, resolve } = Promise.withResolvers<'late'>();
      const timer = setTimeout(() => resolve('late'), KILL_TIMEOUT_MS);
      const outcome = await Promise.race([target.exited, late]);
      clearTimeout(timer);
      target.close();
      if (outcome === 'late') throw podsError('PODS_CONTAINER_STUCK', { id: this.id });
    }
    this.process = undefined;
  }

  #pod(): string {
    const { namespace, name } = this.record.config.metadata;
    return `${namespace}/${name}`;
  }
}
