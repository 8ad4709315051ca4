import { readFileSync } from 'node:fs';
import { Btf, KIND } from './btf.ts';

const PATH = '/sys/kernel/btf/vmlinux';
/** null: there is none. Asked while programs are loaded, and not again: 6 MiB that nobody uses are let go. */
let kernel: WeakRef<Btf> | null | undefined;

/** The kernel's own type information, read when it is asked for; undefined without CONFIG_DEBUG_INFO_BTF. */
export function kernelBtf(): Btf | undefined {
  if (kernel === null) return undefined;
  const known = kernel?.deref();
  if (known) return known;
  try {
    const read = new Btf(readFileSync(PATH), PATH);
    kernel = new WeakRef(read);
    return read;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    kernel = null;
    return undefined;
  }
}

/** Type id of a function, typedef or variable in the kernel, as attaching and kfunc calls want it. */
export function kernelTypeId(name: string, what: 'function' | 'typedef' | 'variable'): number | undefined {
  const kind = { function: KIND.FUNC, typedef: KIND.TYPEDEF, variable: KIND.VAR }[what];
  return kernelBtf()?.find(name, kind)?.id;
}
