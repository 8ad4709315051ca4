/** How soon each owner of nftables rules has put right what somebody did with nft(8). */
import { execFileSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { createNetns, deleteNetns } from '../../src/kernel/netns/index.ts';
import { NftRuleset, type NftTableName } from '../../src/kernel/nft/index.ts';
import { nftOwners } from '../lib/nft-owners.ts';
import { atMost, type Figure, median, quantile } from './figure.ts';

const SHARED = 'ip portolan';
const EDITS: Readonly<Record<string, string>> = {
  'deleted table of masquerade, guard and policies': `delete table ${SHARED}`,
  'deleted table of Services': 'delete table ip portolan-services',
  'rule before masquerade': `insert rule ${SHARED} overlay_postrouting accept`,
  'guard without rules': `flush chain ${SHARED} overlay_input`,
  'rule before those of a policy': `insert rule ${SHARED} policy_in/x/web accept`,
  'Service rule that is gone': 'flush chain ip portolan-services services',
};

const TABLES = (['ip', 'ip6'] as const).flatMap((family): NftTableName[] =>
  ['portolan', 'portolan-services'].map((table) => ({ family, table })),
);

/** What there is, apart from handles and counters. */
function looks(ruleset: NftRuleset): string {
  return TABLES.flatMap((place) => [
    ...ruleset.chains(place).map(({ name, hook }) => `${name} ${hook?.policy}`),
    ...ruleset.rules(place).map(({ chain, comment, expressions }) => `${chain} ${comment} ${expressions}`),
    ...ruleset.sets(place).map(({ name }) => name),
  ])
    .sort()
    .join('\n');
}

export async function benchNftRepair(rounds: number): Promise<Figure[]> {
  const name = `pt-bench-nr${process.pid}`;
  using netns = createNetns(name);
  try {
    await using _owners = await nftOwners(netns);
    using ruleset = NftRuleset.open({ netns });
    const want = looks(ruleset);
    const figures: Figure[] = [];
    for (const [what, command] of Object.entries(EDITS)) {
      const times: number[] = [];
      for (let round = 0; round < rounds; round++) {
        execFileSync('ip', ['netns', 'exec', name, 'nft', ...command.split(' ')]);
        const began = performance.now();
        do {
          await sleep(1);
          if (performance.now() - began > 10_000) throw new Error(`${what}: is not put right`);
        } while (looks(ruleset) !== want);
        times.push(performance.now() - began);
        // More than 30 repairs in a second are slowed down on purpose.
        await sleep(120);
      }
      const worst = quantile(times, 1);
      figures.push(
        { name: `${what}: put right, median of ${rounds}`, value: median(times), unit: 'ms' },
        { name: `${what}: put right, worst`, value: worst, unit: 'ms', budget: atMost(worst, 200, 'ms') },
      );
    }
    return figures;
  } finally {
    deleteNetns(name);
  }
}
