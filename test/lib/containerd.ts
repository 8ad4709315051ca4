/** Debian's containerd and runc for one network namespace, on folders of its own, with an image that needs no registry. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Netns } from '../../src/kernel/netns/index.ts';
import { busyboxImage } from './oci-image.ts';

/** What of these and of containerd's own programs is not installed, if any. */
export function containerdMissing(...plugins: string[]): string | undefined {
  const own = ['/usr/bin/containerd', '/usr/bin/ctr', '/usr/sbin/runc', '/bin/busybox'];
  return [...own, ...plugins].find((path) => !existsSync(path));
}

export interface ContainerdOptions {
  /** Made by it, for all that it writes. */
  readonly folder: string;
  readonly netns: Netns;
  /** Name that the busybox image gets; sandboxes run it, too. */
  readonly image: string;
  /** Folders of CNI plugins and of their configuration. */
  readonly binDir: string;
  readonly confDir: string;
}

/** Plugins that want what no node of tests has. */
const OFF = [
  'snapshotter.v1.btrfs',
  'snapshotter.v1.zfs',
  'snapshotter.v1.aufs',
  'snapshotter.v1.devmapper',
  'internal.v1.opt',
  'internal.v1.tracing',
];

/** Starts it and imports the image. The native snapshotter copies, so it works on any file system. */
export async function startContainerd(
  options: ContainerdOptions,
): Promise<{ socket: string; stop: () => Promise<void> }> {
  const { folder, netns, image } = options;
  mkdirSync(folder);
  const socket = join(folder, 'c.sock');
  const config = join(folder, 'config.toml');
  writeFileSync(
    config,
    `version = 2
root = "${folder}/root"
state = "${folder}/state"
disabled_plugins = [${OFF.map((name) => `"io.containerd.${name}"`).join(', ')}]
[grpc]
  address = "${socket}"
[ttrpc]
  address = "${socket}.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${image}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${options.binDir}"
    conf_dir = "${options.confDir}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
`,
  );
  const log = join(folder, 'log');
  const child = spawn(
    'nsenter',
    [`--net=${netns.path}`, 'sh', '-c', `exec /usr/bin/containerd --config ${config} > ${log} 2>&1`],
    { stdio: 'ignore' },
  );
  const exited = once(child, 'exit');
  const stop = async () => {
    child.kill('SIGTERM');
    await exited;
  };
  try {
    for (let tries = 0; ; tries++)
      try {
        execFileSync('ctr', ['-a', socket, 'version'], { stdio: 'ignore', timeout: 2000 });
        break;
      } catch {
        if (tries > 100 || child.exitCode !== null)
          throw new Error(`containerd did not start:\n${readFileSync(log, 'utf8').slice(-2000)}`);
        await sleep(100);
      }
    const archive = busyboxImage(folder, image);
    execFileSync(
      'ctr',
      ['-a', socket, '-n', 'k8s.io', 'image', 'import', '--snapshotter', 'native', archive],
      {
        stdio: 'pipe',
      },
    );
  } catch (error) {
    await stop();
    throw error;
  }
  return { socket, stop };
}
