import { readFileSync } from 'node:fs';
import { Btf, KIND } from './btf.ts';

const PATH = '/sys/kernel/btf/vmlinux';
let kernel: Btf | null | undefined;

/** The kernel's own type information, read at first use; undefined without CONFIG_DEBUG_INFO_BTF. */
export function kernelBtf(): Btf | undefined {
  if (kernel === undefined) {
    try {
      kernel = new Btf(readFileSync(PATH), PATH);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      kernel = null;
    }
  }
  return kernel ?? undefined;
}

/** Type id of a function, typedef or variable in the kernel, as attaching and kfunc calls want it. */
export function kernelTypeId(name: string, what: 'function' | 'typedef' | 'variable'): number | undefined {
  const kind = { function: KIND.FUNC, typedef: KIND.TYPEDEF, variable: KIND.VAR }[what];
  return kernelBtf()?.find(name, kind)?.id;
}
