/** Programs attached to interfaces, cgroups, netfilter and tracepoints of the real kernel; bpftool, ip and curl see them. */
import assert from 'node:assert/strict';
import { execFile, execFileSync, spawn } from 'node:child_process';
import { mkdirSync, rmdirSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { promisify } from 'node:util';
import { isNetError, kernelCause } from '../../src/errors/index.ts';
import {
  adoptLink,
  attachCgroup,
  attachNetfilter,
  attachRawTracepoint,
  attachTcx,
  attachXdp,
  type BpfObject,
  bpfFeatures,
  ensureBpffs,
  LINK_TYPE,
  loadObject,
  runIterator,
} from '../../src/kernel/bpf/index.ts';
import { cgroupId, cgroupRoot } from '../../src/kernel/cgroup/index.ts';
import { createNetns, deleteNetns, type Netns } from '../../src/kernel/netns/index.ts';
import { bpftool, numberOf, testObject, u32Bytes } from '../lib/bpf.ts';
import { pingFlood } from '../lib/ping-flood.ts';

const run = promisify(execFile);
const left = `pt-bl-${process.pid}-a`;
const right = `pt-bl-${process.pid}-b`;
const IN_LEFT = '10.99.7.1';
const IN_RIGHT = '10.99.7.2';
let netns: Netns;
let ifindex: number;

const SEEN = {
  xdp: 0,
  xdpSecond: 1,
  tcxIn: 2,
  tcxOut: 3,
  connect: 4,
  netfilter: 5,
  iter: 6,
  rawTp: 7,
  tpBtf: 8,
} as const;

function ip(...args: string[]): string {
  return execFileSync('ip', args, { encoding: 'utf8' });
}

before(() => {
  netns = createNetns(left);
  createNetns(right).close();
  ip('-n', left, 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', right);
  for (const [name, address] of [
    [left, IN_LEFT],
    [right, IN_RIGHT],
  ] as const) {
    ip('-n', name, 'addr', 'add', `${address}/24`, 'dev', 'eth0');
    for (const device of ['lo', 'eth0']) ip('-n', name, 'link', 'set', device, 'up');
  }
  ifindex = show('eth0').ifindex;
});

after(() => {
  netns?.close();
  deleteNetns(left);
  deleteNetns(right);
});

interface ShownLink {
  ifindex: number;
  xdp?: { mode: number; prog: { id: number } };
}

function show(device: string): ShownLink {
  return (JSON.parse(ip('-n', left, '-j', '-d', 'link', 'show', device)) as ShownLink[])[0]!;
}

function ping(count = 3): void {
  execFileSync('ip', [
    'netns',
    'exec',
    right,
    'ping',
    '-q',
    '-i',
    '0.01',
    '-c',
    String(count),
    '-W',
    '2',
    IN_LEFT,
  ]);
}

function seen(object: BpfObject, what: keyof typeof SEEN): number {
  return numberOf(object.map('seen').get(u32Bytes(SEEN[what])));
}

/** IFLA_XDP_MODE: XDP_ATTACHED_DRV, XDP_ATTACHED_SKB. */
const XDP_MODE = { native: 1, generic: 2 };

test('XDP runs in the driver of a veth, in another namespace, and goes with its link', () => {
  using object = loadObject(testObject('hooks'));
  const program = object.program('xdp_first');
  const link = attachXdp(program, { ifindex, netns });
  assert.equal(link.xdpMode, 'native');
  assert.deepEqual(show('eth0').xdp?.mode, XDP_MODE.native);
  assert.equal(show('eth0').xdp?.prog.id, program.info().id);
  assert.equal(link.info().ifindex, ifindex);
  ping();
  assert.ok(seen(object, 'xdp') >= 3);
  assert.throws(
    () => attachXdp(object.program('xdp_second'), { ifindex, netns }),
    (error) => isNetError(error, 'BPF_ATTACH_FAILED') && kernelCause(error)?.name === 'EBUSY',
  );
  link.close();
  assert.equal(show('eth0').xdp, undefined);
});

test('XDP falls back to generic mode where the driver has none, and obeys when generic is asked for', () => {
  using object = loadObject(testObject('hooks'));
  const program = object.program('xdp_first');
  {
    using link = attachXdp(program, { ifindex: 1, netns });
    assert.equal(link.xdpMode, 'generic');
    assert.equal(show('lo').xdp?.mode, XDP_MODE.generic);
    execFileSync('ip', ['netns', 'exec', left, 'ping', '-q', '-c', '1', '127.0.0.1']);
    assert.ok(seen(object, 'xdp') >= 1);
  }
  {
    using link = attachXdp(program, { ifindex, netns, mode: 'generic' });
    assert.equal(link.xdpMode, 'generic');
    assert.equal(show('eth0').xdp?.mode, XDP_MODE.generic);
    ping();
  }
  assert.throws(
    () => attachXdp(program, { ifindex: 1, netns, mode: 'native' }),
    (error) => isNetError(error, 'BPF_ATTACH_FAILED'),
  );
  assert.throws(
    () => attachXdp(program, { ifindex: 9999, netns }),
    (error) => isNetError(error, 'BPF_ATTACH_FAILED') && error.message.includes('interface 9999'),
  );
});

test('tcx programs see packets of both directions, several in their order', { skip: missing('tcx') }, () => {
  using object = loadObject(testObject('hooks'));
  using inward = attachTcx(object.program('tcx_in'), { ifindex, netns });
  using outward = attachTcx(object.program('tcx_out'), { ifindex, netns });
  ping();
  assert.ok(seen(object, 'tcxIn') >= 3);
  assert.ok(seen(object, 'tcxOut') >= 3);
  assert.equal(inward.info().type, LINK_TYPE.TCX);
  assert.equal(inward.info().ifindex, ifindex);
  assert.equal(outward.info().programId, object.program('tcx_out').info().id);
  using other = loadObject(testObject('hooks'));
  using _first = attachTcx(other.program('tcx_in'), { ifindex, netns, position: 'first' });
  ping();
  assert.ok(seen(other, 'tcxIn') >= 3);
  assert.ok(seen(object, 'tcxIn') >= 6);
});

test('a netfilter program sees packets of its namespace only', { skip: missing('netfilterLinks') }, () => {
  using object = loadObject(testObject('hooks'));
  const LOCAL_IN = 1;
  const link = attachNetfilter(object.program('filter'), {
    family: 'ip4',
    hook: LOCAL_IN,
    priority: -5,
    netns,
  });
  ping();
  const count = seen(object, 'netfilter');
  assert.ok(count >= 3, `${count}`);
  link.close();
  ping();
  assert.equal(seen(object, 'netfilter'), count);
});

test('the program of a link is replaced under traffic without losing a packet', async () => {
  using object = loadObject(testObject('hooks'));
  using link = attachXdp(object.program('xdp_first'), { ifindex, netns });
  const PACKETS = 5000;
  let updates = 0;
  const echoes = await pingFlood(right, IN_LEFT, PACKETS, () => {
    link.update(object.program(updates++ % 2 === 0 ? 'xdp_second' : 'xdp_first'));
  });
  assert.deepEqual(echoes, { sent: PACKETS, answered: PACKETS });
  const [first, second] = [seen(object, 'xdp'), seen(object, 'xdpSecond')];
  assert.ok(first + second >= PACKETS && first > 0 && second > 0, `${first} + ${second}, ${updates} updates`);
  assert.throws(
    () => link.update(object.program('tcx_in')),
    (error) => isNetError(error, 'BPF_LINK_CALL'),
  );
});

test('a pinned link works on after its process, and another process adopts, updates and detaches it', () => {
  const pins = ensureBpffs('/sys/fs/bpf', `pt-links-${process.pid}`);
  try {
    const source = `
      import { attachXdp, loadObject } from ${JSON.stringify(join(import.meta.dirname, '../../src/kernel/bpf/index.ts'))};
      import { openNetns } from ${JSON.stringify(join(import.meta.dirname, '../../src/kernel/netns/index.ts'))};
      const object = loadObject(${JSON.stringify(testObject('hooks'))});
      const link = attachXdp(object.program('xdp_first'), { ifindex: ${ifindex}, netns: openNetns('${left}') });
      link.pin(${JSON.stringify(join(pins, 'xdp'))});
      console.log(object.program('xdp_first').info().id);`;
    const programId = Number(
      execFileSync(process.execPath, ['--input-type=module', '-e', source], { encoding: 'utf8' }),
    );
    assert.equal(show('eth0').xdp?.prog.id, programId);
    using link = adoptLink(join(pins, 'xdp'))!;
    assert.equal(link.info().programId, programId);
    using object = loadObject(testObject('hooks'));
    link.update(object.program('xdp_second'));
    ping();
    assert.ok(seen(object, 'xdpSecond') >= 3);
    link.detach();
    assert.equal(show('eth0').xdp, undefined);
    assert.equal(adoptLink(join(pins, 'nothing')), undefined);
    object.map('seen').pin(join(pins, 'seen'));
    assert.throws(
      () => adoptLink(join(pins, 'seen')),
      (error) => isNetError(error, 'BPF_PIN_MISMATCH'),
    );
  } finally {
    rmSync(pins, { recursive: true, force: true });
  }
});

test('connect4 sends curl in its cgroup to another address, and no one outside', async () => {
  const server = createServer((_request, response) => response.end('reached\n'));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const cgroup = join(cgroupRoot(), `pt-bl-${process.pid}`);
  mkdirSync(cgroup);
  try {
    using object = loadObject(testObject('hooks'), {
      rodata: {
        virtual_address: Uint8Array.of(10, 96, 77, 1),
        virtual_port: 80,
        real_address: Uint8Array.of(127, 0, 0, 1),
        real_port: (server.address() as AddressInfo).port,
      },
      programs: ['connect4', 'getpeername4'],
    });
    using link = attachCgroup(object.program('connect4'), { cgroup });
    using _peer = attachCgroup(object.program('getpeername4'), { cgroup });
    assert.equal(link.info().cgroupId, cgroupId(cgroup));
    const tree = bpftool('cgroup', 'show', cgroup) as { id: number; attach_type: string }[];
    assert.deepEqual(
      tree.map(({ id, attach_type }) => [id, attach_type]).sort(),
      [
        [object.program('connect4').info().id, 'cgroup_inet4_connect'],
        [object.program('getpeername4').info().id, 'cgroup_inet4_getpeername'],
      ].sort(),
    );
    const curl = (enter: string) =>
      run('sh', [
        '-c',
        `${enter} exec curl -s -m 2 --noproxy '*' -w '%{remote_ip}:%{remote_port}' http://10.96.77.1/`,
      ]);
    const inside = await curl(`echo $$ > ${cgroup}/cgroup.procs;`);
    assert.equal(inside.stdout, 'reached\n10.96.77.1:80');
    assert.equal(seen(object, 'connect'), 1);
    const outside = await curl('').catch(() => ({ stdout: 'refused' }));
    assert.doesNotMatch(outside.stdout, /reached/);
    assert.equal(seen(object, 'connect'), 1);
  } finally {
    server.close();
    rmdirSync(cgroup);
  }
});

test('an iterator destroys the sockets of one namespace that are connected to a stale address', {
  skip: missing('destroySockets'),
}, async () => {
  using object = loadObject(testObject('hooks'), { rodata: { stale_address: Uint8Array.of(10, 99, 7, 77) } });
  const socket = spawn('ip', ['netns', 'exec', left, 'socat', '-', 'UDP4-CONNECT:10.99.7.77:53']);
  try {
    const connected = () =>
      execFileSync('ip', ['netns', 'exec', left, 'ss', '-Hun', 'dst', '10.99.7.77'], {
        encoding: 'utf8',
      }).trim();
    for (let tries = 0; connected() === '' && tries < 100; tries++)
      await new Promise((resolve) => setTimeout(resolve, 20));
    assert.notEqual(connected(), '');
    const program = object.program('destroy_stale');
    assert.equal(Buffer.from(runIterator(program)).toString(), '');
    assert.equal(Buffer.from(runIterator(program, { netns })).toString(), 'destroyed\n');
    assert.equal(connected(), '');
  } finally {
    socket.kill();
  }
});

test('a raw tracepoint runs its program until the link is closed', () => {
  using object = loadObject(testObject('hooks'));
  const link = attachRawTracepoint(object.program('on_sys_enter'));
  process.getuid?.();
  show('lo');
  link.close();
  const count = seen(object, 'rawTp');
  assert.ok(count > 0);
  show('lo');
  assert.equal(seen(object, 'rawTp'), count);
});

test('a typed tracepoint sees dropped packets, and a syscall program answers in its context', () => {
  using object = loadObject(testObject('hooks'), { programs: ['on_drop', 'add_up'] });
  using _link = attachRawTracepoint(object.program('on_drop'));
  // Nobody listens there: the packet is dropped with reason NO_SOCKET.
  execFileSync('ip', ['netns', 'exec', left, 'sh', '-c', 'echo x | socat -u - UDP4-SENDTO:127.0.0.1:9']);
  assert.ok(seen(object, 'tpBtf') > 0);
  const context = new Uint8Array(12);
  context.set([40, 0, 0, 0, 2]);
  const result = object.program('add_up').run({ context });
  assert.equal(result.returned, 7);
  assert.equal(numberOf(result.context.slice(8)), 42);
});

test('a refused program brings the last words of the verifier in its message and all of them in its context', () => {
  assert.throws(
    () => loadObject(testObject('bad')),
    (error) => {
      assert.ok(isNetError(error, 'BPF_PROGRAM_REFUSED'));
      assert.match(error.message, /program "careless" \(section "xdp"\)/);
      assert.match(error.message, /R0 invalid mem access 'map_value_or_null'/);
      assert.match(error.message, /; return \*value;/);
      assert.match(String(error.context['log']), /processed \d+ insns/);
      assert.equal(kernelCause(error)?.name, 'EACCES');
      return true;
    },
  );
});

/** A reason to skip when this kernel lacks the feature. */
function missing(name: keyof typeof bpfFeatures): string | false {
  const feature = bpfFeatures[name];
  return feature.available() === false ? `${feature.name} requires ${feature.requires}` : false;
}
