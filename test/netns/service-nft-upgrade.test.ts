/** The nftables engine finds the table of another version: it serves on until everything is known. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test from 'node:test';
import { createNetns, deleteNetns } from '../../src/kernel/netns/index.ts';
import { NftablesEngine } from '../../src/service/engines/nftables/index.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';

const NAME = `pt-snu-${process.pid}`;
const VIP = '10.96.0.10';
const POD_LINK = 77;
const T = 'ip portolan-services';
const nft = (command: string) =>
  execFileSync('ip', ['netns', 'exec', NAME, 'nft', command], { encoding: 'utf8' });

test('a table of another version keeps its Services when something is refused before everything is known', () => {
  using netns = createNetns(NAME);
  const service = serviceFacts(aService({ clusterIPs: [VIP] }));
  const slice = sliceFacts(aSlice(['10.244.1.10 n']));
  const planner = new ServicePlanner(
    { services: new Map([[service.key, service]]), slices: new Map([[slice.key, slice]]) },
    aNode(),
  );
  planner.planAll();
  const open = () => NftablesEngine.open({ netns, nodeName: 'n' });
  try {
    const first = open();
    first.attachPodLink(POD_LINK);
    first.apply(planner.everything());
    first.close();
    // Another version has this chain elsewhere.
    nft(`flush chain ${T} forward; delete chain ${T} forward`);
    nft(`add chain ${T} forward { type filter hook forward priority -50; }`);
    const next = open();
    // Somebody was faster: the engine's own change is refused, and it looks what there is.
    nft(`flush set ${T} pod-links`);
    next.detachPodLink(POD_LINK);
    assert.ok(nft(`list map ${T} vips`).includes(VIP), 'served on');
    next.apply(planner.everything());
    assert.ok(nft(`list map ${T} vips`).includes(VIP));
    assert.ok(nft(`list chain ${T} forward`).includes('priority -110'), 'made anew with all that it has');
    assert.deepEqual(next.diff(planner.plans.values()), { missing: [], unwanted: [] });
    next.close();
  } finally {
    deleteNetns(NAME);
  }
});
