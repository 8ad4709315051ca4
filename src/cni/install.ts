import { chmodSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cniError } from '../errors/cni.ts';
import { distPath } from '../kernel/paths.ts';

export const PLUGIN_NAME = 'portolan-cni';
export const CONFLIST_NAME = '10-portolan.conflist';

export interface InstallOptions {
  /** Where runtimes look for plugins; default /opt/cni/bin. */
  readonly binDir?: string;
  /** Where runtimes look for networks; default /etc/cni/net.d. */
  readonly confDir?: string;
  /** The agent's socket that the plugin is to call. */
  readonly socketPath: string;
  /** Name of the network; default `portolan`. */
  readonly network?: string;
  /** The built plugin; default dist/native/portolan-cni. */
  readonly source?: string;
}

/** Where in the plugin binary the path of the agent's socket is: behind this marker and a struct's family field. */
const MARKER = Buffer.from('PORTOLAN-SOCKET\0');
const FAMILY_BYTES = 2;
/** sun_path of struct sockaddr_un */
const PATH_BYTES = 108;

/** The plugin binary with another socket path written into it. Pure. Throws CNI_SHIM_UNUSABLE, CNI_SOCKET_FAILED. */
export function patchShim(binary: Uint8Array, socketPath: string, source = PLUGIN_NAME): Uint8Array {
  const patched = Buffer.from(binary);
  const at = patched.indexOf(MARKER);
  if (
    at < 0 ||
    patched.indexOf(MARKER, at + 1) >= 0 ||
    at + MARKER.length + FAMILY_BYTES + PATH_BYTES > patched.length
  )
    throw cniError('CNI_SHIM_UNUSABLE', { path: source, why: 'it has no single place for a socket path' });
  const path = Buffer.from(`${socketPath}\0`);
  if (path.length > PATH_BYTES)
    throw cniError('CNI_SOCKET_FAILED', { path: socketPath, why: 'it is longer than 107 bytes' });
  // The plugin prints the path inside a JSON text as it is.
  if (!/^\/[\x20-\x7e]*$/.test(socketPath) || /["\\]/.test(socketPath))
    throw cniError('CNI_SOCKET_FAILED', {
      path: socketPath,
      why: 'want an absolute path of printable ASCII without quotes and backslashes',
    });
  patched.fill(0, at + MARKER.length + FAMILY_BYTES, at + MARKER.length + FAMILY_BYTES + PATH_BYTES);
  path.copy(patched, at + MARKER.length + FAMILY_BYTES);
  return patched;
}

/**
 * The network configuration list. `cniVersion` is the newest that runtimes before CNI 1.1 know; newer ones take the
 * highest of `cniVersions`. Only capabilities that the plugin honours are declared, or a runtime would believe that
 * its host ports are served.
 */
export function conflist(network = 'portolan'): object {
  return {
    cniVersion: '1.0.0',
    cniVersions: ['0.4.0', '1.0.0', '1.1.0'],
    name: network,
    plugins: [{ type: PLUGIN_NAME, capabilities: { ips: true, dns: true, portMappings: true } }],
  };
}

/**
 * Puts the plugin and its configuration where runtimes find them; each appears as a whole or not at all. The
 * configuration comes last: a runtime that sees it must find the plugin. Throws CNI_SHIM_UNUSABLE, CNI_INSTALL_FAILED.
 */
export function installCni(options: InstallOptions): { plugin: string; conflist: string } {
  const { binDir = '/opt/cni/bin', confDir = '/etc/cni/net.d', socketPath } = options;
  const source = options.source ?? distPath(`native/${PLUGIN_NAME}`);
  let binary: Uint8Array;
  try {
    binary = readFileSync(source);
  } catch (error) {
    throw cniError('CNI_SHIM_UNUSABLE', { path: source, why: 'it has not been built' }, error);
  }
  const plugin = join(binDir, PLUGIN_NAME);
  const config = join(confDir, CONFLIST_NAME);
  writeWhole(binDir, plugin, patchShim(binary, socketPath, source), 0o755);
  writeWhole(confDir, config, `${JSON.stringify(conflist(options.network), null, 2)}\n`, 0o644);
  return { plugin, conflist: config };
}

/** Takes both away again, the configuration first; absent is success. */
export function uninstallCni({
  binDir = '/opt/cni/bin',
  confDir = '/etc/cni/net.d',
}: Partial<InstallOptions> = {}): void {
  for (const path of [join(confDir, CONFLIST_NAME), join(binDir, PLUGIN_NAME)]) rmSync(path, { force: true });
}

function writeWhole(folder: string, path: string, content: string | Uint8Array, mode: number): void {
  // A leading dot: runtimes list the configuration folder at any moment, and take names by their ending.
  const temporary = join(folder, `.${process.pid}.portolan.tmp`);
  const failed = (error: unknown) =>
    cniError('CNI_INSTALL_FAILED', { path, why: (error as Error).message }, error);
  try {
    mkdirSync(folder, { recursive: true, mode: 0o755 });
  } catch (error) {
    throw failed(error);
  }
  try {
    writeFileSync(temporary, content, { mode });
    chmodSync(temporary, mode);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw failed(error);
  }
}
