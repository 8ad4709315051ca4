/** From one Service engine to the other on a running node: what goes on, and that nothing of the old one stays. */
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import test, { after, before, describe } from 'node:test';
import { promisify } from 'node:util';
import { addNeighbours } from '../lib/service-neighbours.ts';
import type { SwitchInput, SwitchService } from '../lib/service-switch.ts';
import { ServiceNode, type Talker, type TestPod } from '../lib/services.ts';

const run = promisify(execFile);
const NODE = { ip4: '192.168.77.1', ip6: 'fd77::1' } as const;
const families = ['ip4', 'ip6'] as const;

describe('change of the Service engine', () => {
  let node: ServiceNode;
  let client: TestPod;
  let one: TestPod;
  let two: TestPod;
  let outside: TestPod;
  let remote: TestPod;
  let input: Omit<SwitchInput, 'engine'>;

  async function change(
    engine: SwitchInput['engine'],
    env: Record<string, string> = {},
    more: Partial<SwitchInput> = {},
  ): Promise<{ engine: string; because?: string; passed?: [before: number, after: number] }> {
    const script = join(import.meta.dirname, '../lib/service-switch.ts');
    const { stdout } = await run(
      'nsenter',
      [
        `--net=/run/netns/${node.prefix}`,
        process.execPath,
        script,
        JSON.stringify({ ...input, ...more, engine }),
      ],
      { encoding: 'utf8', env: { ...process.env, ...env } },
    );
    return JSON.parse(stdout);
  }

  const service = (
    name: string,
    number: number,
    pods: readonly TestPod[],
    more: Partial<SwitchService> = {},
  ): SwitchService => ({
    name,
    vips: [`10.96.0.${number}`, `fd00:10:96::${number}`],
    nodePorts: [30_000 + number, 30_100 + number],
    endpoints: pods.flatMap((pod) =>
      families.map((family) => `${pod[family]} ${pod === remote ? 'node-b' : 'node-a'}`),
    ),
    ...more,
  });
  const tables = () => node.exec(['nft', 'list', 'tables']);
  const ratemask = () => node.exec(['sysctl', '-n', 'net.ipv4.icmp_ratemask']).trim();
  const pins = () =>
    existsSync(node.bpffs) ? readdirSync(node.bpffs).filter((name) => name.startsWith('lb-')) : [];
  /** Programs of the engine at links of the node, and in the cgroup, as bpftool sees them. */
  const programs = () => [
    ...(JSON.parse(node.exec(['bpftool', '-j', 'net', 'show'])) as { tc: { name: string }[] }[])
      .flatMap(({ tc }) => tc)
      .map(({ name }) => name)
      .filter((name) => name.startsWith('lb_')),
    ...(
      JSON.parse(
        execFileSync('bpftool', ['-j', 'cgroup', 'show', node.cgroup], { encoding: 'utf8' }).trim() || '[]',
      ) as { name: string }[]
    ).map(({ name }) => name),
  ];
  const from = (pod: TestPod, cgroup = false) => ({ netns: pod.netns, cgroup });
  const works = async () => {
    for (const [who, target, port] of [
      [from(client, true), '10.96.0.10', 80],
      [from(client), '10.96.0.10', 80],
      [from(outside), NODE.ip4, 30_010],
    ] as const) {
      const seen = await node.attempt('tcp', who, target, port, { times: 4, timeout: 10 });
      assert.deepEqual([...new Set(seen.map(({ result }) => result))], ['ok'], `${who.netns} ${target}`);
    }
  };

  before(async () => {
    node = ServiceNode.create('w');
    ({ client, one, two, outside, remote } = await addNeighbours(node));
    node.ip('route add default via 172.20.7.9', 'route add default via fd00:20:7::9');
    input = {
      bpffs: node.bpffs,
      cgroup: node.cgroup,
      podLinks: node.pods.map(({ ifindex }) => ifindex),
      nodeLinks: [
        { ifindex: outside.ifindex, ip4: '172.20.7.1', ip6: 'fd00:20:7::1' },
        { ifindex: remote.ifindex, ip4: '172.30.7.1', ip6: 'fd00:30:7::1' },
      ],
      nodeAddresses: [NODE.ip4, NODE.ip6],
      services: [
        service('web', 10, [one, two]),
        service('self', 11, [one]),
        service('far', 12, [remote]),
        service('near', 13, [one, two], { local: true }),
      ],
    };
  });

  after(() => node?.[Symbol.asyncDispose]());

  /** A flow that stays open, and how the server saw it at first. */
  interface Held {
    readonly name: string;
    readonly talker: Talker;
    readonly tcp: boolean;
    readonly first: string;
  }

  /** Opens a flow of each kind: by packets from pods and the node, by nodePort from outside. */
  async function holdAll(began: string, withNode: boolean): Promise<Held[]> {
    const held: Held[] = [];
    const open = async (what: string, pod: TestPod | undefined, target: string, ports: [number, number]) => {
      const who = pod ? from(pod) : { netns: node.prefix, cgroup: false };
      for (const tcp of what.endsWith('connected') ? [false] : [true, false]) {
        const talker = tcp
          ? node.hold(who, target, ports[0])
          : node.holdUdp(who, target, ports[1], what.endsWith('connected'));
        const name = `${began}: ${tcp ? 'TCP' : 'UDP'} ${what} ${target}`;
        held.push({ name, talker, tcp, first: await talker.ask(tcp ? undefined : 'x') });
      }
    };
    for (const [at, family] of families.entries()) {
      const vip = (number: number) => input.services[number - 10]!.vips[at]!;
      await open('pod to a ClusterIP', client, vip(10), [80, 53]);
      await open('pod to a ClusterIP, connected', client, vip(10), [80, 53]);
      await open('pod to itself', one, vip(11), [80, 53]);
      await open('pod to another node', client, vip(12), [80, 53]);
      await open('pod to a nodePort', client, NODE[family], [30_010, 30_110]);
      await open('outside, policy Cluster', outside, NODE[family], [30_010, 30_110]);
      await open('outside, endpoint elsewhere', outside, NODE[family], [30_012, 30_112]);
      await open('outside, policy Local', outside, NODE[family], [30_013, 30_113]);
      if (withNode) await open('node to a ClusterIP', undefined, vip(10), [80, 53]);
    }
    return held;
  }

  async function goOn(held: readonly Held[], when: string): Promise<void> {
    const said = await Promise.all(
      held.map(async ({ name, talker, tcp, first }) => {
        const word = await talker.ask(when).catch((error: Error) => error.message);
        const want = tcp ? `echo ${when}` : first;
        return word === want ? [] : [`${name}: ${word}, not ${want}`];
      }),
    );
    assert.deepEqual(said.flat(), [], when);
  }

  test('open flows of both engines go on, there and back; nothing of the engine before stays', async () => {
    assert.deepEqual(await change('ebpf'), { engine: 'ebpf' });
    assert.ok(pins().length > 0);
    assert.ok(programs().length > 0);
    assert.doesNotMatch(tables(), /portolan-services/);
    await works();
    const bySocket = node.hold(from(client, true), '10.96.0.10', 80);
    await bySocket.ask();
    const streams = [
      node.stream(from(client), '10.96.0.10', 80),
      node.stream(from(client), 'fd00:10:96::12', 80),
      node.stream(from(outside), NODE.ip4, 30_010),
      node.stream(from(outside), NODE.ip6, 30_012),
      node.stream(from(outside), NODE.ip4, 30_013),
    ];
    for (const stream of streams) await stream.ask();
    /** While an engine takes over, what is sent is repeated at most; nothing is lost or changed. */
    const flow = async () => {
      for (const stream of streams) {
        const before = Number(await stream.ask(''));
        const until = performance.now() + 20_000;
        let now = before;
        while (!(now > before + 3) && performance.now() < until) {
          await new Promise((resolve) => setTimeout(resolve, 20));
          now = Number(await stream.ask(''));
        }
        assert.ok(now > before + 3, `${before} KiB, then ${now}`);
      }
    };
    const held = await holdAll('begun in eBPF', false);
    await goOn(held, 'before');

    assert.deepEqual(await change('nftables'), { engine: 'nftables' });
    assert.deepEqual(pins(), []);
    assert.deepEqual(programs(), []);
    assert.match(tables(), /ip portolan-services/);
    assert.equal(ratemask(), '6160');
    assert.doesNotMatch(node.exec(['nft', 'list', 'ruleset']), /service_/);
    await works();
    assert.equal(await bySocket.ask('still there'), 'echo still there');
    await goOn(held, 'in nftables');
    await flow();
    held.push(...(await holdAll('begun in nftables', true)));
    await goOn(held, 'in nftables, too');

    assert.deepEqual(await change('ebpf'), { engine: 'ebpf' });
    assert.doesNotMatch(tables(), /portolan-services/);
    assert.equal(ratemask(), '6168');
    await goOn(held, 'in eBPF again');
    await flow();
    await works();
  });

  test('auto takes nothing away where eBPF serves, whatever a probe says', async () => {
    const before = pins();
    await assert.rejects(change('auto', { PORTOLAN_FAKE_MISSING: 'socketHooks' }), /KERNEL_FEATURE_MISSING/);
    assert.deepEqual(pins(), before);
    assert.doesNotMatch(tables(), /portolan-services/);
    await works();
  });

  test('auto takes nftables where eBPF lacks something, and says what', async () => {
    await change('nftables');
    const { engine, because } = await change('auto', { PORTOLAN_FAKE_MISSING: 'socketHooks' });
    assert.equal(engine, 'nftables');
    assert.match(because!, /not eBPF: .*cgroup socket hooks/);
    await works();
    // What conntrack has forgotten is not left alone any more.
    const { engine: now, passed } = await change('auto', {}, { forget: true });
    assert.equal(now, 'ebpf');
    assert.ok(passed![0] > 0);
    assert.equal(passed![1], 0);
    await works();
  });
});
