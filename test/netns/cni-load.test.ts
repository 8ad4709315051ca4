import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { decodeAnswer, encodeCall } from '../../src/cni/index.ts';
import { isNetError } from '../../src/errors/index.ts';
import { createNetns, deleteNetns, openNetns } from '../../src/kernel/netns/index.ts';
import { Rtnl } from '../../src/kernel/rtnl/index.ts';
import { ensureSysctl, writeSysctl } from '../../src/kernel/sysctl/index.ts';
import { isHostLinkName, type PodLinksOptions } from '../../src/podlink/index.ts';
import { CniNode, ipJson } from '../lib/cni-node.ts';
import { execPlugin, PluginError, type Result } from '../lib/cnitool.ts';

for (const count of [20, 50])
  test(`${count} ADDs at once get addresses of their own, and as many DELs leave nothing (cni-018)`, async () => {
    await using node = await CniNode.open();
    const tool = node.tool();
    const pods = Array.from({ length: count }, (_, index) => ({ id: `c${index}`, netns: node.pod() }));
    const results = await Promise.all(pods.map((pod) => tool.add(pod)));
    for (const family of [0, 1])
      assert.equal(new Set(results.map((result) => result.ips[family]!.address)).size, count);
    pods.forEach((pod, index) => {
      const addresses = ipJson(pod.netns, 'addr', 'show', 'eth0')[0]!.addr_info!;
      for (const { address } of results[index]!.ips)
        assert.ok(addresses.some((each) => `${each.local}/${each.prefixlen}` === address));
    });
    assert.ok(node.store.syncCount <= count, `${node.store.syncCount} syncs for ${count} ADDs`);
    await Promise.all(pods.map((pod) => tool.del(pod)));
    assert.deepEqual(node.leftovers(), []);
    assert.deepEqual(node.errors, []);
  });

test('of many ADDs of one container at once exactly one succeeds, and DEL waits for it', async () => {
  await using node = await CniNode.open();
  const tool = node.tool();
  const pod = { id: 'one', netns: node.pod() };
  const results = await Promise.allSettled(Array.from({ length: 8 }, () => tool.add(pod)));
  assert.equal(results.filter((result) => result.status === 'fulfilled').length, 1);
  for (const result of results)
    if (result.status === 'rejected') assert.equal((result.reason as PluginError).code, 100);
  await Promise.allSettled([tool.del(pod), tool.add(pod), tool.del(pod)]);
  await tool.del(pod);
  assert.deepEqual(node.leftovers(), []);
});

/** Tables of which the call number `at` fails; counts calls. */
function failing(plan: { at: number; calls: number }): NonNullable<PodLinksOptions['openTables']> {
  return (netns) => {
    const real = Rtnl.open({ netns });
    const step = () => {
      if (++plan.calls === plan.at) throw new Error(`injected at step ${plan.at}`);
    };
    return {
      get port() {
        return real.port;
      },
      apply(changes) {
        // Half of the batch is done, then it fails: the worst case.
        if (++plan.calls === plan.at) {
          real.apply(changes.slice(0, Math.ceil(changes.length / 2)));
          throw new Error(`injected at step ${plan.at}`);
        }
        return real.apply(changes);
      },
      createLink: (spec) => {
        step();
        const link = real.createLink(spec);
        step();
        return link;
      },
      link: (which) => real.link(which),
      links: () => real.links(),
      addrs: (filter) => real.addrs(filter),
      routes: (filter) => real.routes(filter),
      neighs: (filter) => real.neighs(filter),
      fdb: (filter) => real.fdb(filter),
      close: () => real.close(),
    };
  };
}

