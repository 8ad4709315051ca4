/** Whoever keeps nftables rules puts them right again, whatever somebody else did to them with nft(8). */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import test, { after, before } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { createNetns, deleteNetns, type Netns } from '../../src/kernel/netns/index.ts';
import { listingOf } from '../lib/nft-listing.ts';
import { nftOwners } from '../lib/nft-owners.ts';

/** Five times what is promised (200 ms), for a machine under load; `npm run bench -- overlay` measures. */
const LIMIT_MS = 1000;
const NAME = `pt-rep-${process.pid}`;
const run = promisify(execFile);
const nft = async (...args: string[]) => (await run('ip', ['netns', 'exec', NAME, 'nft', ...args])).stdout;

const listing = async () => listingOf(await nft('-s', 'list', 'ruleset'));

let netns: Netns;
let owners: AsyncDisposable;
let want: string;
before(async () => {
  netns = createNetns(NAME);
  owners = await nftOwners(netns);
  want = await listing();
  for (const name of ['overlay_postrouting', 'overlay_peers', 'service_postrouting', 'policy_', 'vips'])
    assert.ok(want.includes(name), name);
});
after(async () => {
  await owners?.[Symbol.asyncDispose]();
  netns?.close();
  deleteNetns(NAME);
});

const P = ['ip', 'portolan'];
const S = ['ip', 'portolan-services'];
const EDITS: Readonly<Record<string, readonly string[]>> = {
  'the table of masquerade, guard and policies is deleted': ['delete', 'table', ...P],
  'its IPv6 sister is deleted': ['delete', 'table', 'ip6', 'portolan'],
  'the table of Services is deleted': ['delete', 'table', ...S],
  'everything is flushed': ['flush', 'ruleset'],
  'the shared table sleeps': ['add', 'table', ...P, '{ flags dormant; }'],
  'the table of Services sleeps': ['add', 'table', ...S, '{ flags dormant; }'],
  'masquerade loses its rules': ['flush', 'chain', ...P, 'overlay_postrouting'],
  'a rule stands before masquerade': ['insert', 'rule', ...P, 'overlay_postrouting', 'accept'],
  'the masquerade of Services loses its rule': ['flush', 'chain', ...P, 'service_postrouting'],
  'the guard of the tunnel has another policy': ['chain', ...P, 'overlay_input', '{ policy drop; }'],
  'a stranger is a peer': ['add', 'element', ...P, 'overlay_peers', '{ 203.0.113.9 }'],
  'a peer is none': ['delete', 'element', ...P, 'overlay_peers', '{ 192.0.2.2 }'],
  'a policy lets all in': ['insert', 'rule', ...P, 'policy_in/x/web', 'accept'],
  'policies lose a chain': ['flush', 'chain', ...P, 'policy_in/x/web'],
  'policies drop what they do not know': ['chain', ...P, 'policy_forward', '{ policy drop; }'],
  'a Service is gone': ['flush', 'map', ...S, 'vips'],
  'a rule stands before Services': ['insert', 'rule', ...S, 'services', 'drop'],
  'Services drop what is none': ['chain', ...S, 'forward', '{ policy drop; }'],
};

for (const [what, command] of Object.entries(EDITS))
  test(`${what}: put right soon`, async () => {
    await nft(...command);
    const began = performance.now();
    let now = await listing();
    while (now !== want && performance.now() - began < 5 * LIMIT_MS) {
      await sleep(5);
      now = await listing();
    }
    const took = performance.now() - began;
    assert.equal(now, want);
    assert.ok(took < LIMIT_MS, `took ${took} ms`);
    // More than 30 repairs in a second are slowed down on purpose.
    await sleep(50);
  });
