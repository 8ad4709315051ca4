import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { isNetError } from '../errors/net-error.ts';
import { readConfig } from './config.ts';
import { conflist, installCni, patchShim, uninstallCni } from './install.ts';
import { SUPPORTED_VERSIONS } from './versions.ts';

const binary = Buffer.concat([
  Buffer.from('\x7fELF code'),
  Buffer.from('PORTOLAN-SOCKET\0'),
  Buffer.from([1, 0]),
  Buffer.alloc(108, '/run/portolan/cni.sock\0x'),
  Buffer.from('tail'),
]);

test('patchShim() writes the path over the old one and changes nothing else', () => {
  const patched = Buffer.from(patchShim(binary, '/run/x.sock'));
  assert.equal(patched.length, binary.length);
  const at = binary.indexOf('PORTOLAN-SOCKET') + 18;
  assert.deepEqual(patched.subarray(0, at), binary.subarray(0, at));
  assert.equal(patched.subarray(at, at + 108).toString(), '/run/x.sock'.padEnd(108, '\0'));
  assert.equal(patched.subarray(at + 108).toString(), 'tail');
  assert.ok(patchShim(binary, `/${'a'.repeat(106)}`));
});

test('patchShim() refuses paths that do not fit and binaries that are not ours', () => {
  const refused = (code: string) => (error: unknown) => isNetError(error, code);
  for (const path of [`/${'a'.repeat(107)}`, 'relative', '/a"b', '/a\\b', '/a\nb', '/ü'])
    assert.throws(() => patchShim(binary, path), refused('CNI_SOCKET_FAILED'), path);
  for (const wrong of [Buffer.from('ELF'), Buffer.concat([binary, binary]), binary.subarray(0, 60)])
    assert.throws(() => patchShim(wrong, '/run/x.sock'), refused('CNI_SHIM_UNUSABLE'));
});

test('installCni() puts plugin and configuration in place, and uninstallCni() takes them away', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'portolan-install-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const source = join(folder, 'shim');
  writeFileSync(source, binary);
  const options = {
    binDir: join(folder, 'bin'),
    confDir: join(folder, 'net.d'),
    socketPath: '/run/x.sock',
    source,
  };
  for (let twice = 0; twice < 2; twice++) {
    const made = installCni(options);
    assert.equal(statSync(made.plugin).mode & 0o777, 0o755);
    assert.deepEqual(JSON.parse(readFileSync(made.conflist, 'utf8')), conflist());
    assert.deepEqual(readdirSync(options.confDir), ['10-portolan.conflist']);
  }
  uninstallCni(options);
  uninstallCni(options);
  assert.ok(!existsSync(join(options.binDir, 'portolan-cni')));
  assert.throws(
    () => installCni({ ...options, source: '/none' }),
    (error) => isNetError(error, 'CNI_SHIM_UNUSABLE'),
  );
  assert.throws(
    () => installCni({ ...options, binDir: join(source, 'no-folder') }),
    (error) => isNetError(error, 'CNI_INSTALL_FAILED'),
  );
});

test('our configuration list is one that we accept, in every version it offers', () => {
  const { plugins, ...list } = conflist() as {
    plugins: object[];
    cniVersion: string;
    cniVersions: string[];
    name: string;
  };
  for (const cniVersion of [list.cniVersion, ...list.cniVersions])
    for (const plugin of plugins)
      assert.equal(
        readConfig(Buffer.from(JSON.stringify({ ...plugin, name: list.name, cniVersion })), 'ADD').name,
        'portolan',
      );
});

test('the plugin source answers VERSION with our list of versions', () => {
  const text = readFileSync(join(import.meta.dirname, '../../native/portolan-cni.freestanding.c'), 'utf8');
  const list = JSON.stringify({
    cniVersion: SUPPORTED_VERSIONS.at(-1),
    supportedVersions: SUPPORTED_VERSIONS,
  });
  assert.ok(text.includes(JSON.stringify(list).slice(1, -1)));
});
