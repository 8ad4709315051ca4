/**
 * Runs a command under a kernel of Debian, in QEMU without KVM: this machine's own files read-only below an overlay
 * in memory, so that the command finds Node, the sources and all tools where they are here.
 *
 *   node test/kernels/try-kernel.ts --package linux-image-6.1.0-56-cloud-amd64 -- node --test test/netns/netns.test.ts
 *
 * Needs root, qemu-system-x86 with virtiofsd, and busybox-static. The package is fetched once, into the cache folder.
 * Emulation is 10 to 30 times slower than the machine: for what works, never for how fast.
 */
import { execFileSync, spawn } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { parseArgs } from 'node:util';

const BUSYBOX = '/bin/busybox';
const QEMU = '/usr/bin/qemu-system-x86_64';
const VIRTIOFSD = '/usr/lib/qemu/virtiofsd';
/** What the first file system of the guest needs; everything else is loaded from the shared one when it is asked for. */
const BOOT_MODULES = ['virtio_pci', 'virtiofs', 'overlay'];

const { values: options, positionals: command } = parseArgs({
  allowPositionals: true,
  options: {
    package: { type: 'string' },
    /** MiB. */
    memory: { type: 'string', default: '1536' },
    /** Seconds until the guest is ended. */
    limit: { type: 'string', default: '600' },
    help: { type: 'boolean', short: 'h', default: false },
  },
});
if (options.help || !options.package || command.length === 0) {
  console.log(
    'usage: node test/kernels/try-kernel.ts --package NAME [--memory MIB] [--limit SECONDS] -- COMMAND...',
  );
  process.exit(options.help ? 0 : 2);
}

for (const [path, from] of [
  [QEMU, 'qemu-system-x86'],
  [VIRTIOFSD, 'qemu-system-common'],
  [BUSYBOX, 'busybox-static'],
] as const)
  if (!existsSync(path)) {
    console.error(`Cannot boot a kernel: "${path}" is missing. Install it with "apt-get install ${from}"`);
    process.exit(1);
  }

interface Kernel {
  readonly image: string;
  readonly version: string;
  /** Folder with lib/modules. */
  readonly root: string;
}

/** Unpacks a kernel package below the cache folder, once. */
function fetchKernel(name: string): Kernel {
  const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'portolan/kernels');
  const root = join(cache, name);
  if (!existsSync(root)) {
    mkdirSync(cache, { recursive: true });
    const work = mkdtempSync(join(cache, 'fetch-'));
    try {
      // apt drops its privileges for downloads and must be able to write here.
      if (process.getuid?.() === 0) execFileSync('chown', ['_apt', work]);
      execFileSync('apt-get', ['download', name], { cwd: work, stdio: ['ignore', 'ignore', 'inherit'] });
      const [deb] = globSync('*.deb', { cwd: work });
      execFileSync('dpkg-deb', ['-x', deb!, join(work, 'root')], { cwd: work });
      const [version] = readdirSync(join(work, 'root/lib/modules'));
      execFileSync(BUSYBOX, ['depmod', '-b', join(work, 'root'), version!]);
      renameSync(join(work, 'root'), root);
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  }
  const [version] = readdirSync(join(root, 'lib/modules'));
  return { root, version: version!, image: join(root, `boot/vmlinuz-${version}`) };
}

/** A module and what it needs, in the order of loading: modules.dep. */
function moduleFiles(kernel: Kernel, names: readonly string[]): string[] {
  const folder = join('lib/modules', kernel.version);
  const needs = new Map<string, string[]>();
  const paths = new Map<string, string>();
  for (const line of readFileSync(join(kernel.root, folder, 'modules.dep'), 'utf8')
    .trim()
    .split('\n')) {
    const [file, rest = ''] = line.split(':');
    needs.set(file!, rest.trim().split(/\s+/).filter(Boolean));
    paths.set(
      basename(file!)
        .replace(/\.ko.*$/, '')
        .replaceAll('-', '_'),
      file!,
    );
  }
  const order: string[] = [];
  const add = (file: string) => {
    if (order.includes(file)) return;
    for (const need of needs.get(file) ?? []) add(need);
    order.push(file);
  };
  for (const name of names) {
    const file = paths.get(name);
    if (file) add(file); // else it is built in
  }
  return order.map((file) => (file.startsWith('lib/') ? file : join(folder, file)));
}

function quote(words: readonly string[]): string {
  return words.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(' ');
}

/** Where the guest has empty folders; sources that are below /tmp have to be seen there. */
function memoryFolders(): string[] {
  return process.cwd().startsWith('/tmp/') ? ['run'] : ['run', 'tmp'];
}