test('an ADD that fails at any step leaves nothing, and the next one succeeds (cni-006)', async () => {
  const plan = { at: Number.POSITIVE_INFINITY, calls: 0 };
  const sysctls = { at: Number.POSITIVE_INFINITY, calls: 0 };
  const step = { sync: false, hook: false };
  await using node = await CniNode.open({
    links: {
      openTables: failing(plan),
      setSysctl: (...args) => {
        if (++sysctls.calls === sysctls.at) throw new Error('injected sysctl');
        return ensureSysctl(...args);
      },
    },
    store: {
      sync: async () => {
        if (step.sync) throw Object.assign(new Error('injected sync'), { code: 'ENOSPC' });
      },
    },
    beforeReady: () => {
      if (step.hook) throw new Error('injected hook');
    },
  });
  const tool = node.tool();
  const pod = { id: 'web', netns: node.pod() };
  // Some runtimes switch IPv6 off in new namespaces; an ADD has one step more there.
  using inside = openNetns(pod.netns);
  writeSysctl('net/ipv6/conf/default/disable_ipv6', 1, { netns: inside });
  const mustFail = async (text: RegExp) => {
    await assert.rejects(tool.add(pod), text);
    assert.deepEqual(node.leftovers(), [], String(text));
    assert.deepEqual(
      ipJson(pod.netns, 'link').map((link) => link.ifname),
      ['lo'],
    );
  };
  // Find out how many steps a good ADD has; then fail at each of them.
  plan.calls = sysctls.calls = 0;
  await tool.add(pod);
  const steps = { tables: plan.calls, sysctls: sysctls.calls };
  const families = ipJson(pod.netns, 'addr', 'show', 'eth0')[0]!.addr_info!.map((each) => each.family);
  assert.deepEqual(families, ['inet', 'inet6']);
  await tool.del(pod);
  assert.ok(steps.tables >= 4 && steps.sysctls >= 1, JSON.stringify(steps));
  for (let at = 1; at <= steps.tables; at++) {
    Object.assign(plan, { at, calls: 0 });
    await mustFail(/po[0-9a-f]{11}|injected/);
  }
  plan.at = Number.POSITIVE_INFINITY;
  for (let at = 1; at <= steps.sysctls; at++) {
    Object.assign(sysctls, { at, calls: 0 });
    await mustFail(/Cannot set sysctl/);
  }
  sysctls.at = Number.POSITIVE_INFINITY;
  step.hook = true;
  await mustFail(/injected hook/);
  step.hook = false;
  step.sync = true;
  await mustFail(/disk is full/);
  step.sync = false;
  await tool.add(pod);
  await tool.check(pod);
});

test('a full disk refuses ADD, keeps what was there, and lets ADD go on when there is room again', async () => {
  await using node = await CniNode.open();
  await node.stopAgent();
  // A file system of 1 MiB, in the folder of the state.
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', node.folder]);
  try {
    mkdirSync(join(node.folder, 'bin'));
    await node.startAgent();
    const netns = node.pod();
    const add = (id: string, ifname: string) => node.network.add({ containerId: id, ifname, netns });
    await add('first', 'eth0');
    assert.throws(() => writeFileSync(join(node.folder, 'ballast'), Buffer.alloc(2 << 20)), /ENOSPC/);
    let failed = 0;
    for (let index = 0; index < 120 && failed === 0; index++)
      await add('more', `e${index}`).catch((error) => {
        assert.ok(isNetError(error, 'IPAM_STORE_FULL'), String(error));
        failed++;
      });
    assert.equal(failed, 1);
    const before = node.store.list().map((each) => each.ifname);
    assert.equal(node.ip('link').filter((link) => link.ifname?.startsWith('po')).length, before.length);
    execFileSync('rm', [join(node.folder, 'ballast')]);
    await add('after', 'last');
    await node.stopAgent();
    await node.startAgent();
    assert.deepEqual(
      node.store
        .list()
        .map((each) => each.ifname)
        .sort(),
      [...before, 'last'].sort(),
    );
  } finally {
    await node.stopAgent();
    execFileSync('umount', ['-l', node.folder]);
  }
});

test('after a reboot, and after a lost namespace, the addresses are free again', async () => {
  await using node = await CniNode.open();
  const tool = node.tool();
  const kept = { id: 'kept', netns: node.pod() };
  const gone = { id: 'gone', netns: node.pod() };
  const again = { id: 'again', netns: node.pod() };
  for (const pod of [kept, gone, again]) await tool.add(pod);
  await node.stopAgent();
  const name = (path: string) => path.split('/').at(-1)!;
  node.endPod(gone.netns);
  // Another namespace at the same path, as after a reboot.
  node.endPod(again.netns);
  createNetns(name(again.netns)).close();
  await sleep(300); // the kernel takes namespaces down in the background
  await node.startAgent();
  assert.deepEqual(
    node.store.list().map((each) => each.containerId),
    ['kept'],
  );
  await tool.check(kept);
  await tool.add(again);
  // A namespace that vanishes while the agent runs, without DEL.
  deleteNetns(name(again.netns));
  for (let tries = 0; node.store.list().length > 1 && tries < 200; tries++) await sleep(10);
  assert.deepEqual(
    node.store.list().map((each) => each.containerId),
    ['kept'],
  );
});

