/** Compiles and runs soak.c: sockets that know what they lost. */
import { type ChildProcess, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

/** What a group of sockets saw. */
export interface Soaked {
  /** Sockets, one after the other. */
  readonly opened: number;
  /** Messages that came back. */
  readonly echoed: number;
  /** Datagram sockets that the node ended because their backend had gone. */
  readonly moved: number;
  /** Datagrams that had to be sent again. */
  readonly repeated: number;
  /** Answers and connections that took longer than 900 ms: a packet was lost and sent again. */
  readonly slow: number;
  readonly slowestMs: number;
  /** When the first 16 of them ended, from the start on. */
  readonly slowAtMs: readonly number[];
  readonly failed: Record<string, number>;
}

/** Path of a program beside this file, or of `../bench/NAME`, compiled once for each state of its source. */
export function compiled(name: string): string {
  const source = join(import.meta.dirname, `${name}.c`);
  const digest = createHash('sha256').update(readFileSync(source)).digest('hex').slice(0, 16);
  const folder = join(tmpdir(), 'portolan-test-programs');
  const output = join(folder, `${basename(name)}-${digest}`);
  if (existsSync(output)) return output;
  mkdirSync(folder, { recursive: true });
  const temporary = `${output}.${process.pid}`;
  execFileSync('gcc', ['-O2', '-Wall', '-D_GNU_SOURCE', '-static', '-o', temporary, source]);
  renameSync(temporary, output);
  return output;
}

/** The first line that a process prints. */
export function firstLine(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    child.stdout!.setEncoding('utf8').on('data', (part: string) => {
      text += part;
      if (text.includes('\n')) resolve(text.slice(0, text.indexOf('\n')));
    });
    let told = '';
    child.stderr!.setEncoding('utf8').on('data', (part: string) => (told += part));
    child.once('close', (code) => reject(new Error(`ended with ${code}: ${told}${text}`)));
  });
}
