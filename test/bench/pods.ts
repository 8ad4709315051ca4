/**
 * From nothing to a running container: sandbox, network, container. Our process runner beside Debian's containerd and
 * runc through CRI, with the usual chain of CNI plugins and with ours. Rounds alternate; figures are medians.
 *
 * The runner starts a process on a read-only view of the host's files, containerd one of an image that is there
 * already: neither pulls.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createNetns, deleteNetns, type Netns } from '../../src/kernel/netns/index.ts';
import { CniNode } from '../lib/cni-node.ts';
import { containerdMissing, startContainerd } from '../lib/containerd.ts';
import { CriClient, type Fields } from '../lib/cri-client.ts';
import { containerConfig, sandboxConfig, type TestNode, testNode } from '../lib/pods.ts';
import { type AreaOptions, atLeastTimes, type Figure, median } from './figure.ts';

const IMAGE = 'docker.io/portolan/busybox:bench';
const PLUGINS = '/usr/lib/cni';

/** Milliseconds of each step of one pod. */
interface PodTimes {
  readonly start: number;
  readonly remove: number;
}

type Runtime = () => Promise<PodTimes>;

export async function benchPods({ quick }: AreaOptions): Promise<Figure[]> {
  const rounds = quick ? 5 : 15;
  await using node = await CniNode.open();
  await using pods = testNode();
  const closing: (() => Promise<void> | void)[] = [];
  try {
    const runtimes = new Map<string, Runtime>([['ours', await ourRuntime(pods, node)]]);
    const missing = containerdMissing(`${PLUGINS}/bridge`);
    if (!missing) {
      symlinkSync(`${PLUGINS}/loopback`, join(node.binDir, 'loopback'));
      const other = createNetns(`${node.prefix}-ref`);
      closing.push(() => deleteNetns(`${node.prefix}-ref`));
      execFileSync('ip', ['-n', `${node.prefix}-ref`, 'link', 'set', 'lo', 'up']);
      const referenceConf = join(node.folder, 'ref.d');
      mkdirSync(referenceConf);
      writeFileSync(join(referenceConf, '10-bridge.conflist'), JSON.stringify(bridgeChain(node.folder)));
      const start = async (name: string, netns: Netns, cni: { binDir: string; confDir: string }) => {
        const folder = join(node.folder, name);
        const { socket, stop } = await startContainerd({ folder, netns, image: IMAGE, ...cni });
        closing.push(stop);
        runtimes.set(name, containerdRuntime(folder, socket, name, closing));
      };
      await start('bridge', other, { binDir: PLUGINS, confDir: referenceConf });
      await start('plugin', node.netns, { binDir: node.binDir, confDir: join(node.folder, 'net.d') });
    }
    const times = new Map([...runtimes.keys()].map((name) => [name, [] as PodTimes[]]));
    for (let round = -1; round < rounds; round++)
      for (const [name, run] of runtimes) {
        const one = await run();
        if (round >= 0) times.get(name)!.push(one);
      }
    const of = (name: string, step: keyof PodTimes) => {
      const list = times.get(name);
      return list && median(list.map((one) => one[step]));
    };
    const beside = (
      name: string,
      step: keyof PodTimes,
      ours: string,
      other: string,
      label: string,
    ): Figure => {
      const base = of(other, step);
      return {
        name,
        value: of(ours, step)!,
        unit: 'ms',
        ...(base !== undefined && { baseline: { name: label, value: base } }),
      };
    };
    const bridge = 'containerd, bridge chain';
    const rows = [
      atLeastTimes(beside('pod start: our runner', 'start', 'ours', 'bridge', bridge), 2),
      beside('pod removal: our runner', 'remove', 'ours', 'bridge', bridge),
    ];
    if (missing) return rows;
    return [
      ...rows,
      beside('pod start: containerd with our plugin', 'start', 'plugin', 'bridge', bridge),
      beside('pod removal: containerd with our plugin', 'remove', 'plugin', 'bridge', bridge),
    ];
  } finally {
    for (const close of closing.reverse()) await close();
    for (const controller of [
      'cpu',
      'cpuacct',
      'cpuset',
      'memory',
      'devices',
      'freezer',
      'blkio',
      'pids',
      'systemd',
      'unified',
      '.',
    ])
      try {
        rmdirSync(join('/sys/fs/cgroup', controller, PARENT));
      } catch {
        // Not mounted here, or never used.
      }
  }
}

const PARENT = `/pt-bench-pods${process.pid}`;

async function ourRuntime(pods: TestNode, node: CniNode): Promise<Runtime> {
  const keyOf = (containerId: string) => ({ containerId, ifname: 'eth0' });
  pods.options.network = {
    add: async ({ sandboxId, metadata, netnsPath }) => {
      const { namespace, name, uid } = metadata;
      const { addresses } = await node.network.add({
        ...keyOf(sandboxId),
        netns: netnsPath,
        pod: { namespace, name, uid },
        ifAttached: 'ensure',
      });
      return { ips: addresses.map(String) };
    },
    del: ({ sandboxId }) => node.network.del(keyOf(sandboxId)),
  };
  const runner = await pods.open();
  return async () => {
    const began = performance.now();
    const sandbox = await runner.runSandbox(sandboxConfig());
    const container = await runner.createContainer(sandbox, containerConfig(pods, ['/bin/sleep', '1000']));
    await runner.startContainer(container);
    const started = performance.now();
    await runner.stopContainer(container, 0);
    await runner.stopSandbox(sandbox);
    await runner.removeSandbox(sandbox);
    return { start: started - began, remove: performance.now() - started };
  };
}

function bridgeChain(folder: string): object {
  return {
    cniVersion: '1.0.0',
    name: 'bench',
    plugins: [
      {
        type: 'bridge',
        bridge: 'cni0',
        isGateway: true,
        ipMasq: true,
        ipam: {
          type: 'host-local',
          dataDir: join(folder, 'host-local'),
          ranges: [[{ subnet: '10.88.0.0/16' }]],
          routes: [{ dst: '0.0.0.0/0' }],
        },
      },
      { type: 'portmap', capabilities: { portMappings: true } },
    ],
  };
}

function containerdRuntime(
  folder: string,
  socket: string,
  prefix: string,
  closing: (() => Promise<void> | void)[],
): Runtime {
  const cri = new CriClient(socket);
  closing.push(() => cri.close());
  let count = 0;
  return async () => {
    const name = `${prefix}-${count++}`;
    const config: Fields = [
      [
        1,
        [
          [1, name],
          [2, `uid-${name}`],
          [3, 'default'],
        ],
      ], // metadata
      [2, name], // hostname
      [3, join(folder, 'logs')], // log_directory
      [8, [[1, PARENT]]], // linux.cgroup_parent
    ];
    const began = performance.now();
    const sandbox = (await cri.call('RunPodSandbox', [[1, config]])).text(1);
    let started = 0;
    try {
      const container = (
        await cri.call('CreateContainer', [
          [1, sandbox],
          [
            2,
            [
              [1, [[1, 'main']]],
              [2, [[1, IMAGE]]],
              [11, 'main.log'],
              [15, []],
            ],
          ],
          [3, config],
        ])
      ).text(1);
      await cri.call('StartContainer', [[1, container]]);
      started = performance.now();
      await cri.call('StopContainer', [
        [1, container],
        [2, 0],
      ]);
      await cri.call('RemoveContainer', [[1, container]]);
    } finally {
      await cri.call('StopPodSandbox', [[1, sandbox]]);
      await cri.call('RemovePodSandbox', [[1, sandbox]]);
    }
    return { start: started - began, remove: performance.now() - started };
  };
}
