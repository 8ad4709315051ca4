import assert from 'node:assert/strict';
import test from 'node:test';
import { KeyedLock } from './keyed-lock.ts';
import { amendResult, type CniResult, resultFor } from './result.ts';

const own: CniResult = {
  interfaces: [
    { name: 'po1', mac: '02:00:00:00:00:01', mtu: 1450 },
    { name: 'eth0', mac: '02:00:00:00:00:02', mtu: 1450, sandbox: '/run/netns/a' },
  ],
  ips: [
    { interface: 1, address: '10.244.1.2/32', gateway: '169.254.1.1' },
    { interface: 1, address: 'fd00::2/128', gateway: 'fe80::1' },
  ],
  routes: [{ dst: '0.0.0.0/0', gw: '169.254.1.1', mtu: 1400, priority: 5 }],
  dns: {},
};

test('resultFor() leaves out what older versions do not know, and gives 0.x the version of each address', () => {
  assert.deepEqual(resultFor('1.1.0', own), { cniVersion: '1.1.0', ...own });
  const v1 = resultFor('1.0.0', own);
  assert.deepEqual(v1['interfaces'], [
    { name: 'po1', mac: '02:00:00:00:00:01' },
    { name: 'eth0', mac: '02:00:00:00:00:02', sandbox: '/run/netns/a' },
  ]);
  assert.deepEqual(v1['routes'], [{ dst: '0.0.0.0/0', gw: '169.254.1.1' }]);
  assert.deepEqual(v1['ips'], own.ips);
  for (const version of ['0.3.1', '0.4.0'] as const)
    assert.deepEqual(
      (resultFor(version, own)['ips'] as { version: string }[]).map((ip) => ip.version),
      ['4', '6'],
    );
});

test('amendResult() puts ours behind the previous, with indices moved', () => {
  const previous = {
    interfaces: [{ name: 'lo' }],
    ips: [{ address: '127.0.0.1/8', interface: 0, version: '4' }],
    dns: { domain: 'a', nameservers: ['1.1.1.1'] },
  };
  const both = amendResult(previous, { ...own, dns: { nameservers: ['10.96.0.10'] } });
  assert.deepEqual(
    both.ips.map((ip) => both.interfaces[ip.interface!]!.name),
    ['lo', 'eth0', 'eth0'],
  );
  assert.deepEqual(both.dns, { domain: 'a', nameservers: ['10.96.0.10'] });
  assert.deepEqual(resultFor('1.0.0', both)['ips'], [
    { address: '127.0.0.1/8', interface: 0 },
    { ...own.ips[0], interface: 2 },
    { ...own.ips[1], interface: 2 },
  ]);
  assert.equal(amendResult(undefined, own), own);
  assert.deepEqual(amendResult({ interfaces: null, ips: null }, own), own);
});

test('KeyedLock runs one key in order, also after a failure, and different keys side by side', async () => {
  const lock = new KeyedLock();
  const log: string[] = [];
  const work =
    (name: string, ms: number, fails = false) =>
    async () => {
      log.push(`${name} starts`);
      await new Promise((resolve) => setTimeout(resolve, ms));
      log.push(`${name} ends`);
      if (fails) throw new Error(name);
    };
  const results = await Promise.allSettled([
    lock.run('a', work('a1', 5, true)),
    lock.run('a', work('a2', 1)),
    lock.run('b', work('b1', 1)),
  ]);
  assert.deepEqual(
    results.map((result) => result.status),
    ['rejected', 'fulfilled', 'fulfilled'],
  );
  assert.deepEqual(log, ['a1 starts', 'b1 starts', 'b1 ends', 'a1 ends', 'a2 starts', 'a2 ends']);
  await lock.idle();
  assert.equal(lock.size, 0);
});
