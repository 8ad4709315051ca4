/** Programs at links by traffic control, as kernels without tcx have it; `tc` and `bpftool` see them. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { isNetError, kernelCause } from '../../src/errors/index.ts';
import { type BpfObject, loadObject, TcFilters } from '../../src/kernel/bpf/index.ts';
import { createNetns, deleteNetns, type Netns } from '../../src/kernel/netns/index.ts';
import { numberOf, testObject, u32Bytes } from '../lib/bpf.ts';
import { pingFlood } from '../lib/ping-flood.ts';

const here = `pt-tc-${process.pid}-a`;
const there = `pt-tc-${process.pid}-b`;
const IN_HERE = '10.99.8.1';
let netns: Netns;
let ifindex: number;
let object: BpfObject;
let filters: TcFilters;

/** Entries of the map `seen`. */
const SEEN = { in: 2, out: 3 } as const;

function ip(...args: string[]): string {
  return execFileSync('ip', args, { encoding: 'utf8' });
}

/** A classic BPF filter that matches nothing. */
const FOREIGN = ['bpf', 'bytecode', '1,6 0 0 0'];

interface ShownFilter {
  kind: string;
  pref: number;
  options?: {
    handle: string;
    bpf_name: string;
    'direct-action'?: boolean;
    prog: { id: number; name: string };
  };
}

/** What tc(8) shows, without the heads of priorities. */
function tcShow(direction: 'ingress' | 'egress'): ShownFilter[] {
  const shown = JSON.parse(
    execFileSync('tc', ['-n', here, '-j', 'filter', 'show', 'dev', 'eth0', direction], { encoding: 'utf8' }),
  ) as ShownFilter[];
  return shown.filter((filter) => filter.options);
}

function qdiscs(): string[] {
  return (
    JSON.parse(
      execFileSync('tc', ['-n', here, '-j', 'qdisc', 'show', 'dev', 'eth0'], { encoding: 'utf8' }),
    ) as { kind: string }[]
  ).map(({ kind }) => kind);
}

function tc(...args: string[]): void {
  execFileSync('tc', ['-n', here, ...args]);
}

function ping(count = 3): string {
  const args = ['netns', 'exec', there, 'ping', '-q', '-i', '0.01', '-c', String(count), '-W', '2', IN_HERE];
  return ip(...args);
}

function seen(which: keyof typeof SEEN): number {
  return numberOf(object.map('seen').get(u32Bytes(SEEN[which])));
}

