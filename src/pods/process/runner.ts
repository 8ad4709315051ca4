import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { podsError } from '../../errors/index.ts';
import { distPath } from '../../kernel/paths.ts';
import { bootId } from '../../kernel/process/boot.ts';
import type { ExecOptions, ExecSession, PodRunner, RunnerChange } from '../runner.ts';
import type {
  ContainerConfig,
  ExecResult,
  PodNetwork,
  RunnerContainer,
  Sandbox,
  SandboxConfig,
} from '../types.ts';
import { adopt } from './adopt.ts';
import { ProcessContainer } from './container.ts';
import type { RunnerContext } from './context.ts';
import { execIn, execSyncIn } from './exec.ts';
import { defaultMaskedPaths } from './mounts.ts';
import { RecordFolder } from './records.ts';
import { ProcessSandbox } from './sandbox.ts';

export interface ProcessRunnerOptions {
  /** State of the node, e.g. /run/portolan; pods lie in its folder `pods`. */
  stateDir: string;
  /** cgroup2 folder of this node's pods, to which the node's socket programs are attached. Default: none. */
  cgroupRoot?: string;
  network: PodNetwork;
  /** Default: dist/native/pod-shim. */
  shimPath?: string;
  /** Network namespaces are named PREFIX + 12 digits of the sandbox id. Default `portolan-`. */
  netnsPrefix?: string;
  /** More files and folders of the host that no container may see. */
  maskedPaths?: readonly string[];
  /** Default 10 MiB, as kubelet's containerLogMaxSize. */
  logMaxBytes?: number;
  /** Files a container in all, as kubelet's containerLogMaxFiles. Default 5. */
  logFiles?: number;
  nowMs?: () => number;
  newId?: () => string;
  log?: (message: string, error?: unknown) => void;
}

/** Runs pods as processes on the host's files; see native/pod-shim.static.c for the processes beside them. */
export class ProcessRunner implements PodRunner {
  readonly name = 'portolan';
  readonly usesImages = false;
  readonly #context: RunnerContext;
  readonly #sandboxes = new Map<string, ProcessSandbox>();
  readonly #containers = new Map<string, ProcessContainer>();
  /** Sandboxes being made, by pod uid and attempt. */
  readonly #making = new Map<string, Promise<string>>();
  readonly #listeners = new Set<(change: RunnerChange) => void>();

  private constructor(context: RunnerContext) {
    this.#context = context;
  }

