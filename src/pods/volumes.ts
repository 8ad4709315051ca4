/**
 * The volumes of a pod on disk, below <volumes>/<pod uid>/<volume name>/.
 *
 * A configMap volume is replaced as a whole, as kubelet does it: a reader sees the old files or the new ones.
 *
 *   ..af63bd4c8601b7df/key    the files; the name is a hash of them
 *   ..data -> ..af63bd4c8601b7df
 *   key -> ..data/key
 */
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { podsError } from '../errors/index.ts';
import type { ConfigMap, Container, Pod, PodSpec } from '../model/kubernetes.ts';
import { quantityValue } from './quantity.ts';
import type { ContainerMount, SandboxConfig } from './types.ts';

type Volume = NonNullable<PodSpec['volumes']>[number];

/** Volumes that the sandbox holds in memory: emptyDir with medium Memory. */
export function memoryVolumes(pod: Pod): SandboxConfig['memoryVolumes'] {
  return (pod.spec.volumes ?? []).filter(isMemory).map((volume) => {
    const size = volume.emptyDir?.sizeLimit;
    return size === undefined
      ? { name: volume.name }
      : { name: volume.name, sizeBytes: Math.ceil(quantityValue(size)) };
  });
}

const isMemory = (volume: Volume) => volume.emptyDir?.medium === 'Memory';

/**
 * Which files a configMap volume has: path in the volume to content and mode. Pure.
 * Throws PODS_VOLUME_MISSING when the map or a key is missing and not optional, and for a path that leads outside.
 */
export function configMapFiles(
  volume: Volume,
  map: ConfigMap | undefined,
): { path: string; content: Buffer; mode: number }[] {
  const source = volume.configMap!;
  if (!map) {
    if (source.optional) return [];
    throw podsError('PODS_VOLUME_MISSING', {
      volume: volume.name,
      why: `configmap "${source.name}" not found`,
    });
  }
  const content = (key: string) => {
    const text = map.data?.[key];
    if (text !== undefined) return Buffer.from(text);
    const binary = map.binaryData?.[key];
    return binary === undefined ? undefined : Buffer.from(binary, 'base64');
  };
  const defaultMode = source.defaultMode ?? 0o644;
  const keys = [...Object.keys(map.data ?? {}), ...Object.keys(map.binaryData ?? {})];
  const items: { key: string; path: string; mode?: number }[] =
    source.items ?? keys.map((key) => ({ key, path: key }));
  return items.flatMap((item) => {
    const data = content(item.key);
    if (posix.isAbsolute(item.path) || item.path.split('/').includes('..'))
      throw podsError('PODS_VOLUME_MISSING', {
        volume: volume.name,
        why: `path "${item.path}" leads outside`,
      });
    if (data) return [{ path: item.path, content: data, mode: item.mode ?? defaultMode }];
    if (source.optional) return [];
    throw podsError('PODS_VOLUME_MISSING', {
      volume: volume.name,
      why: `configmap "${source.name}" has no key "${item.key}"`,
    });
  });
}

/** Makes or refreshes what is on disk; repeating it changes nothing that is right already. */
export function prepareVolumes(
  folder: string,
  pod: Pod,
  configMap: (name: string) => ConfigMap | undefined,
): void {
  const fsGroup = pod.spec.securityContext?.fsGroup;
  for (const volume of pod.spec.volumes ?? []) {
    const path = join(folder, volume.name);
    if (volume.emptyDir) {
      if (isMemory(volume) || existsSync(path)) continue;
      mkdirSync(path, { recursive: true });
      if (fsGroup !== undefined) chownSync(path, 0, fsGroup);
      chmodSync(path, fsGroup === undefined ? 0o777 : 0o2777);
    } else if (volume.configMap) {
      writeAtomicFolder(path, configMapFiles(volume, configMap(volume.configMap.name ?? '')));
    } else if (volume.hostPath) {
      prepareHostPath(volume);
    } else {
      throw podsError('PODS_VOLUME_UNSUPPORTED', { volume: volume.name });
    }
  }
}

