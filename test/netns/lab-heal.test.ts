import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import test, { after, before } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startAgain, stopProcess } from '../../src/lab/restart.ts';
import { type Lab, portolanCommand, startLab } from '../lib/lab.ts';
import { until } from '../lib/until.ts';

const ROUNDS = 5;
const LIMIT_MS = 200;

let lab: Lab;
/** What the kernel told ip(8), bridge(8) and nft(8) on node1, with the moment it was read. */
const told: { at: number; line: string }[] = [];
const monitors: ChildProcess[] = [];

before(async () => {
  lab = await startLab('--no-direct-routing', '--dual-stack');
  for (const command of [
    ['ip', 'monitor', 'link', 'address', 'route', 'neigh'],
    ['bridge', 'monitor', 'fdb'],
    ['stdbuf', '-oL', 'nft', 'monitor'],
  ]) {
    const child = lab.start(lab.netns('node1'), lab.cgroup('node1'), command);
    createInterface({ input: child.stdout! }).on('line', (line) =>
      told.push({ at: performance.now(), line }),
    );
    monitors.push(child);
  }
  await sleep(300);
});

after(async () => {
  for (const monitor of monitors) monitor.kill('SIGKILL');
  await lab?.down();
});

/** Milliseconds from the first line that matches `gone` to the next that matches `back`. */
async function healing(command: string[], gone: RegExp, back: RegExp): Promise<number> {
  const begin = told.length;
  await lab.mustExec('node1', command);
  let from: number | undefined;
  return until(
    () => {
      const at = told.findIndex(({ line }, index) => index >= begin && gone.test(line));
      if (at < 0) return undefined;
      from = told[at]!.at;
      const found = told.find(
        ({ line }, index) => index > at && back.test(line) && !/^Deleted|^delete/.test(line),
      );
      return found ? Math.max(found.at - from, 0.001) : undefined;
    },
    {
      everyMs: 5,
      what: () =>
        `${command.join(' ')} healed (${gone}, ${back}): ${told
          .slice(begin)
          .map(({ line }) => line)
          .join('\n')}`,
    },
  );
}

/** The overlay of a node as JSON of ip(8), bridge(8) and nft(8), without what counts or is numbered anew. */
async function picture(node: string): Promise<string> {
  const parts = await Promise.all([
    lab.jsonExec(node, ['ip', '-j', '-d', 'link', 'show', 'flannel.1']),
    lab.jsonExec(node, ['ip', '-j', 'addr', 'show', 'flannel.1']),
    lab.jsonExec(node, ['ip', '-j', 'route', 'show']),
    lab.jsonExec(node, ['ip', '-j', '-6', 'route', 'show', 'proto', '250']),
    lab.jsonExec(node, ['ip', '-j', 'neigh', 'show', 'nud', 'permanent', 'dev', 'flannel.1']),
    lab.jsonExec(node, ['bridge', '-j', 'fdb', 'show', 'dev', 'flannel.1']),
    // Chains of several owners come back in any order; as rows they are sorted below.
    lab
      .jsonExec<{ nftables: object[] }>(node, ['nft', '-j', 'list', 'table', 'ip', 'portolan'])
      .then(({ nftables }) => nftables),
  ]);
  const unstable = new Set([
    'ifindex',
    'handle',
    'packets',
    'bytes',
    'link_index',
    'valid_life_time',
    'preferred_life_time',
  ]);
  return parts
    .map((part) =>
      JSON.stringify(part, (key, value) => {
        if (unstable.has(key)) return undefined;
        return key === 'elem' && Array.isArray(value)
          ? value.map((one) => JSON.stringify(one)).sort()
          : value;
      }),
    )
    .map((text) =>
      text.startsWith('[{')
        ? JSON.stringify((JSON.parse(text) as object[]).map((row) => JSON.stringify(row)).sort())
        : text,
    )
    .join('\n');
}

async function heals(what: string, command: string[], gone: RegExp, back: RegExp): Promise<void> {
  const want = await picture('node1');
  const times: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    times.push(await healing(command, gone, back));
    let now = '';
    const same = async () => {
      now = await picture('node1');
      return now === want;
    };
    await until(same, {
      what: () => `the picture after ${what}: ${now}\nwanted ${want}`,
    });
  }
  times.sort((a, b) => a - b);
  const median = times[times.length >> 1]!;
  console.log(
    `${what}: back after ${median.toFixed(1)} ms (median of ${ROUNDS}), at most ${times.at(-1)!.toFixed(1)} ms`,
  );
  assert.ok(median < LIMIT_MS, `${what}: median ${median} ms`);
}

