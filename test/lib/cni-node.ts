/** A node for CNI tests: a namespace with forwarding, a store, the real socket and the real plugin binary. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Cidr, parseCidr } from '../../src/addr/index.ts';
import {
  answerCall,
  CniServer,
  conflist,
  installCni,
  PodNetworking,
  type PodNetworkingOptions,
} from '../../src/cni/index.ts';
import { AttachmentStore, type AttachmentStoreOptions } from '../../src/ipam/index.ts';
import { createNetns, deleteNetns, type Netns } from '../../src/kernel/netns/index.ts';
import { PodLinks, type PodLinksOptions } from '../../src/podlink/index.ts';
import { CniTool, type NetworkList } from './cnitool.ts';

let count = 0;

export interface CniNodeOptions extends Partial<Omit<PodNetworkingOptions, 'store' | 'links'>> {
  readonly pools?: readonly Cidr[];
  readonly store?: Partial<AttachmentStoreOptions>;
  readonly links?: Partial<PodLinksOptions>;
}

export class CniNode {
  readonly prefix: string;
  readonly folder: string;
  readonly netns: Netns;
  readonly options: CniNodeOptions;
  readonly errors: unknown[] = [];
  /** Agent-side time of each call. */
  readonly calls: { command: string; status: number; durationMs: number }[] = [];
  readonly #pods: Netns[] = [];
  store!: AttachmentStore;
  network!: PodNetworking;
  server!: CniServer;
  #links!: PodLinks;

  private constructor(options: CniNodeOptions) {
    this.options = options;
    this.prefix = `ptc${process.pid}-${count++}`;
    this.folder = mkdtempSync(join(tmpdir(), 'portolan-cni-'));
    this.netns = createNetns(`${this.prefix}-node`);
    execFileSync('ip', ['-n', this.nodeName, 'link', 'set', 'lo', 'up']);
  }

  static async open(options: CniNodeOptions = {}): Promise<CniNode> {
    const node = new CniNode(options);
    try {
      installCni({ binDir: node.binDir, confDir: join(node.folder, 'net.d'), socketPath: node.socketPath });
      await node.startAgent();
      return node;
    } catch (error) {
      await node[Symbol.asyncDispose]();
      throw error;
    }
  }

  get nodeName(): string {
    return `${this.prefix}-node`;
  }
  get binDir(): string {
    return join(this.folder, 'bin');
  }
  get socketPath(): string {
    return join(this.folder, 'cni.sock');
  }
  get plugin(): string {
    return join(this.binDir, 'portolan-cni');
  }

  async startAgent(): Promise<void> {
    const { pools, store, links, ...rest } = this.options;
    this.store = new AttachmentStore({
      path: join(this.folder, 'attachments.db'),
      pools: pools ?? [parseCidr('10.244.1.0/24'), parseCidr('fd00:10:244:1::/64')],
      ...store,
    });
    this.#links = new PodLinks({ netns: this.netns, ...links });
    this.network = new PodNetworking({
      store: this.store,
      links: this.#links,
      mtuBytes: () => 1450,
      onError: (error) => this.errors.push(error),
      ...rest,
    });
    await this.network.start();
    this.server = new CniServer({
      socketPath: this.socketPath,
      answer: (call) => answerCall(call, this.network),
      onCall: (call) => this.calls.push(call),
    });
    await this.server.listen();
  }

  async stopAgent(): Promise<void> {
    await this.server?.close();
    await this.network?.close();
    this.#links?.close();
    await this.store?.close();
  }

  /** A new pod namespace; returns its path. */
  pod(): string {
    const netns = createNetns(`${this.prefix}-p${this.#pods.length}`);
    this.#pods.push(netns);
    return netns.path;
  }

  /** Ends a pod's namespace: nothing holds it any more. */
  endPod(path: string): void {
    this.#pods.find((pod) => pod.path === path)?.close();
    deleteNetns(path.split('/').at(-1)!);
  }

  /** A caller like cnitool; `list` changes the installed configuration. */
  tool(list: Partial<NetworkList> = {}, binDirs: readonly string[] = []): CniTool {
    const installed = { ...(conflist() as NetworkList), cniVersion: '1.1.0' };
    return new CniTool(
      { ...installed, ...list },
      [this.binDir, ...binDirs],
      join(this.folder, `results-${count++}`),
    );
  }

  /** `ip -j` in the node's namespace. */
  ip(...args: string[]): IpRecord[] {
    return ipJson(this.nodeName, ...args);
  }

  /** Names of pod links, host routes of ours: what must be empty when nothing is attached. */
  leftovers(): string[] {
    return [
      ...this.ip('link').flatMap((link) => (link.ifname?.startsWith('po') ? [link.ifname] : [])),
      ...this.ip('-4', 'route', 'show', 'proto', '250').map((route) => `route ${route.dst}`),
      ...this.ip('-6', 'route', 'show', 'proto', '250').map((route) => `route ${route.dst}`),
      ...this.store.list().map((each) => `record ${each.containerId}`),
    ];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stopAgent().catch(() => {});
    // What a runtime left mounted below the folder.
    const mounts = readFileSync('/proc/self/mounts', 'utf8')
      .split('\n')
      .map((line) => line.split(' ')[1] ?? '');
    for (const path of mounts.filter((each) => each.startsWith(`${this.folder}/`)).reverse())
      execFileSync('umount', ['-l', path]);
    for (const pod of this.#pods) {
      pod.close();
      deleteNetns(pod.path.split('/').at(-1)!);
    }
    this.netns.close();
    deleteNetns(this.nodeName);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export interface IpRecord {
  ifname?: string;
  ifindex?: number;
  address?: string;
  mtu?: number;
  flags?: string[];
  operstate?: string;
  dst?: string;
  dev?: string;
  gateway?: string;
  protocol?: string;
  lladdr?: string;
  state?: string[];
  addr_info?: { family: string; local: string; prefixlen: number; scope: string }[];
}

/** `ip -j` in a namespace by name or path: the oracle. */
export function ipJson(netns: string, ...args: string[]): IpRecord[] {
  const name = netns.split('/').at(-1)!;
  const text = execFileSync('ip', ['-n', name, '-j', ...args], { encoding: 'utf8' });
  return text.trim() === '' ? [] : (JSON.parse(text) as IpRecord[]);
}

/** Runs a program inside a namespace; `ip netns exec` would remount /sys. */
export function inNetns(netns: string, ...command: string[]): string {
  const path = netns.startsWith('/') ? netns : `/run/netns/${netns}`;
  return execFileSync('nsenter', [`--net=${path}`, ...command], { encoding: 'utf8', stdio: 'pipe' });
}
