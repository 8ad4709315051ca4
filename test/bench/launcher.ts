/** What `./portolan` adds to node itself, and what a start costs. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { distPath } from '../../src/kernel/paths.ts';
import { type AreaOptions, atMost, type Figure } from './figure.ts';
import { medians } from './measure.ts';

export async function benchLauncher({ quick }: AreaOptions): Promise<Figure[]> {
  const root = join(import.meta.dirname, '../..');
  const bundle = distPath('portolan.js');
  const run =
    (file: string, ...args: string[]) =>
    () =>
      execFileSync(file, args, { stdio: 'ignore' });
  const [launched, plain, empty] = await medians(quick ? 9 : 31, [
    run(join(root, 'portolan'), '--version'),
    run(process.execPath, '--disable-warning=ExperimentalWarning', bundle, '--version'),
    run(process.execPath, '-e', '0'),
  ]);
  return [
    {
      name: './portolan --version, more than node with the same bundle',
      value: launched! - plain!,
      unit: 'ms',
      budget: atMost(launched! - plain!, 10, 'ms'),
    },
    {
      name: './portolan --version',
      value: launched!,
      unit: 'ms',
      baseline: { name: 'node dist/portolan.js --version', value: plain! },
    },
    {
      name: 'node dist/portolan.js --version',
      value: plain!,
      unit: 'ms',
      baseline: { name: 'node -e 0', value: empty! },
    },
  ];
}