function prepareHostPath(volume: Volume): void {
  const { path, type = '' } = volume.hostPath!;
  if (type === 'DirectoryOrCreate' && !existsSync(path)) mkdirSync(path, { recursive: true, mode: 0o755 });
  if (type === 'FileOrCreate' && !existsSync(path)) writeFileSync(path, '', { mode: 0o644 });
  const why = hostPathFault(path, type);
  if (why) throw podsError('PODS_VOLUME_MISSING', { volume: volume.name, why: `host path "${path}" ${why}` });
}

function hostPathFault(path: string, type: string): string | undefined {
  if (!existsSync(path)) return 'does not exist';
  const found = statSync(path);
  const checks: Record<string, boolean> = {
    '': true,
    Directory: found.isDirectory(),
    DirectoryOrCreate: found.isDirectory(),
    File: found.isFile(),
    FileOrCreate: found.isFile(),
    Socket: found.isSocket(),
    CharDevice: found.isCharacterDevice(),
    BlockDevice: found.isBlockDevice(),
  };
  return checks[type] ? undefined : `is not of type "${type}"`;
}

function writeAtomicFolder(folder: string, files: { path: string; content: Buffer; mode: number }[]): void {
  mkdirSync(folder, { recursive: true, mode: 0o755 });
  const data = join(folder, '..data');
  const current = existsSync(data) ? readlinkSync(data) : undefined;
  const fingerprint = JSON.stringify(
    files.map((file) => [file.path, file.mode, file.content.toString('base64')]),
  );
  const stamp = `..${hash(fingerprint)}`;
  if (current !== stamp) {
    for (const file of files) {
      const path = join(folder, stamp, file.path);
      mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
      writeFileSync(path, file.content);
      chmodSync(path, file.mode);
    }
    mkdirSync(join(folder, stamp), { recursive: true, mode: 0o755 });
    rmSync(`${data}.new`, { force: true });
    symlinkSync(stamp, `${data}.new`);
    renameSync(`${data}.new`, data);
  }
  const wanted = new Set(files.map((file) => file.path.split('/')[0]!));
  for (const name of wanted)
    if (!isLink(join(folder, name))) symlinkSync(join('..data', name), join(folder, name));
  for (const name of readdirSync(folder)) {
    if (name === '..data' || name === stamp || wanted.has(name)) continue;
    rmSync(join(folder, name), { recursive: true, force: true });
  }
}

function isLink(path: string): boolean {
  try {
    readlinkSync(path);
    return true;
  } catch {
    return false;
  }
}

/** FNV-1a, 64 bits: only tells one content of a folder from another. */
function hash(text: string): string {
  let value = 0xcbf29ce484222325n;
  for (const byte of Buffer.from(text))
    value = ((value ^ BigInt(byte)) * 0x100000001b3n) & 0xffffffffffffffffn;
  return value.toString(16).padStart(16, '0');
}

/** Where the volumes of a container come from. Throws PODS_VOLUME_MISSING for a mount of no volume. */
export function containerMounts(folder: string, pod: Pod, container: Container): ContainerMount[] {
  return (container.volumeMounts ?? []).map((mount) => {
    const volume = pod.spec.volumes?.find((one) => one.name === mount.name);
    if (!volume)
      throw podsError('PODS_VOLUME_MISSING', {
        volume: mount.name,
        why: 'the pod has no volume of that name',
      });
    const subPath = mount.subPath ?? '';
    if (posix.isAbsolute(subPath) || subPath.split('/').includes('..'))
      throw podsError('PODS_VOLUME_MISSING', {
        volume: mount.name,
        why: `subPath "${subPath}" leads outside`,
      });
    const readonly = mount.readOnly === true || volume.configMap !== undefined;
    if (isMemory(volume))
      return {
        source: { memoryVolume: volume.name, ...(subPath && { subPath }) },
        containerPath: mount.mountPath,
        readonly,
      };
    const base = volume.hostPath ? volume.hostPath.path : join(folder, volume.name);
    const hostPath = subPath ? join(base, subPath) : base;
    if (subPath && volume.emptyDir) mkdirSync(hostPath, { recursive: true, mode: 0o777 });
    return { source: { hostPath }, containerPath: mount.mountPath, readonly };
  });
}