test('an agent killed in the middle of ADDs leaves nothing that its successor does not clean up', async () => {
  await using node = await CniNode.open();
  await node.stopAgent();
  const tool = node.tool();
  const start = async (round: number) => {
    // Both kinds of links are made, found half made, and stand beside each other.
    const kind = round % 2 === 0 ? 'bridge' : 'routed';
    const agent = spawn(
      process.execPath,
      ['test/lib/cni-agent.ts', node.folder, node.netns.path, '30', kind],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    await new Promise((resolve) => agent.stdout.once('data', resolve));
    const exited = new Promise((resolve) => agent.once('exit', resolve));
    return {
      kill() {
        agent.kill('SIGKILL');
        return exited;
      },
    };
  };
  const alive = new Map<string, { id: string; netns: string; result: Result }>();
  const pods = Array.from({ length: 12 }, () => node.pod());
  // 50 rounds with PORTOLAN_KILLS=50; each starts an agent twice.
  const rounds = Number(process.env['PORTOLAN_KILLS'] ?? 6);
  for (let round = 0; round < rounds; round++) {
    const agent = await start(round);
    const adds = pods.map(async (netns, index) => {
      const id = `r${round}-${index}`;
      if ([...alive.values()].some((pod) => pod.netns === netns)) return;
      await sleep(index * 3);
      try {
        alive.set(id, { id, netns, result: await tool.add({ id, netns }) });
      } catch (error) {
        // As a runtime does when it gives up: 11 for an agent that died under the call.
        assert.equal((error as PluginError).code, 11, String(error));
      }
    });
    await sleep(10 + (round % 8) * 8);
    await agent.kill();
    await Promise.all(adds);
    const next = await start(round);
    // What the runtime believes to be attached is, and answered addresses never change hands.
    for (const pod of alive.values()) await tool.check(pod);
    assert.equal(new Set([...alive.values()].map((pod) => pod.result.ips[0]!.address)).size, alive.size);
    for (const netns of pods)
      if (![...alive.values()].some((pod) => pod.netns === netns)) {
        // An ADD that became ready just before the kill, whose answer never arrived: the runtime calls DEL.
        const index = pods.indexOf(netns);
        await tool.del({ id: `r${round}-${index}`, netns });
        assert.deepEqual(
          ipJson(netns, 'link').map((link) => link.ifname),
          ['lo'],
        );
      }
    for (const [id, pod] of [...alive].slice(0, 4)) {
      await tool.del(pod);
      alive.delete(id);
    }
    await next.kill();
  }
  await node.startAgent();
  assert.equal(node.ip('link').filter((link) => isHostLinkName(link.ifname ?? '')).length, alive.size);
  for (const pod of alive.values()) await tool.del(pod);
  // The bridge goes a moment after the last pod on it: new ones are routed.
  for (let tries = 0; node.leftovers().length > 0 && tries < 100; tries++) await sleep(10);
  assert.deepEqual(node.leftovers(), []);
});

test('a call too long, cut short, without end or malformed is refused, and the server goes on', async () => {
  await using node = await CniNode.open();
  const send = (bytes: Uint8Array): Promise<Uint8Array> =>
    new Promise((resolve, reject) => {
      const chunks: Buffer[] = [];
      const socket = connect(node.socketPath);
      socket.on('data', (chunk: Buffer) => chunks.push(chunk));
      socket.on('error', reject);
      socket.on('close', () => resolve(Buffer.concat(chunks)));
      socket.end(bytes);
    });
  const whole = encodeCall({ CNI_COMMAND: 'VERSION' }, '{}');
  for (let cut = 0; cut < whole.length; cut += 3) {
    const answer = decodeAnswer(await send(whole.subarray(0, cut)));
    if (cut <= whole.indexOf(0) + 1) assert.equal(JSON.parse(answer.stdout).code, 5);
  }
  const long = await execPlugin(node.plugin, { CNI_COMMAND: 'ADD' }, Buffer.alloc(3 << 20, 'x'));
  assert.match(new PluginError(long).message, /longer than 1048576 bytes/);
  // Just short of the limit goes through, in many writes.
  const large = await execPlugin(
    node.plugin,
    { CNI_COMMAND: 'STATUS' },
    JSON.stringify({ cniVersion: '1.1.0', name: 'n', type: 't', args: { blob: 'y'.repeat(900_000) } }),
  );
  assert.equal(large.status, 0, large.stdout);
  const hanging = Array.from({ length: 50 }, () => connect(node.socketPath).on('error', () => {}));
  assert.equal((await execPlugin(node.plugin, { CNI_COMMAND: 'VERSION' }, '')).status, 0);
  for (const socket of hanging) socket.destroy();
});