async function peer(node = 'node2') {
  const cidr = lab
    .report!.nodes.find(({ name }) => name === node)!
    .podCidrs.find((one) => !one.includes(':'))!;
  const [row] = await lab.jsonExec<{ address: string }[]>(node, ['ip', '-j', 'link', 'show', 'flannel.1']);
  return { cidr, vtep: cidr.replace(/\/.*/, ''), mac: row!.address };
}

const quote = (text: string) => text.replace(/[.\\/]/g, '\\$&');

test('a deleted route is back', async () => {
  const { cidr } = await peer();
  await heals(
    'route',
    ['ip', 'route', 'del', cidr],
    new RegExp(`^Deleted ${quote(cidr)}`),
    new RegExp(`^${quote(cidr)} via`),
  );
});

test('a deleted neighbour is back', async () => {
  const { vtep } = await peer();
  await heals(
    'neighbour',
    ['ip', 'neigh', 'del', vtep, 'dev', 'flannel.1'],
    // del first makes it FAILED, and only then takes it away.
    new RegExp(`^(Deleted )?${quote(vtep)} dev flannel\\.1.*FAILED`),
    new RegExp(`^${quote(vtep)} dev flannel\\.1 lladdr .*PERMANENT`),
  );
});

test('a deleted forwarding entry is back', async () => {
  const { mac } = await peer();
  await heals(
    'FDB entry',
    ['bridge', 'fdb', 'del', mac, 'dev', 'flannel.1', 'dst', '172.31.0.12', 'self'],
    new RegExp(`^Deleted ${mac}`),
    new RegExp(`^${mac} dev flannel\\.1 dst`),
  );
});

test('a deleted device is back with all that hung on it', async () => {
  await heals(
    'flannel.1',
    ['ip', 'link', 'del', 'flannel.1'],
    /^Deleted \d+: flannel\.1/,
    /^10\.244\.\d+\.0\/24 via .* dev flannel\.1/,
  );
});

test("the device's deleted address is back", async () => {
  const [own] = await lab.jsonExec<{ addr_info: { family: string; local: string }[] }[]>('node1', [
    ...['ip', '-j', 'addr', 'show', 'flannel.1'],
  ]);
  const { local } = own!.addr_info.find(({ family }) => family === 'inet')!;
  await heals(
    'address',
    ['ip', 'addr', 'del', `${local}/32`, 'dev', 'flannel.1'],
    new RegExp(`^Deleted \\d+: flannel\\.1 +inet ${quote(local)}/32`),
    new RegExp(`^\\d+: flannel\\.1 +inet ${quote(local)}/32`),
  );
});

test('a deleted nft table is back', async () => {
  await heals(
    'nft table',
    ['nft', 'delete', 'table', 'ip', 'portolan'],
    /^delete table ip portolan/,
    /^add chain ip portolan overlay_postrouting/,
  );
});

test("a pod's deleted route and host link are back, and the pod is reached again", async () => {
  const [link] = await lab.podLinks('node1');
  const { hostLink, addresses } = link!;
  const address = addresses.find((one) => !one.includes(':'))!;
  const reached = () => lab.exec('node2', ['ping', '-c', '1', '-W', '5', '-q', address]);
  assert.equal((await reached()).status, 0);
  await heals(
    "pod's route",
    ['ip', 'route', 'del', address, 'dev', hostLink],
    new RegExp(`^Deleted ${quote(address)} dev`),
    new RegExp(`^${quote(address)} dev ${hostLink}`),
  );
  assert.equal((await reached()).status, 0);
  await heals(
    "pod's link",
    ['ip', 'link', 'del', hostLink],
    new RegExp(`^Deleted \\d+: ${hostLink}`),
    new RegExp(`^${quote(address)} dev ${hostLink}`),
  );
  await until(async () => (await reached()).status === 0, { what: 'the pod' });
  // Its Service packets, too: the tc programs hang on the new link.
  const { stdout } = await lab.exec('node2', ['curl', '-s', '-m', '10', `http://${address}:8080/`]);
  assert.match(stdout, /hello from/);
});

test('MTU of tunnel and subnet.env follow the underlay', async (t) => {
  t.after(() => lab.mustExec('node1', ['ip', 'link', 'set', 'eth0', 'mtu', '1500']));
  const mtu = async (name: string) =>
    (await lab.jsonExec<{ mtu: number }[]>('node1', ['ip', '-j', 'link', 'show', name]))[0]!.mtu;
  const env = () => readFileSync(`/run/${lab.name}/node1/subnet.env`, 'utf8');
  assert.equal(await mtu('flannel.1'), 1450);
  await lab.mustExec('node1', ['ip', 'link', 'set', 'eth0', 'mtu', '1400']);
  await until(async () => (await mtu('flannel.1')) === 1350 && (await mtu('flannel-v6.1')) === 1330, {
    what: 'MTU 1350',
  });
  await until(() => env().includes('FLANNEL_MTU=1330'), { what: 'subnet.env' });
  await lab.mustExec('node1', ['ip', 'link', 'set', 'eth0', 'mtu', '1500']);
  await until(async () => (await mtu('flannel.1')) === 1450 && env().includes('FLANNEL_MTU=1430'), {
    what: 'MTU 1450',
  });
});

