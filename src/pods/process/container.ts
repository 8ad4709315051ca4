import { closeSync, mkdirSync, openSync, readSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { isNetError, kernelCause, podsError } from '../../errors/index.ts';
import { ensureCgroup, killCgroup, removeCgroup } from '../../kernel/cgroup/index.ts';
import { readMounts } from '../../kernel/mount/index.ts';
import { isAlive } from '../../kernel/process/identity.ts';
import { Pidfd } from '../../kernel/process/pidfd.ts';
import { ERRNO } from '../../kernel/syscall/index.ts';
import type { ContainerConfig, ContainerMount, RunnerContainer } from '../types.ts';
import { capabilityMask } from './capabilities.ts';
import { containerCgroup, deferred, type RunnerContext, shimCgroup } from './context.ts';
import { hostView } from './host.ts';
import { type PlannedVolume, planMounts } from './mounts.ts';
import {
  type ContainerEnd,
  type ContainerRecord,
  type ContainerRun,
  parseContainerEnd,
  parseContainerRun,
  readIfThere,
  recordVersion,
} from './records.ts';
import { encodeRequest, type ShimFields } from './request.ts';
import type { ProcessSandbox } from './sandbox.ts';
import { startShim } from './shim.ts';

/** kubelet's bound for a termination message. */
const TERMINATION_MESSAGE_BYTES = 4096;
/** How long a killed container may take to be gone. */
const KILL_TIMEOUT_MS = 10_000;
const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** One run of one container, with its monitor beside it. */
export class ProcessContainer {
  readonly context: RunnerContext;
  readonly record: ContainerRecord;
  #run: ContainerRun | undefined;
  #end: ContainerEnd | undefined;
  #watched: Pidfd | undefined;
  #starting: Promise<void> | undefined;
  readonly #ended = deferred();

  constructor(context: RunnerContext, record: ContainerRecord) {
    this.context = context;
    this.record = record;
  }

  static create(context: RunnerContext, sandboxId: string, config: ContainerConfig): ProcessContainer {
    const id = context.newId();
    const record: ContainerRecord = {
      version: recordVersion,
      id,
      sandboxId,
      config,
      createdAtMs: context.nowMs(),
      bootId: context.bootId,
    };
    const container = new ProcessContainer(context, record);
    context.records.saveContainer(record);
    writeFileSync(join(container.folder, 'termination-log'), '', { mode: 0o666 });
    return container;
  }

  get id(): string {
    return this.record.id;
  }

  get folder(): string {
    return this.context.records.containerFolder(this.id);
  }

  get cgroup(): string | undefined {
    return containerCgroup(this.context, this.record.sandboxId, this.id);
  }

  get run(): ContainerRun | undefined {
    return this.#run;
  }

  get isRunning(): boolean {
    return this.#run !== undefined && this.#end === undefined && this.record.verdict === undefined;
  }

  get hasEnded(): boolean {
    return this.#end !== undefined || this.record.verdict !== undefined;
  }

  status(): RunnerContainer {
    const { record } = this;
    const { config, verdict } = record;
    const status: RunnerContainer = {
      id: record.id,
      sandboxId: record.sandboxId,
      name: config.name,
      attempt: config.attempt,
      image: config.image,
      state: this.hasEnded ? 'exited' : this.#run ? 'running' : 'created',
      createdAtMs: record.createdAtMs,
      logPath: config.logPath,
    };
    if (this.#run) status.startedAtMs = this.#run.startedAtMs;
    if (this.isRunning) status.pid = this.#run!.process.pid;
    if (this.#end) {
      Object.assign(status, this.#end);
      status.reason = this.#end.exitCode === 0 ? 'Completed' : 'Error';
      const message = this.#terminationMessage();
      if (message) status.message = message;
    } else if (verdict) {
      Object.assign(status, verdict);
    }
    return status;
  }

  /** Starts it; a second call joins the first. Throws what keeps it from starting; it is `exited` then. */
  start(sandbox: ProcessSandbox, onEnd: () => void): Promise<void> {
    this.#starting ??= this.#start(sandbox, onEnd);
    return this.#starting;
  }

  async #start(sandbox: ProcessSandbox, onEnd: () => void): Promise<void> {
    const { context, record } = this;
    try {
      const cgroup = this.cgroup;
      if (cgroup !== undefined) ensureCgroup(cgroup);
      mkdirSync(dirname(record.config.logPath), { recursive: true, mode: 0o755 });
      context.records.forgetRun(this.id);
      const request = encodeRequest(
        {
          dir: this.folder,
          pid: sandbox.process!.pid,
          start: sandbox.process!.startTicks,
          cgroup,
          'shim-cgroup': shimCgroup(context, record.sandboxId),
          log: record.config.logPath,
          'log-bytes': context.logMaxBytes,
          'log-files': context.logFiles,
          ...this.processFields(),
          arg: record.config.command,
        },
        this.#planMounts(sandbox),
      );
      const { channel } = await startShim(context.shimPath, 'container', this.id, request);
      channel.close();
    } catch (error) {
      // Held by a monitor that an earlier life of this runner started and did not wait for.
      const adopted = kernelCause(error)?.errno === ERRNO.EAGAIN && this.readRun();
      if (!adopted) {
        const message = isNetError(error) ? describe(error) : String(error);
        this.#giveUp('StartError', message, 128);
        throw error;
      }
    }
    this.readRun();
    this.watch(onEnd);
  }

  /** Fields of a request that say as whom and with what environment a command runs; for exec, too. */
  processFields(): ShimFields {
    const { config } = this.record;
    const { security } = config;
    const has = (name: string) => config.env.some((variable) => variable.name === name);
    const env = config.env.map((variable) => `${variable.name}=${variable.value}`);
    if (!has('PATH')) env.push(`PATH=${DEFAULT_PATH}`);
    if (!has('HOME')) env.push(`HOME=${security.uid === 0 ? '/root' : '/'}`);
    return {
      cwd: config.workingDir,
      uid: security.uid,
      gid: security.gid,
      group: security.groups,
      caps: capabilityMask(security),
      'no-new-privs': security.noNewPrivileges,
      env,
    };
  }

  /** Reads the shim's files; true when it has been started. For adoption and after a start. */
  readRun(): boolean {
    const run = readIfThere(join(this.folder, 'pid'));
    const end = readIfThere(join(this.folder, 'exit'));
    this.#run = run === undefined ? undefined : parseContainerRun(run);
    this.#end = end === undefined ? undefined : parseContainerEnd(end);
    if (this.hasEnded) this.#ended.resolve();
    return this.#run !== undefined;
  }

  /** Follows the monitor; `onEnd` is called once the container's end is known. */
  watch(onEnd: () => void): void {
    if (!this.isRunning) {
      if (this.hasEnded) queueMicrotask(onEnd);
      return;
    }
    this.#watched = Pidfd.open(this.#run!.monitor);
    const settled = () => this.#settle().then(onEnd);
    void (this.#watched ? this.#watched.exited.then(settled) : settled());
  }

  unwatch(): void {
    this.#watched?.close();
  }

  /** SIGTERM, then SIGKILL to all its processes. Throws PODS_CONTAINER_STUCK. */
  async stop(graceMs: number): Promise<void> {
    if (!this.isRunning) return;
    if (graceMs > 0) {
      this.#signal('SIGTERM');
      if (await this.#endsWithin(graceMs)) return;
    }
    this.kill();
    if (!(await this.#endsWithin(KILL_TIMEOUT_MS))) throw podsError('PODS_CONTAINER_STUCK', { id: this.id });
  }

  /** SIGKILL to all its processes. */
  kill(): void {
    const { cgroup } = this;
    if (cgroup !== undefined) killCgroup(cgroup);
    this.#signal('SIGKILL');
  }

  reopenLog(): void {
    if (!this.isRunning) return;
    const monitor = Pidfd.open(this.#run!.monitor);
    monitor?.signal('SIGUSR1');
    monitor?.close();
  }

  /** Its processes belong to another boot, or were never seen to end. */
  declareLost(message: string): void {
    this.#giveUp('Lost', message, 137);
  }

  async remove(): Promise<void> {
    await this.stop(0);
    this.unwatch();
    const { cgroup } = this;
    if (cgroup !== undefined) await removeCgroup(cgroup);
    this.context.records.remove(this.folder);
  }

  async #settle(): Promise<void> {
    this.readRun();
    if (this.hasEnded) return;
    // The monitor was killed. PR_SET_PDEATHSIG has killed the first process; the rest of them must go, too.
    this.kill();
    const main = this.#run && Pidfd.open(this.#run.process);
    if (main) await Promise.race([main.exited, pause(KILL_TIMEOUT_MS)]);
    main?.close();
    if (this.#run && isAlive(this.#run.process))
      this.context.log(`container ${this.id} lives on without its monitor`);
    this.#giveUp('MonitorLost', 'The process that watched this container was killed', 137);
  }

  #giveUp(reason: string, message: string, exitCode: number): void {
    this.record.verdict = { reason, message, exitCode, finishedAtMs: this.context.nowMs() };
    this.context.records.saveContainer(this.record);
    this.#ended.resolve();
  }

  #signal(name: NodeJS.Signals): void {
    const target = this.#run && Pidfd.open(this.#run.process);
    target?.signal(name);
    target?.close();
  }

  async #endsWithin(timeoutMs: number): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, timeoutMs);
    await Promise.race([this.#ended.promise, promise]);
    clearTimeout(timer);
    return this.hasEnded;
  }

  #planMounts(sandbox: ProcessSandbox) {
    const { config } = this.record;
    const file = (name: string, target: string, readonly = false) => ({
      source: join(sandbox.folder, name),
      target,
      readonly,
    });
    return planMounts({
      hostMounts: readMounts(),
      host: hostView(),
      volumes: config.mounts.map(toVolume),
      files: [
        file('hosts', '/etc/hosts'),
        file('hostname', '/etc/hostname'),
        file('resolv.conf', '/etc/resolv.conf'),
        {
          source: join(this.folder, 'termination-log'),
          target: config.terminationMessagePath,
          readonly: false,
        },
      ],
      masked: this.context.maskedPaths,
      privileged: config.security.privileged,
    });
  }

  #terminationMessage(): string {
    const path = join(this.folder, 'termination-log');
    try {
      const fd = openSync(path, 'r');
      const buffer = Buffer.alloc(TERMINATION_MESSAGE_BYTES);
      const size = readSync(fd, buffer, 0, buffer.length, 0);
      closeSync(fd);
      return buffer.toString('utf8', 0, size);
    } catch {
      return '';
    }
  }
}

function toVolume(mount: ContainerMount): PlannedVolume {
  const rest = { target: mount.containerPath, readonly: mount.readonly };
  if ('memoryVolume' in mount.source) {
    const { memoryVolume, subPath } = mount.source;
    return { source: { shared: join('/volumes', memoryVolume, subPath ?? '') }, file: false, ...rest };
  }
  const { hostPath } = mount.source;
  let file = false;
  try {
    file = !statSync(hostPath).isDirectory();
  } catch (cause) {
    throw podsError('PODS_VOLUME_MISSING', { volume: hostPath, why: 'it does not exist' }, cause);
  }
  return { source: { hostPath }, file, ...rest };
}

function describe(error: Error): string {
  const kernel = kernelCause(error);
  return kernel ? `${error.message} (${kernel.name})` : error.message;
}

function pause(timeoutMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, timeoutMs).unref());
}
