/**
 * Runs biome from its package for this CPU. The package `@biomejs/biome` would choose by itself, but it names packages
 * for systems that Portolan is not built on, and `npm ci` refuses a lockfile as soon as a registry lacks one of them.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

const program = join(import.meta.dirname, `../node_modules/@biomejs/cli-linux-${process.arch}/biome`);
const { status, error } = spawnSync(program, process.argv.slice(2), { stdio: 'inherit' });
if (error) console.error(`Cannot run biome: ${error.message}; run "npm ci" first`);
process.exitCode = status ?? 1;