test('a Node follows the address of its machine at once, not when connections from the old one time out', async () => {
  const [{ addr_info: before }] = (await lab.jsonExec<
    [{ addr_info: { local: string; prefixlen: number }[] }]
  >('node3', ['ip', '-j', '-4', 'addr', 'show', 'eth0'])) as [
    { addr_info: { local: string; prefixlen: number }[] },
  ];
  const { local, prefixlen } = before[0]!;
  const route = ['ip', 'route', 'replace', 'default', 'via', local.replace(/\d+$/, '1'), 'dev', 'eth0'];
  const move = async (from: string, to: string) => {
    await lab.mustExec('node3', ['ip', 'addr', 'del', `${from}/${prefixlen}`, 'dev', 'eth0']);
    await lab.mustExec('node3', ['ip', 'addr', 'add', `${to}/${prefixlen}`, 'dev', 'eth0']);
    await lab.mustExec('node3', route);
    // A connection that is silent because its address is gone is noticed after 25 s at the earliest.
    await until(
      async () =>
        (await lab.kubectl(['get', 'node', 'node3', '-o', 'jsonpath={.status.addresses[0].address}'])) === to,
      { seconds: 15, what: `node3 has the address ${to}` },
    );
  };
  const other = local.replace(/\d+$/, '99');
  await move(local, other);
  await move(other, local);
});

test('a Node that is deleted leaves no route, neighbour or forwarding entry on its peers, and comes back', async (t) => {
  t.after(() => startAgain(lab.name, 'node3', 60));
  const { cidr, vtep, mac } = await peer('node3');
  await stopProcess(lab.name, 'node3', true);
  const ofNode3 = async () => {
    const [routes, neighbours, fdb] = await Promise.all([
      lab.mustExec('node1', ['ip', 'route', 'show', 'proto', '250']),
      lab.mustExec('node1', ['ip', 'neigh', 'show', 'nud', 'permanent']),
      lab.mustExec('node1', ['bridge', 'fdb', 'show', 'dev', 'flannel.1']),
    ]);
    return [routes.includes(cidr), neighbours.includes(`${vtep} `), fdb.includes(mac)].filter(Boolean).length;
  };
  assert.equal(await ofNode3(), 3);
  await lab.kubectl(['delete', 'node', 'node3']);
  await until(async () => (await ofNode3()) === 0, { what: 'node3 gone from node1' });
  await startAgain(lab.name, 'node3');
  await until(async () => (await lab.kubectl(['get', 'nodes', '-o', 'name'])).includes('node3'), {
    seconds: 20,
    what: 'node3 registered again',
  });
  await lab.kubectl(['wait', '--for=condition=Ready', 'node/node3', '--timeout=60s']);
  const [again] = lab.report!.nodes.slice(2);
  await until(
    async () => {
      const node = await lab.get<{ spec: { podCIDRs: string[] } }>('node', again!.name);
      const now = node.spec.podCIDRs[0]!.replace(/\.0\/.*/, '.0');
      return (await lab.mustExec('node1', ['ip', 'route', 'show', 'proto', '250'])).includes(`${now}/24 via`);
    },
    { what: 'node3 back on node1' },
  );
  const pods = await lab.get<{ items: { metadata: { name: string } }[] }>('pods');
  console.log(
    `pods after the Node was deleted: ${pods.items.map(({ metadata }) => metadata.name).join(', ')}`,
  );
  for (const node of ['node1', 'node2', 'node3'])
    assert.deepEqual((await lab.ask<{ changes: string[] }>(node, 'overlay', 'plan')).changes, []);
});

test('a node that was cleaned up by hand gets all it needs from a restart', async () => {
  await stopProcess(lab.name, 'node1', false);
  const elsewhere = ['--cni-bin-dir', '/nonexistent/bin', '--cni-conf-dir', '/nonexistent/net.d'];
  const cleaned = await lab.cli('exec', 'node1', '--', ...portolanCommand, 'cleanup', ...elsewhere);
  assert.equal(cleaned.status, 0, cleaned.stderr);
  assert.equal(existsSync(`/run/${lab.name}/node1`), false);
  const { status, stderr } = await lab.cli('restart', 'node1');
  assert.equal(status, 0, stderr);
  await lab.kubectl(['wait', '--for=condition=Ready', 'node/node1', '--timeout=60s']);
  await until(
    async () => (await lab.ask<{ changes: string[] }>('node1', 'overlay', 'plan')).changes.length === 0,
    { seconds: 20, what: 'the network of node1 as it should be' },
  );
});