before(() => {
  netns = createNetns(here);
  createNetns(there).close();
  ip('-n', here, 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', there);
  for (const [name, address] of [
    [here, IN_HERE],
    [there, '10.99.8.2'],
  ] as const) {
    ip('-n', name, 'addr', 'add', `${address}/24`, 'dev', 'eth0');
    for (const device of ['lo', 'eth0']) ip('-n', name, 'link', 'set', device, 'up');
  }
  ifindex = (JSON.parse(ip('-n', here, '-j', 'link', 'show', 'eth0')) as { ifindex: number }[])[0]!.ifindex;
  object = loadObject(testObject('hooks'), { programs: ['tcx_in', 'tcx_out'] });
  filters = TcFilters.open({ netns });
});

after(() => {
  filters?.close();
  object?.close();
  netns?.close();
  deleteNetns(here);
  deleteNetns(there);
});

test('programs of both directions are attached, seen by tc and bpftool, and see packets', () => {
  const [inward, outward] = [object.program('tcx_in'), object.program('tcx_out')];
  filters.attach(inward, ifindex, 'ingress');
  filters.attach(outward, ifindex, 'egress');
  for (const [direction, program] of [
    ['ingress', inward],
    ['egress', outward],
  ] as const) {
    const [shown, ...more] = tcShow(direction);
    assert.equal(more.length, 0);
    assert.equal(shown!.kind, 'bpf');
    assert.equal(shown!.pref, 100);
    assert.equal(shown!.options!.handle, '0x706f');
    assert.equal(shown!.options!.bpf_name, `portolan:${program.name}`);
    assert.equal(shown!.options!['direct-action'], true);
    assert.equal(shown!.options!.prog.id, program.info().id);
  }
  assert.ok(qdiscs().includes('clsact'));
  // bpftool sees its own namespace only.
  const net = execFileSync('ip', ['netns', 'exec', here, 'bpftool', '-j', 'net', 'show'], {
    encoding: 'utf8',
  });
  const [{ tc: attached }] = JSON.parse(net) as [{ tc: { ifindex: number; kind: string; name: string }[] }];
  assert.deepEqual(
    attached.map(({ ifindex, kind, name }) => [ifindex, kind, name]).sort(),
    [
      [ifindex, 'clsact/egress', 'portolan:tcx_out'],
      [ifindex, 'clsact/ingress', 'portolan:tcx_in'],
    ].sort(),
  );
  ping();
  assert.ok(seen('in') >= 3);
  assert.ok(seen('out') >= 3);
  assert.deepEqual(filters.list(), [
    { ifindex, direction: 'ingress', name: 'tcx_in', programId: inward.info().id },
    { ifindex, direction: 'egress', name: 'tcx_out', programId: outward.info().id },
  ]);
});

test('a filter lives on without its process; the next one finds it and puts its own program there', () => {
  const source = `
    import { loadObject, TcFilters } from ${JSON.stringify(join(import.meta.dirname, '../../src/kernel/bpf/index.ts'))};
    import { openNetns } from ${JSON.stringify(join(import.meta.dirname, '../../src/kernel/netns/index.ts'))};
    const object = loadObject(${JSON.stringify(testObject('hooks'))}, { programs: ['tcx_in'] });
    TcFilters.open({ netns: openNetns('${here}') }).attach(object.program('tcx_in'), ${ifindex}, 'ingress');
    console.log(object.program('tcx_in').info().id);`;
  const left = Number(
    execFileSync(process.execPath, ['--input-type=module', '-e', source], { encoding: 'utf8' }),
  );
  assert.equal(tcShow('ingress')[0]!.options!.prog.id, left);
  assert.equal(filters.at(ifindex, 'ingress')?.programId, left);
  filters.attach(object.program('tcx_in'), ifindex, 'ingress');
  assert.deepEqual(
    tcShow('ingress').map(({ options }) => options!.prog.id),
    [object.program('tcx_in').info().id],
  );
});

test('a program is replaced under traffic without losing a packet, and never is there a packet that none saw', async () => {
  using other = loadObject(testObject('hooks'), { programs: ['tcx_in'] });
  const PACKETS = 5000;
  const before = seen('in');
  let updates = 0;
  const echoes = await pingFlood(there, IN_HERE, PACKETS, () => {
    filters.attach((updates++ % 2 === 0 ? other : object).program('tcx_in'), ifindex, 'ingress');
  });
  assert.deepEqual(echoes, { sent: PACKETS, answered: PACKETS });
  const elsewhere = numberOf(other.map('seen').get(u32Bytes(SEEN.in)));
  assert.ok(seen('in') - before + elsewhere >= PACKETS, `${seen('in') - before} + ${elsewhere}`);
  assert.ok(elsewhere > 0 && updates > 10, `${updates} updates`);
  filters.attach(object.program('tcx_in'), ifindex, 'ingress');
});

test("other tools' filters are left alone, and the qdisc goes with the last filter", () => {
  tc('filter', 'add', 'dev', 'eth0', 'ingress', ...FOREIGN);
  filters.detach(ifindex, 'ingress');
  filters.detach(ifindex, 'egress');
  filters.detach(ifindex, 'egress');
  assert.deepEqual(
    tcShow('ingress').map(({ pref }) => pref),
    [49152],
  );
  assert.deepEqual(filters.list(), []);
  filters.attach(object.program('tcx_in'), ifindex, 'ingress');
  tc('filter', 'del', 'dev', 'eth0', 'ingress', 'pref', '49152');
  filters.detach(ifindex, 'ingress');
  assert.ok(!qdiscs().includes('clsact'));
});

test('a foreign filter at our place, an absent link: errors say so', () => {
  tc('qdisc', 'add', 'dev', 'eth0', 'clsact');
  tc('filter', 'add', 'dev', 'eth0', 'egress', 'pref', '100', 'handle', '0x706f', ...FOREIGN);
  assert.throws(
    () => filters.attach(object.program('tcx_out'), ifindex, 'egress'),
    (error) => isNetError(error, 'BPF_FILTER_TAKEN') && error.message.includes('without a name'),
  );
  filters.detach(ifindex, 'egress');
  assert.equal(tcShow('egress').length, 1);
  tc('qdisc', 'del', 'dev', 'eth0', 'clsact');
  assert.throws(
    () => filters.attach(object.program('tcx_in'), 9999, 'ingress'),
    (error) => isNetError(error, 'BPF_ATTACH_FAILED') && kernelCause(error)?.name === 'ENODEV',
  );
  filters.detach(9999, 'ingress');
});
