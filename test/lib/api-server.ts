/** The embedded API server inside a test's process. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { type ApiServer, startApiServer } from '../../src/apiserver/index.ts';

export interface FileServer {
  /** Folder for the tests of this file; the server's own is `data` below it. */
  readonly directory: string;
  /** Of the admin. */
  readonly kubeconfig: string;
}

/**
 * Starts a server before the tests of a file and removes it with its folder after them: TLS on a free port of
 * loopback, both families of Services.
 */
export function serverForFile(name: string): FileServer {
  const directory = mkdtempSync(join(tmpdir(), `portolan-${name}-`));
  let server: ApiServer | undefined;
  before(async () => {
    server = await startApiServer({
      dataDir: join(directory, 'data'),
      listen: [{ host: '127.0.0.1', port: 0 }],
      serviceCidrs: ['10.96.0.0/16', 'fd00:10:96::/112'],
      clusterCidrs: ['10.244.0.0/16'],
    });
  });
  after(async () => {
    await server?.close();
    rmSync(directory, { recursive: true, force: true });
  });
  return { directory, kubeconfig: join(directory, 'data/admin.kubeconfig') };
}
