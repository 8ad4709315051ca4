/** Makes an OCI image archive of Debian's static busybox, so that a runtime can start containers without a registry. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Writes `<folder>/image.tar`, importable by `ctr image import`; the container sleeps unless told otherwise. */
export function busyboxImage(folder: string, name: string): string {
  const root = join(folder, 'rootfs');
  const image = join(folder, 'image');
  for (const path of ['bin', 'etc', 'proc', 'sys', 'dev', 'tmp', 'run'])
    mkdirSync(join(root, path), { recursive: true });
  copyFileSync('/bin/busybox', join(root, 'bin/busybox'));
  for (const applet of ['sh', 'sleep', 'ip', 'ping', 'cat', 'nc', 'wget'])
    symlinkSync('busybox', join(root, 'bin', applet));
  mkdirSync(join(image, 'blobs/sha256'), { recursive: true });
  const layerPath = join(folder, 'layer.tar');
  execFileSync('tar', ['--numeric-owner', '--owner=0', '--group=0', '-C', root, '-cf', layerPath, '.']);
  const blob = (content: Uint8Array | string) => {
    const digest = createHash('sha256').update(content).digest('hex');
    writeFileSync(join(image, 'blobs/sha256', digest), content);
    return { digest: `sha256:${digest}`, size: Buffer.byteLength(content) };
  };
  const layer = blob(readFileSync(layerPath));
  const config = blob(
    JSON.stringify({
      architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
      os: 'linux',
      config: { Entrypoint: ['/bin/sleep', '100000'], Env: ['PATH=/bin'] },
      rootfs: { type: 'layers', diff_ids: [layer.digest] },
    }),
  );
  const media = (kind: string) => `application/vnd.oci.image.${kind}`;
  const manifest = blob(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: media('manifest.v1+json'),
      config: { mediaType: media('config.v1+json'), ...config },
      layers: [{ mediaType: media('layer.v1.tar'), ...layer }],
    }),
  );
  writeFileSync(join(image, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(
    join(image, 'index.json'),
    JSON.stringify({
      schemaVersion: 2,
      manifests: [
        {
          mediaType: media('manifest.v1+json'),
          ...manifest,
          annotations: { 'io.containerd.image.name': name, 'org.opencontainers.image.ref.name': 'test' },
        },
      ],
    }),
  );
  const archive = join(folder, 'image.tar');
  execFileSync('tar', ['-C', image, '-cf', archive, '.']);
  for (const path of [root, image, layerPath]) rmSync(path, { recursive: true });
  return archive;
}
