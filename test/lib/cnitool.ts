/**
 * A container runtime's half of CNI, after libcni and its `cnitool`: reads a configuration list, runs each plugin's
 * binary with environment and standard input, chains results, keeps the cache that DEL and CHECK need.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface PluginRun {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs one plugin binary. An environment of its own: nothing of the caller's. */
export function execPlugin(
  path: string,
  env: Record<string, string>,
  stdin: string | Uint8Array,
): Promise<PluginRun> {
  return new Promise((resolve, reject) => {
    const child = spawn(path, [], { env });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
    child.stdin.on('error', () => {}); // a plugin may answer before it has read everything
    child.on('error', reject);
    child.on('close', (status) =>
      resolve({ status, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() }),
    );
    child.stdin.end(stdin);
  });
}

/** The error JSON of a plugin. */
export class PluginError extends Error {
  readonly code: number;
  readonly run: PluginRun;
  readonly details: string;

  constructor(run: PluginRun) {
    let told: { code?: number; msg?: string; details?: string } = {};
    try {
      told = JSON.parse(run.stdout);
    } catch {}
    super(told.msg ?? `exit ${run.status}: ${run.stdout}${run.stderr}`);
    this.code = told.code ?? -1;
    this.details = told.details ?? '';
    this.run = run;
  }
}

export interface Plugin {
  type: string;
  capabilities?: Record<string, boolean>;
  [key: string]: unknown;
}

export interface NetworkList {
  cniVersion: string;
  name: string;
  disableCheck?: boolean;
  plugins: Plugin[];
}

export interface Container {
  id: string;
  netns: string;
  ifname?: string;
  args?: string;
  capabilityArgs?: Record<string, unknown>;
}

/** Any JSON object of a result. */
export interface Result {
  cniVersion: string;
  interfaces: { name: string; mac?: string; mtu?: number; sandbox?: string }[];
  ips: { address: string; gateway?: string; interface?: number; version?: string }[];
  routes: { dst: string; gw?: string }[];
  dns: Record<string, unknown>;
}

export class CniTool {
  readonly list: NetworkList;
  readonly binDirs: readonly string[];
  readonly cacheDir: string;
  /** How often each verb was run, for tests of `disableCheck`. */
  readonly runs: string[] = [];

  constructor(list: NetworkList, binDirs: readonly string[], cacheDir: string) {
    this.list = list;
    this.binDirs = binDirs;
    this.cacheDir = cacheDir;
    mkdirSync(cacheDir, { recursive: true });
  }

  async add(container: Container): Promise<Result> {
    let result: object | undefined;
    for (const plugin of this.list.plugins) {
      const run = await this.#run('ADD', plugin, container, result);
      result = JSON.parse(run.stdout);
    }
    writeFileSync(
      this.#cachePath(container),
      JSON.stringify({
        kind: 'cniCacheV1',
        containerId: container.id,
        ifName: container.ifname ?? 'eth0',
        result,
      }),
    );
    return result as Result;
  }

  /** In reverse order, with the result of the last ADD; the cache goes when all have succeeded. */
  async del(container: Container): Promise<void> {
    const cached = this.#cached(container);
    for (const plugin of [...this.list.plugins].reverse()) await this.#run('DEL', plugin, container, cached);
    rmSync(this.#cachePath(container), { force: true });
  }

  async check(container: Container): Promise<void> {
    if (this.list.disableCheck) return;
    const cached = this.#cached(container);
    for (const plugin of this.list.plugins) await this.#run('CHECK', plugin, container, cached);
  }

  async status(): Promise<void> {
    for (const plugin of this.list.plugins) await this.#run('STATUS', plugin, undefined, undefined);
  }

  /** Both names of the list are sent: libcni's answer to containernetworking/cni#1101. */
  async gc(valid: readonly Container[]): Promise<void> {
    const keys = valid.map(({ id, ifname }) => ({ containerID: id, ifname: ifname ?? 'eth0' }));
    for (const name of this.cached()) {
      const { containerId, ifName } = JSON.parse(readFileSync(join(this.cacheDir, name), 'utf8'));
      if (!keys.some((key) => key.containerID === containerId && key.ifname === ifName))
        await this.del({ id: containerId, ifname: ifName, netns: '' });
    }
    for (const plugin of this.list.plugins)
      await this.#run('GC', plugin, undefined, undefined, {
        'cni.dev/valid-attachments': keys,
        'cni.dev/attachments': keys,
      });
  }

  /** Names in the results cache. */
  cached(): string[] {
    return readdirSync(this.cacheDir);
  }

  #cachePath({ id, ifname }: Container): string {
    return join(this.cacheDir, `${this.list.name}-${id}-${ifname ?? 'eth0'}`);
  }

  #cached(container: Container): object | undefined {
    const path = this.#cachePath(container);
    return existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')).result : undefined;
  }

  async #run(
    command: string,
    { capabilities, ...plugin }: Plugin,
    container: Container | undefined,
    prevResult: object | undefined,
    more: object = {},
  ): Promise<PluginRun> {
    this.runs.push(`${command} ${plugin.type}`);
    const runtimeConfig = Object.fromEntries(
      Object.entries(container?.capabilityArgs ?? {}).filter(([name]) => capabilities?.[name]),
    );
    const config = {
      ...plugin,
      ...(capabilities ? { capabilities } : {}),
      name: this.list.name,
      cniVersion: this.list.cniVersion,
      ...(Object.keys(runtimeConfig).length > 0 ? { runtimeConfig } : {}),
      ...(prevResult ? { prevResult } : {}),
      ...more,
    };
    const path = this.binDirs.map((folder) => join(folder, plugin.type)).find(existsSync);
    if (!path) throw new Error(`no plugin ${plugin.type} in ${this.binDirs.join(':')}`);
    const run = await execPlugin(
      path,
      {
        CNI_COMMAND: command,
        CNI_PATH: this.binDirs.join(':'),
        ...(container
          ? {
              CNI_CONTAINERID: container.id,
              CNI_NETNS: container.netns,
              CNI_IFNAME: container.ifname ?? 'eth0',
              CNI_ARGS: container.args ?? '',
            }
          : {}),
        PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
      },
      JSON.stringify(config),
    );
    if (run.status !== 0) throw new PluginError(run);
    return run;
  }
}