  /** Opens the state, adopts what still runs, and takes away what belongs to nobody. */
  static async open(options: ProcessRunnerOptions): Promise<ProcessRunner> {
    const runner = new ProcessRunner({
      records: new RecordFolder(join(options.stateDir, 'pods')),
      cgroupRoot: options.cgroupRoot,
      network: options.network,
      shimPath: options.shimPath ?? distPath('native/pod-shim'),
      netnsPrefix: options.netnsPrefix ?? 'portolan-',
      // The state folder holds keys and what belongs to other pods.
      maskedPaths: [...defaultMaskedPaths, options.stateDir, ...(options.maskedPaths ?? [])],
      logMaxBytes: options.logMaxBytes ?? 10 << 20,
      logFiles: options.logFiles ?? 5,
      bootId: bootId(),
      nowMs: options.nowMs ?? Date.now,
      newId: options.newId ?? (() => randomBytes(32).toString('hex')),
      log: options.log ?? (() => {}),
    });
    const found = await adopt(runner.#context);
    for (const sandbox of found.sandboxes) {
      runner.#sandboxes.set(sandbox.id, sandbox);
      sandbox.watch((ended) => runner.#sandboxEnded(ended));
    }
    for (const container of found.containers) {
      runner.#containers.set(container.id, container);
      container.watch(() => runner.#containerEnded(container));
    }
    return runner;
  }

  runSandbox(config: SandboxConfig): Promise<string> {
    const { uid, attempt } = config.metadata;
    const key = `${uid}/${attempt}`;
    for (const sandbox of this.#sandboxes.values()) {
      const known = sandbox.record.config.metadata;
      if (known.uid === uid && known.attempt === attempt && sandbox.isReady)
        return Promise.resolve(sandbox.id);
    }
    let making = this.#making.get(key);
    if (!making) {
      making = ProcessSandbox.create(this.#context, config, (ended) => this.#sandboxEnded(ended))
        .then((sandbox) => {
          this.#sandboxes.set(sandbox.id, sandbox);
          return sandbox.id;
        })
        .finally(() => this.#making.delete(key));
      this.#making.set(key, making);
    }
    return making;
  }

  async stopSandbox(id: string): Promise<void> {
    const sandbox = this.#sandboxes.get(id);
    if (!sandbox) return;
    await Promise.all(this.#containersOf(id).map((container) => container.stop(0)));
    await sandbox.stop();
  }

  async removeSandbox(id: string): Promise<void> {
    const sandbox = this.#sandboxes.get(id);
    if (!sandbox) return;
    await this.stopSandbox(id);
    await Promise.all(this.#containersOf(id).map((container) => this.removeContainer(container.id)));
    await sandbox.remove();
    this.#sandboxes.delete(id);
  }

  sandbox(id: string): Sandbox | undefined {
    return this.#sandboxes.get(id)?.status();
  }

  sandboxes(): Sandbox[] {
    return [...this.#sandboxes.values()].map((sandbox) => sandbox.status());
  }

  async createContainer(sandboxId: string, config: ContainerConfig): Promise<string> {
    this.#readySandbox(sandboxId);
    const same = this.#containersOf(sandboxId).find(
      ({ record }) => record.config.name === config.name && record.config.attempt === config.attempt,
    );
    if (same) return same.id;
    const container = ProcessContainer.create(this.#context, sandboxId, config);
    this.#containers.set(container.id, container);
    return container.id;
  }

  async startContainer(id: string): Promise<void> {
    const container = this.#known(id);
    if (container.isRunning) return;
    if (container.hasEnded)
      throw podsError('PODS_CONTAINER_STATE', { id, action: 'start', state: 'exited', want: 'created' });
    const sandbox = this.#readySandbox(container.record.sandboxId);
    await container.start(sandbox, () => this.#containerEnded(container));
  }

  async stopContainer(id: string, graceMs: number): Promise<void> {
    await this.#containers.get(id)?.stop(graceMs);
  }

  async removeContainer(id: string): Promise<void> {
    const container = this.#containers.get(id);
    if (!container) return;
    await container.remove();
    this.#containers.delete(id);
  }

  container(id: string): RunnerContainer | undefined {
    return this.#containers.get(id)?.status();
  }

  containers(sandboxId?: string): RunnerContainer[] {
    const all = sandboxId === undefined ? [...this.#containers.values()] : this.#containersOf(sandboxId);
    return all.map((container) => container.status());
  }

  async exec(id: string, command: readonly string[], options?: ExecOptions): Promise<ExecSession> {
    return execIn(this.#known(id), command, options);
  }

  async execSync(
    id: string,
    command: readonly string[],
    options?: { timeoutMs?: number; limitBytes?: number },
  ): Promise<ExecResult> {
    return execSyncIn(this.#known(id), command, options);
  }

  reopenLog(id: string): void {
    this.#containers.get(id)?.reopenLog();
  }

  onChange(callback: (change: RunnerChange) => void): () => void {
    this.#listeners.add(callback);
    return () => this.#listeners.delete(callback);
  }

  async close(): Promise<void> {
    this.#listeners.clear();
    await Promise.allSettled(this.#making.values());
    for (const sandbox of this.#sandboxes.values()) sandbox.unwatch();
    for (const container of this.#containers.values()) container.unwatch();
  }

  #containersOf(sandboxId: string): ProcessContainer[] {
    return [...this.#containers.values()].filter((container) => container.record.sandboxId === sandboxId);
  }

  #known(id: string): ProcessContainer {
    const container = this.#containers.get(id);
    if (!container) throw podsError('PODS_CONTAINER_UNKNOWN', { id });
    return container;
  }

  #readySandbox(id: string): ProcessSandbox {
    const sandbox = this.#sandboxes.get(id);
    if (!sandbox) throw podsError('PODS_SANDBOX_UNKNOWN', { id });
    if (!sandbox.isReady)
      throw podsError('PODS_SANDBOX_NOT_READY', {
        id,
        state: sandbox.process ? sandbox.record.phase : 'dead',
      });
    return sandbox;
  }

  #sandboxEnded(sandbox: ProcessSandbox): void {
    this.#tell({ podUid: sandbox.record.config.metadata.uid, sandboxId: sandbox.id });
  }

  #containerEnded(container: ProcessContainer): void {
    const { sandboxId } = container.record;
    const podUid = this.#sandboxes.get(sandboxId)?.record.config.metadata.uid;
    if (podUid !== undefined) this.#tell({ podUid, sandboxId, containerId: container.id });
  }

  #tell(change: RunnerChange): void {
    for (const listener of this.#listeners) listener(change);
  }
}
