import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));

/** The folder of built artefacts: the addon, the CNI shim, BPF objects. The bundle lies in it, sources beside it. */
export const distFolder = existsSync(join(here, 'native')) ? here : join(here, '../../dist');

/** Path of one built artefact, e.g. `distPath('bpf/lb_socket.bpf.o')`. */
export function distPath(relative: string): string {
  return join(distFolder, relative);
}