/** First process of the guest: mounts, then the command, then power off. */
function initScript(kernel: Kernel, modules: readonly string[]): string {
  const path = `${dirname(process.execPath)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`;
  return `#!/bin/sh
export PATH=/bin
mkdir -p /proc /sys /dev /host /memory /root
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
${modules.map((file) => `insmod /${file}`).join('\n')}
mount -t virtiofs -o ro host /host
mount -t tmpfs -o size=75% memory /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work root /root || exec poweroff -f
for folder in proc sys dev; do mount --move /$folder /root/$folder; done
for folder in ${memoryFolders().join(' ')}; do mount -t tmpfs tmpfs /root/$folder; done
mkdir -p /root/run/netns
mount -t cgroup2 cgroup /root/sys/fs/cgroup
mount -t bpf bpf /root/sys/fs/bpf
rm -rf /lib/modules; ln -s /host${kernel.root}/lib/modules /lib/modules
echo /bin/modprobe > /root/proc/sys/kernel/modprobe
cat > /root/run/job <<'JOB'
export PATH=${path} HOME=${homedir()}
ip link set lo up
cd ${quote([process.cwd()])}
echo "== $(uname -r), up $(cut -d' ' -f1 /proc/uptime) s"
${quote(command)}
echo "== exit $?, up $(cut -d' ' -f1 /proc/uptime) s"
JOB
chroot /root /bin/sh /run/job </root/dev/null 2>&1
sync
poweroff -f
`;
}

/** Packs the first file system: busybox, boot modules, the script. */
function makeInitramfs(kernel: Kernel, work: string): string {
  const folder = join(work, 'initramfs');
  mkdirSync(join(folder, 'bin'), { recursive: true });
  copyFileSync(BUSYBOX, join(folder, 'bin/busybox'));
  // The kernel starts modprobe in this file system, not in the one of the command.
  for (const tool of [
    'sh',
    'mount',
    'mkdir',
    'insmod',
    'modprobe',
    'ln',
    'rm',
    'cat',
    'chroot',
    'sync',
    'poweroff',
  ])
    symlinkSync('busybox', join(folder, 'bin', tool));
  const modules = moduleFiles(kernel, BOOT_MODULES);
  for (const file of modules) {
    mkdirSync(join(folder, dirname(file)), { recursive: true });
    copyFileSync(join(kernel.root, file), join(folder, file));
  }
  writeFileSync(join(folder, 'init'), initScript(kernel, modules));
  chmodSync(join(folder, 'init'), 0o755);
  const names = execFileSync(BUSYBOX, ['find', '.'], { cwd: folder });
  const archive = execFileSync(BUSYBOX, ['cpio', '-o', '-H', 'newc'], {
    cwd: folder,
    input: names,
    maxBuffer: 256 << 20,
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  const path = join(work, 'initramfs.cpio');
  writeFileSync(path, archive);
  return path;
}

const work = mkdtempSync(join(tmpdir(), 'portolan-kernel-'));
try {
  const kernel = fetchKernel(options.package);
  const initramfs = makeInitramfs(kernel, work);
  const socket = join(work, 'virtiofs');
  const files = spawn(
    VIRTIOFSD,
    [
      `--socket-path=${socket}`,
      '-o',
      'source=/',
      '-o',
      'cache=always',
      '-o',
      'sandbox=chroot',
      '-o',
      'log_level=err',
      '-f',
    ],
    {
      stdio: ['ignore', 'ignore', 'inherit'],
    },
  );
  for (let tries = 0; !existsSync(socket) && tries < 100; tries++)
    await new Promise((resolve) => setTimeout(resolve, 50));
  const machine = spawn(
    QEMU,
    [
      ...['-accel', 'tcg', '-cpu', 'max', '-smp', '1', '-m', options.memory, '-nographic', '-no-reboot'],
      ...['-object', `memory-backend-memfd,id=mem,size=${options.memory}M,share=on`],
      ...['-machine', 'q35,memory-backend=mem', '-nic', 'none', '-monitor', 'none', '-serial', 'stdio'],
      ...['-chardev', `socket,id=files,path=${socket}`],
      ...['-device', 'vhost-user-fs-pci,chardev=files,tag=host'],
      ...['-kernel', kernel.image, '-initrd', initramfs],
      ...['-append', 'console=ttyS0 quiet panic=-1 mitigations=off systemd.unified_cgroup_hierarchy=1'],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const stop = () => machine.kill('SIGKILL');
  process.once('SIGINT', stop).once('SIGTERM', stop);
  const limit = setTimeout(stop, Number(options.limit) * 1000);
  let exit: number | undefined;
  let rest = '';
  machine.stdout.setEncoding('utf8').on('data', (text: string) => {
    process.stdout.write(text.replaceAll('\r', ''));
    const lines = (rest + text).split('\n');
    rest = lines.pop()!;
    for (const line of lines) {
      const ended = /^== exit (\d+),/.exec(line);
      if (ended) exit = Number(ended[1]);
    }
  });
  await new Promise((resolve) => machine.once('close', resolve));
  clearTimeout(limit);
  files.kill();
  if (exit === undefined) console.error(`the guest ended without a result within ${options.limit} s`);
  process.exitCode = exit ?? 124;
} finally {
  rmSync(work, { recursive: true, force: true });
}
