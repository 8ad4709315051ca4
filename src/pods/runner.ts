import type { Readable, Writable } from 'node:stream';
import type { ContainerConfig, ExecResult, RunnerContainer, Sandbox, SandboxConfig } from './types.ts';

export interface ExecOptions {
  /** Whether the command has an input. Default: none. */
  stdin?: boolean;
  /** Runs it on a terminal of the container; its output is all on stdout then. Default: without. */
  tty?: boolean;
}

/** A command running in a container with streams of its own. */
export interface ExecSession {
  readonly stdin: Writable | null;
  readonly stdout: Readable | null;
  readonly stderr: Readable | null;
  /** Resolves with the exit code (128 + signal when killed) after the command ended. */
  readonly exited: Promise<{ exitCode: number; signal: number }>;
  /** Tells the terminal its size; nothing without one. */
  resize(rows: number, columns: number): void;
  /** Ends the command and everything it started. */
  kill(): void;
}

/** What changed: look again at this sandbox and its containers. */
export interface RunnerChange {
  podUid: string;
  sandboxId: string;
  containerId?: string;
}

/**
 * Runs sandboxes and containers; the verbs of CRI v1's RuntimeService. Every verb may be repeated: starting
 * twice the same (pod uid, attempt) answers the same id, also while the first call is still at work; stopping and
 * removing what is stopped or unknown succeeds.
 */
export interface PodRunner {
  /** Names the runtime in containerIDs: `portolan://ID`. */
  readonly name: string;
  /** False when containers run on the host's files and their image is only recorded. */
  readonly usesImages: boolean;
  /** Ready on return, network included. Throws PODS_SANDBOX_NETWORK, PODS_SHIM_*. */
  runSandbox(config: SandboxConfig): Promise<string>;
  /** Kills its containers and gives its network back. */
  stopSandbox(id: string): Promise<void>;
  /** Stops it if need be and forgets it with its containers; logs stay. */
  removeSandbox(id: string): Promise<void>;
  sandbox(id: string): Sandbox | undefined;
  sandboxes(): Sandbox[];
  /** Records a container; nothing runs yet. */
  createContainer(sandboxId: string, config: ContainerConfig): Promise<string>;
  /** Throws PODS_SHIM_FAILED when the command cannot be run; the container is `exited` with code 128 then. */
  startContainer(id: string): Promise<void>;
  /** SIGTERM, and SIGKILL to all its processes after `graceMs`; resolves when it has ended. */
  stopContainer(id: string, graceMs: number): Promise<void>;
  removeContainer(id: string): Promise<void>;
  container(id: string): RunnerContainer | undefined;
  containers(sandboxId?: string): RunnerContainer[];
  exec(id: string, command: readonly string[], options?: ExecOptions): Promise<ExecSession>;
  /** Runs a command to its end, or kills it and all it started after `timeoutMs`. */
  execSync(
    id: string,
    command: readonly string[],
    options?: { timeoutMs?: number; limitBytes?: number },
  ): Promise<ExecResult>;
  /** After somebody renamed the log file: opens it again. */
  reopenLog(id: string): void;
  /** Called after a sandbox or container changed by itself (ended, was killed). Returns the way to unsubscribe. */
  onChange(callback: (change: RunnerChange) => void): () => void;
  /** Stops watching; everything goes on running. */
  close(): Promise<void>;
}
