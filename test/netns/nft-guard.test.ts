import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import test from 'node:test';
import { promisify } from 'node:util';
import { createNetns, deleteNetns } from '../../src/kernel/netns/index.ts';
import { NftGuard, type NftPart } from '../../src/kernel/nft/index.ts';

const run = promisify(execFile);
const name = `pt-guard-${process.pid}`;

const nft = (...args: string[]) => run('nsenter', [`--net=/run/netns/${name}`, 'nft', ...args]);

/** Whether the chain is there, as nft(8) says. */
async function hasChain(chain: string): Promise<boolean> {
  const { stdout } = await nft('-j', 'list', 'chains');
  const { nftables } = JSON.parse(stdout) as { nftables: { chain?: { name: string } }[] };
  return nftables.some((object) => object.chain?.name === chain);
}

test('a part that somebody deleted while it was written is not taken for how it should be', async () => {
  // Two owners of one table wrote at once while a person deleted it: the guard read the table back after the
  // deletion, kept "nothing" as the picture to compare with, and never made the part again.
  using netns = createNetns(name);
  const guard = new NftGuard({ netns });
  const part: NftPart = {
    family: 'ip',
    table: 'portolan',
    prefix: 'one_',
    script: [
      'add table ip portolan',
      'add chain ip portolan one_chain',
      'flush chain ip portolan one_chain',
      'delete chain ip portolan one_chain',
      'add chain ip portolan one_chain { type filter hook input priority 0; policy accept; }',
      'add rule ip portolan one_chain counter',
      '',
    ].join('\n'),
  };
  try {
    for (let round = 0; round < 5; round++) {
      const deleting = (async () => {
        for (let times = 0; times < 8; times++)
          await nft('delete', 'table', 'ip', 'portolan').catch(() => {});
      })();
      await Promise.all([guard.ensure(part), deleting]);
      await guard.ensure(part);
      assert.ok(await hasChain('one_chain'), `round ${round}`);
    }
    assert.equal(await guard.ensure(part), false);
  } finally {
    guard.close();
    deleteNetns(name);
  }
});
