/** From one Service engine to the other on a running node: what goes on, and that nothing of the old one stays. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import test, { after, before, describe } from 'node:test';
import type { SwitchInput } from '../lib/service-switch.ts';
import { ServiceNode, type TestPod } from '../lib/services.ts';

const VIP = '10.96.0.10';
const NODE = '192.168.77.1';
const NODE_PORT = 30_080;

describe('change of the Service engine', () => {
  let node: ServiceNode;
  let client: TestPod;
  let outside: TestPod;
  let input: Omit<SwitchInput, 'engine'>;

  function change(
    engine: SwitchInput['engine'],
    env: Record<string, string> = {},
  ): { engine: string; because?: string } {
    const script = join(import.meta.dirname, '../lib/service-switch.ts');
    const said = execFileSync(
      'nsenter',
      [`--net=/run/netns/${node.prefix}`, process.execPath, script, JSON.stringify({ ...input, engine })],
      { encoding: 'utf8', env: { ...process.env, ...env } },
    );
    return JSON.parse(said);
  }

  const tables = () => node.exec(['nft', 'list', 'tables']);
  const pins = () =>
    existsSync(node.bpffs) ? readdirSync(node.bpffs).filter((name) => name.startsWith('lb-')) : [];
  const inCgroup = () => ({ netns: client.netns, cgroup: true });
  const packets = () => ({ netns: client.netns, cgroup: false });
  const works = async () => {
    for (const [from, target, port] of [
      [inCgroup(), VIP, 80],
      [packets(), VIP, 80],
      [{ netns: outside.netns, cgroup: false }, NODE, NODE_PORT],
    ] as const) {
      const seen = await node.attempt('tcp', from, target, port, { times: 4, timeout: 2 });
      assert.deepEqual([...new Set(seen.map(({ result }) => result))], ['ok'], `${from.netns} ${target}`);
    }
  };

  before(async () => {
    node = ServiceNode.create('w');
    client = node.addPod('client');
    const server = node.addPod('server');
    outside = node.addHost('out', 20);
    await node.serve('server', server.netns, server.ip4, 8080);
    input = {
      bpffs: node.bpffs,
      cgroup: node.cgroup,
      podLinks: node.pods.map(({ ifindex }) => ifindex),
      nodeLink: outside.ifindex,
      vip: VIP,
      nodeAddress: NODE,
      nodePort: NODE_PORT,
      endpoints: [`${server.ip4} node-a`],
    };
  });

  after(() => node?.[Symbol.asyncDispose]());

  test('eBPF leaves maps, links and programs, which nftables takes away; sockets stay connected', async () => {
    assert.deepEqual(change('ebpf'), { engine: 'ebpf' });
    assert.ok(pins().length > 0);
    assert.doesNotMatch(tables(), /portolan-services/);
    await works();
    const bySocket = node.hold(inCgroup(), VIP, 80);
    await bySocket.ask();
    assert.deepEqual(change('nftables'), { engine: 'nftables' });
    assert.deepEqual(pins(), []);
    assert.match(tables(), /ip portolan-services/);
    assert.doesNotMatch(node.exec(['nft', 'list', 'ruleset']), /service_/);
    await works();
    assert.equal(await bySocket.ask('still there'), 'echo still there');
  });

  test('nftables leaves its tables, which eBPF takes away, and everybody is served', async () => {
    change('nftables');
    change('ebpf');
    assert.doesNotMatch(tables(), /portolan-services/);
    await works();
  });

  test('auto takes nothing away where eBPF serves, whatever a probe says', async () => {
    change('ebpf');
    const before = pins();
    assert.throws(() => change('auto', { PORTOLAN_FAKE_MISSING: 'socketHooks' }), /KERNEL_FEATURE_MISSING/);
    assert.deepEqual(pins(), before);
    assert.doesNotMatch(tables(), /portolan-services/);
    await works();
  });

  test('auto takes nftables where eBPF lacks something, and says what', async () => {
    change('nftables');
    const { engine, because } = change('auto', { PORTOLAN_FAKE_MISSING: 'socketHooks' });
    assert.equal(engine, 'nftables');
    assert.match(because!, /not eBPF: .*cgroup socket hooks/);
    await works();
    assert.equal(change('auto').engine, 'ebpf');
    await works();
  });
});
