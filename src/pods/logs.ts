/**
 * Reading container logs for `kubectl logs`: the CRI lines that the monitor wrote, rotated files included, with
 * the options of the API's PodLogOptions. Needs nothing but the files, so any process of the node may do it.
 */
import {
  closeSync,
  existsSync,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
  watch,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { podsError } from '../errors/index.ts';
import type { Pod } from '../model/kubernetes.ts';
import { type ContainerRecord, readIfThere } from './process/records.ts';

export interface LogOptions {
  follow: boolean;
  /** The run before the present one. */
  previous: boolean;
  timestamps: boolean;
  tailLines?: number;
  limitBytes?: number;
  /** Only lines written at or after this time. */
  sinceMs?: number;
  /** Only one of the two streams. */
  stream?: 'stdout' | 'stderr';
}

const CHUNK_BYTES = 65_536;
/** Without news from the folder, a followed file is looked at this often. */
const FOLLOW_MS = 500;

/** The query of a log request; what is not a number where one is meant is refused with PODS_BAD_REQUEST. */
export function logOptions(query: URLSearchParams, nowMs: number): LogOptions {
  const flag = (name: string) => ['true', '1', ''].includes(query.get(name) ?? 'false');
  const count = (name: string) => {
    const text = query.get(name);
    if (text === null) return undefined;
    if (!/^\d{1,15}$/.test(text))
      throw podsError('PODS_BAD_REQUEST', { field: name, why: `"${text}" is not a whole number` });
    return Number(text);
  };
  const options: LogOptions = {
    follow: flag('follow'),
    previous: flag('previous'),
    timestamps: flag('timestamps'),
  };
  const tailLines = count('tailLines');
  const limitBytes = count('limitBytes');
  const sinceSeconds = count('sinceSeconds');
  const sinceTime = query.get('sinceTime');
  if (tailLines !== undefined) options.tailLines = tailLines;
  if (limitBytes !== undefined) options.limitBytes = limitBytes;
  if (sinceSeconds !== undefined) options.sinceMs = nowMs - sinceSeconds * 1000;
  if (sinceTime !== null) {
    const time = Date.parse(sinceTime);
    if (Number.isNaN(time))
      throw podsError('PODS_BAD_REQUEST', {
        field: 'sinceTime',
        why: `"${sinceTime}" is not an RFC 3339 time`,
      });
    options.sinceMs = time;
  }
  const stream = query.get('stream');
  if (stream === 'Stdout' || stream === 'Stderr')
    options.stream = stream.toLowerCase() as 'stdout' | 'stderr';
  return options;
}

/** Folder of a pod's logs below the node's state folder. */
export function podLogFolder(stateDir: string, pod: Pod): string {
  const { namespace = 'default', name, uid = '' } = pod.metadata;
  return join(stateDir, 'pods/logs', `${namespace}_${name}_${uid}`);
}

/**
 * The log of one container of a pod as `kubectl logs` wants it. `stateDir` is that of the pod's node; without a
 * `container` in the query the pod's first. Throws PODS_NO_LOG, PODS_BAD_REQUEST.
 */
export function readPodLog(
  stateDir: string,
  pod: Pod,
  query: URLSearchParams,
  signal: AbortSignal,
): AsyncIterable<Uint8Array> {
  const container = query.get('container') ?? pod.spec.containers[0]?.name ?? '';
  const options = logOptions(query, Date.now());
  const folder = join(podLogFolder(stateDir, pod), container);
  const path = logOfRun(folder, container, options.previous);
  return readLog(path, options, signal, () => hasEnded(stateDir, path));
}

/** Logs are named by attempt: the latest, or the one before. */
function logOfRun(folder: string, container: string, previous: boolean): string {
  const attempts = (existsSync(folder) ? readdirSync(folder) : [])
    .map((name) => /^(\d+)\.log$/.exec(name)?.[1])
    .filter((text) => text !== undefined)
    .map(Number)
    .sort((a, b) => b - a);
  const attempt = attempts[previous ? 1 : 0];
  if (attempt === undefined) throw podsError('PODS_NO_LOG', { container, previous });
  return join(folder, `${attempt}.log`);
}

/** True when the run that writes this log has ended, by the runner's records. */
function hasEnded(stateDir: string, path: string): boolean {
  const folder = join(stateDir, 'pods/containers');
  for (const id of existsSync(folder) ? readdirSync(folder) : []) {
    const text = readIfThere(join(folder, id, 'container.json'));
    if (!text?.includes(JSON.stringify(path))) continue;
    const record = JSON.parse(text) as ContainerRecord;
    if (record.config.logPath === path)
      return record.verdict !== undefined || existsSync(join(folder, id, 'exit'));
  }
  return true;
}

/** One CRI line; undefined for what is none. */
export function parseLogLine(
  line: string,
): { time: string; stream: string; partial: boolean; text: string } | undefined {
  const found = /^(\S+) (stdout|stderr) ([FP])(?::\S*)? ?([\s\S]*)$/.exec(line);
  if (!found) return undefined;
  return { time: found[1]!, stream: found[2]!, partial: found[3] === 'P', text: found[4]! };
}

/** Reads a log to its present end, or with `follow` until `ended` says so or the signal comes. */
export async function* readLog(
  path: string,
  options: LogOptions,
  signal: AbortSignal,
  ended: () => boolean,
): AsyncGenerator<Uint8Array> {
  const cut = limiter(options.limitBytes);
  const format = formatter(options);
  const present = rotatedFiles(path).flatMap((file) => readFileSync(file, 'latin1').split('\n'));
  let fd: number | undefined = existsSync(path) ? openSync(path, 'r') : undefined;
  try {
    const reader = lineReader();
    const lines = [...present.filter(Boolean), ...(fd === undefined ? [] : reader.read(fd))];
    const first = options.tailLines === undefined ? 0 : tailStart(lines, options);
    for (const chunk of batches(lines.slice(first), format)) {
      yield cut.take(chunk);
      if (cut.full) return;
    }
    while (options.follow && !signal.aborted) {
      const over = ended();
      const more = fd === undefined ? [] : reader.read(fd);
      if (more.length === 0 && fd !== undefined && isReplaced(fd, path)) {
        // Rotated: the old file was read to its end.
        closeSync(fd);
        fd = undefined;
      }
      if (fd === undefined && existsSync(path)) {
        fd = openSync(path, 'r');
        continue;
      }
      for (const chunk of batches(more, format)) {
        yield cut.take(chunk);
        if (cut.full) return;
      }
      if (more.length > 0) continue;
      if (over) return;
      await changeOf(dirname(path), signal);
    }
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** NAME.3, NAME.2, NAME.1: oldest first. */
function rotatedFiles(path: string): string[] {
  const files: string[] = [];
  for (let i = 1; existsSync(`${path}.${i}`); i++) files.unshift(`${path}.${i}`);
  return files;
}

/** Where the last `tailLines` whole lines that pass the filters begin. */
function tailStart(lines: string[], options: LogOptions): number {
  let left = options.tailLines!;
  for (let i = lines.length - 1; i >= 0; i--) {
    const line = parseLogLine(lines[i]!);
    if (!line || line.partial || (options.stream && line.stream !== options.stream)) continue;
    if (left-- === 0) return i + 1;
  }
  return 0;
}

/** Bytes are kept as they are: latin1 in, latin1 out. */
function formatter(options: LogOptions): (line: string) => string {
  let midLine = false;
  return (raw) => {
    const line = parseLogLine(raw);
    if (!line || (options.stream && line.stream !== options.stream)) return '';
    if (options.sinceMs !== undefined && Date.parse(line.time) < options.sinceMs) return '';
    const head = options.timestamps && !midLine ? `${line.time} ` : '';
    midLine = line.partial;
    return `${head}${line.text}${line.partial ? '' : '\n'}`;
  };
}

function* batches(lines: string[], format: (line: string) => string): Generator<Uint8Array> {
  let text = '';
  for (const line of lines) {
    text += format(line);
    if (text.length < CHUNK_BYTES) continue;
    yield Buffer.from(text, 'latin1');
    text = '';
  }
  if (text) yield Buffer.from(text, 'latin1');
}

function limiter(limitBytes = Number.POSITIVE_INFINITY) {
  let left = limitBytes;
  return {
    get full() {
      return left <= 0;
    },
    take(chunk: Uint8Array): Uint8Array {
      const part = chunk.length > left ? chunk.subarray(0, left) : chunk;
      left -= part.length;
      return part;
    },
  };
}

/** Whole lines from where it stopped the last time. */
function lineReader() {
  let rest = '';
  const buffer = Buffer.alloc(CHUNK_BYTES);
  return {
    read(fd: number): string[] {
      const lines: string[] = [];
      for (let size = readSync(fd, buffer); size > 0; size = readSync(fd, buffer)) {
        const parts = (rest + buffer.toString('latin1', 0, size)).split('\n');
        rest = parts.pop()!;
        lines.push(...parts);
      }
      return lines;
    },
  };
}

function isReplaced(fd: number, path: string): boolean {
  try {
    return statSync(path).ino !== fstatSync(fd).ino;
  } catch {
    return true;
  }
}

/** Resolves when something in a folder changed, after a while, or when the signal comes. */
function changeOf(folder: string, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      watcher?.close();
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, FOLLOW_MS);
    let watcher: ReturnType<typeof watch> | undefined;
    try {
      watcher = watch(folder, done);
      watcher.on('error', done);
    } catch {
      // No inotify left: the timer does it.
    }
    signal.addEventListener('abort', done, { once: true });
  });
}
