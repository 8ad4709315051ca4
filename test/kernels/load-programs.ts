/**
 * Gives every program of dist/bpf to the verifier of the kernel that runs, and says how many instructions it looked at.
 * Exits with 1 when one is refused. Nothing is attached.
 *
 *   node test/kernels/try-kernel.ts --package linux-image-6.1.0-56-cloud-amd64 -- node test/kernels/load-programs.ts
 */
import { globSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { loadObject, readObjectFile } from '../../src/kernel/bpf/index.ts';

const folder = new URL('../../dist/bpf/', import.meta.url).pathname;
for (const path of globSync('*.bpf.o', { cwd: folder })
  .sort()
  .map((name) => folder + name)) {
  for (const { name } of readObjectFile(readFileSync(path), basename(path)).programs) {
    try {
      using object = loadObject(path, { programs: [name] });
      console.log(`${name}: ${object.program(name).info().verifiedInstructions} instructions`);
    } catch (error) {
      const lines = (error as Error).message.split('\n');
      console.log(`${name}: refused: ${lines[0]}\n  ${lines.slice(-4).join('\n  ')}`);
      process.exitCode = 1;
    }
  }
}
