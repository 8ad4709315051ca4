/**
 * What the process runner keeps on disk, so that a later process finds everything again:
 *
 *   <folder>/sandboxes/<id>/  sandbox.json  hosts hostname resolv.conf   pid         (pid is written by the shim)
 *   <folder>/containers/<id>/ container.json  termination-log  mnt/      pid exit    (pid and exit likewise)
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { podsError } from '../../errors/index.ts';
import type { ProcessIdentity } from '../../kernel/process/identity.ts';
import type { ContainerConfig, SandboxConfig } from '../types.ts';

const VERSION = 1;

export interface SandboxRecord {
  version: number;
  id: string;
  config: SandboxConfig;
  createdAtMs: number;
  /** Boot of the machine in which its processes were started. */
  bootId: string;
  /** Name below /run/netns; absent with hostNetwork. */
  netns?: string;
  ips: string[];
  /** `creating` on disk means that the runner died on the way: it is undone. */
  phase: 'creating' | 'ready' | 'stopped';
}

export interface ContainerRecord {
  version: number;
  id: string;
  sandboxId: string;
  config: ContainerConfig;
  createdAtMs: number;
  bootId: string;
  /** Set when it never ran or nobody saw its end; the shim's exit file says everything else. */
  verdict?: { reason: string; message: string; exitCode: number; finishedAtMs: number };
}

/** Ids are 64 hexadecimal digits, like those of other runtimes. */
export const isId = (text: string) => /^[0-9a-f]{64}$/.test(text);

/** Writes beside and renames, readable by root alone: env may hold secrets. */
export function writeFileAtomically(path: string, text: string, mode = 0o600): void {
  const temporary = `${path}.new`;
  writeFileSync(temporary, text, { mode });
  renameSync(temporary, path);
}

export class RecordFolder {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
    for (const kind of ['sandboxes', 'containers'])
      mkdirSync(join(path, kind), { recursive: true, mode: 0o700 });
  }

  sandboxFolder(id: string): string {
    return join(this.path, 'sandboxes', id);
  }

  containerFolder(id: string): string {
    return join(this.path, 'containers', id);
  }

  ids(kind: 'sandboxes' | 'containers'): string[] {
    return readdirSync(join(this.path, kind)).filter(isId);
  }

  saveSandbox(record: SandboxRecord): void {
    const folder = this.sandboxFolder(record.id);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    writeFileAtomically(join(folder, 'sandbox.json'), JSON.stringify(record));
  }

  saveContainer(record: ContainerRecord): void {
    const folder = this.containerFolder(record.id);
    mkdirSync(join(folder, 'mnt'), { recursive: true, mode: 0o700 });
    writeFileAtomically(join(folder, 'container.json'), JSON.stringify(record));
  }

  /** Throws PODS_RECORD_BROKEN. */
  loadSandbox(id: string): SandboxRecord {
    return load(join(this.sandboxFolder(id), 'sandbox.json'), id, ['config', 'bootId', 'phase', 'ips']);
  }

  /** Throws PODS_RECORD_BROKEN. */
  loadContainer(id: string): ContainerRecord {
    return load(join(this.containerFolder(id), 'container.json'), id, ['config', 'bootId', 'sandboxId']);
  }

  remove(folder: string): void {
    rmSync(folder, { recursive: true, force: true });
  }

  /** Takes away what an earlier try of the same start left. */
  forgetRun(id: string): void {
    for (const name of ['pid', 'exit']) {
      const path = join(this.containerFolder(id), name);
      if (existsSync(path)) unlinkSync(path);
    }
  }
}

function load<T extends { version: number; id: string }>(path: string, id: string, keys: (keyof T)[]): T {
  let record: T;
  try {
    record = JSON.parse(readFileSync(path, 'utf8')) as T;
  } catch (cause) {
    throw podsError('PODS_RECORD_BROKEN', { path, why: 'it is not there or not JSON' }, cause);
  }
  const broken =
    typeof record !== 'object' || record === null
      ? 'it is not an object'
      : record.version !== VERSION
        ? `it has version ${record.version}, want ${VERSION}`
        : record.id !== id
          ? 'it has the id of another one'
          : keys.find((key) => record[key] === undefined || record[key] === null);
  if (broken !== undefined) throw podsError('PODS_RECORD_BROKEN', { path, why: String(broken) });
  return record;
}

export const recordVersion = VERSION;

/** Reads the shim's `pid` of a sandbox: "PID START". */
export function parseSandboxPid(text: string): ProcessIdentity | undefined {
  const numbers = parseNumbers(text, 2);
  return numbers && { pid: numbers[0]!, startTicks: numbers[1]! };
}

export interface ContainerRun {
  process: ProcessIdentity;
  monitor: ProcessIdentity;
  startedAtMs: number;
}

/** Reads the shim's `pid` of a container: "PID START MONITOR MONITOR-START NANOSECONDS". */
export function parseContainerRun(text: string): ContainerRun | undefined {
  const numbers = parseNumbers(text, 5);
  if (!numbers) return undefined;
  return {
    process: { pid: numbers[0]!, startTicks: numbers[1]! },
    monitor: { pid: numbers[2]!, startTicks: numbers[3]! },
    startedAtMs: Math.floor(numbers[4]! / 1e6),
  };
}

export interface ContainerEnd {
  exitCode: number;
  signal: number;
  finishedAtMs: number;
}

/** Reads the shim's `exit`: "CODE SIGNAL NANOSECONDS". */
export function parseContainerEnd(text: string): ContainerEnd | undefined {
  const numbers = parseNumbers(text, 3);
  if (!numbers || numbers[0]! > 255 || numbers[1]! > 64) return undefined;
  return { exitCode: numbers[0]!, signal: numbers[1]!, finishedAtMs: Math.floor(numbers[2]! / 1e6) };
}

function parseNumbers(text: string, count: number): number[] | undefined {
  const words = text.trim().split(' ');
  if (words.length !== count || !words.every((word) => /^\d{1,20}$/.test(word))) return undefined;
  return words.map(Number);
}

/** The text of a small file, or undefined when it is not there. */
export function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
