/** Maps that grow and shrink while traffic flows, and maps that are full. */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import { ServiceController, type TableSource } from '../../src/service/controller.ts';
import type { EngineSizes } from '../../src/service/engines/ebpf/index.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import type { ServiceFacts, SliceFacts } from '../../src/service/types.ts';
import { bpftool } from '../lib/bpf.ts';
import { openEngine } from '../lib/service-engine.ts';
import { type Seen, ServiceNode, type TestPod } from '../lib/services.ts';

const VIP = '10.96.0.10';

/** A table as a reflector keeps it. */
class Table<P> implements TableSource<P> {
  readonly items = new Map<string, P>();
  readonly synced = Promise.resolve();
  #tell: (keys: ReadonlySet<string>) => void = () => {};

  onChange(listener: (keys: ReadonlySet<string>) => void): void {
    this.#tell = listener;
  }

  change(put: Iterable<readonly [string, P]>, drop: Iterable<string> = []): void {
    const keys = new Set<string>();
    for (const [key, value] of put) {
      this.items.set(key, value);
      keys.add(key);
    }
    for (const key of drop) {
      this.items.delete(key);
      keys.add(key);
    }
    this.#tell(keys);
  }
}

const service = (at: number | string, ip: string, spec: Parameters<typeof aService>[0] = {}) => {
  const facts = serviceFacts(
    aService(
      { clusterIPs: [ip], ...spec },
      { name: `s${at}` },
      { loadBalancer: { ingress: [{ ip: '203.0.113.9' }] } },
    ),
  );
  return [facts.key, facts] as const;
};
const slice = (at: number | string, endpoints: readonly string[]) => {
  const facts = sliceFacts(
    aSlice(
      endpoints.map((ip) => `${ip} node-a`),
      { name: `s${at}-1`, service: `s${at}` },
    ),
  );
  return [facts.key, facts] as const;
};
const address = (at: number) => `10.97.${at >> 8}.${at & 255}`;

describe('scale of the eBPF engine', () => {
  let node: ServiceNode;
  let clients: { pod: TestPod; cgroup: boolean }[];
  let server: TestPod;

  before(async () => {
    node = ServiceNode.create('s');
    clients = [true, false].map((cgroup) => ({ cgroup, pod: node.addPod(cgroup ? 'sockets' : 'packets') }));
    server = node.addPod('server');
    await node.serve('server', server.netns, server.ip4, 8080);
  });
  after(() => node?.[Symbol.asyncDispose]());

  function open(sizes: EngineSizes) {
    const services = new Table<ServiceFacts>();
    const slices = new Table<SliceFacts>();
    const engine = openEngine(node, { sizes });
    for (const pod of node.pods) engine.attachPodLink(pod.ifindex);
    services.change([service('', VIP)]);
    slices.change([slice('', [server.ip4])]);
    const results: [string, string | undefined][] = [];
    const controller = new ServiceController({
      services,
      slices,
      serviceRanges: ['10.96.0.0/15'],
      engine,
      node: aNode({ nodePortAddresses: ['192.168.77.1'] }),
      healMs: 0,
      retry: { firstMs: 20, maxMs: 40 },
      onResult: (key, error) => results.push([key, error?.message]),
    });
    const store = (name: string) => engine.status().stores.find((one) => one.name === name)!;
    const close = () => {
      controller.close();
      engine.remove();
    };
    return { services, slices, engine, controller, results, store, close };
  }

  test('maps grow and shrink, and no connection is lost or refused meanwhile', async () => {
    const made = open({ frontends: 8 });
    const { services, slices, engine, controller, store } = made;
    try {
      await controller.start();
      const from = ({ pod, cgroup }: (typeof clients)[number]) => ({ netns: pod.netns, cgroup });
      const held = clients.map((client) => node.hold(from(client), VIP, 80));
      for (const talker of held) await talker.ask();
      let going = true;
      const seen: Seen[] = [];
      const load = clients.map(async (client) => {
        while (going)
          seen.push(...(await node.attempt('tcp', from(client), VIP, 80, { times: 100, timeout: 3 })));
      });
      const STEP = 1000;
      const STEPS = 6;
      const bytes: number[] = [];
      const numbers = (step: number) => Array.from({ length: STEP }, (_, at) => step * STEP + at);
      for (let step = 0; step < STEPS; step++) {
        slices.change(numbers(step).map((at) => slice(at, [`10.244.8.${at % 250}`, `10.244.9.${at % 250}`])));
        services.change(numbers(step).map((at) => service(at, address(at))));
        await controller.settled();
        bytes.push(store('lb_frontends').bytes + store('lb_backends').bytes + store('lb_tables').bytes);
        for (const talker of held) assert.equal(await talker.ask(`step ${step}`), `echo step ${step}`);
      }
      assert.deepEqual(engine.diff(controller.plans.values()), { missing: [], unwanted: [] });
      assert.equal(store('lb_backends').entries, STEP * STEPS * 2 + 1);
      assert.ok(bytes.at(-1)! > bytes[0]! * 3, bytes.join());
      const [outer] = bpftool('map', 'dump', 'pinned', `${node.bpffs}/lb-v1/lb_frontends`) as {
        value: string[];
      }[];
      const inner = () => outer!.value.reduceRight((sum, byte) => sum * 256 + Number(byte), 0);
      const { max_entries } = bpftool('map', 'show', 'id', inner()) as { max_entries: number };
      assert.ok(max_entries >= STEP * STEPS * 2, `${max_entries} from 8`);

      for (let step = 0; step < STEPS; step++) {
        services.change(
          [],
          numbers(step).map((at) => `default/s${at}`),
        );
        slices.change(
          [],
          numbers(step).map((at) => `default/s${at}-1`),
        );
        await controller.settled();
      }
      // What was freed rests for a moment.
      await new Promise((resolve) => setTimeout(resolve, 150));
      assert.deepEqual(await controller.heal(), []);
      const after = store('lb_frontends').bytes + store('lb_backends').bytes + store('lb_tables').bytes;
      assert.ok(after < bytes.at(-1)! / 3, `${after} of ${bytes.at(-1)}`);
      for (const talker of held) assert.equal(await talker.ask('less'), 'echo less');
      assert.deepEqual(engine.diff(controller.plans.values()), { missing: [], unwanted: [] });
      going = false;
      await Promise.all(load);
      const failed = seen.filter(({ result }) => result !== 'ok');
      assert.deepEqual(failed, [], `${failed.length} of ${seen.length}`);
      assert.ok(seen.length >= 200);
    } finally {
      made.close();
    }
  });

  const balanced = {
    type: 'LoadBalancer' as const,
    loadBalancerSourceRanges: ['10.0.0.0/8', '192.0.2.0/24'],
  };
  const full = [
    { map: 'lb_frontends', sizes: { frontends: 4, frontendsLimit: 5 }, small: {}, large: {}, endpoints: 1 },
    { map: 'lb_backends', sizes: { backendsLimit: 4 }, small: {}, large: {}, endpoints: 2 },
    { map: 'lb_tables', sizes: { linesLimit: 3 }, small: {}, large: {}, endpoints: 17 },
    { map: 'lb_source_ranges', sizes: { sourceRanges: 3 }, small: balanced, large: balanced, endpoints: 1 },
  ];
  for (const { map, sizes, small, large, endpoints } of full)
    test(`a Service that does not fit into ${map} is named, others work on, and it is served when there is room`, async () => {
      const made = open(sizes);
      const { services, slices, engine, controller, results } = made;
      const ips = (at: number) => Array.from({ length: endpoints }, (_, n) => `10.244.8.${at * 20 + n}`);
      try {
        await controller.start();
        slices.change([slice(1, ips(1)), slice(2, ips(2))]);
        services.change([service(1, address(1), small)]);
        await controller.settled();
        assert.deepEqual(results, []);
        // Another ingress address would be shared otherwise.
        const [key, facts] = service(2, address(2), large);
        services.change([
          [key, { ...facts, loadBalancerIPs: facts.loadBalancerIPs.length > 0 ? ['203.0.113.10'] : [] }],
        ]);
        await controller.settled();
        assert.equal(results.length, 1);
        assert.equal(results[0]![0], 'default/s2');
        assert.match(
          results[0]![1]!,
          new RegExp(
            `^Cannot program Service "default/s2": map "${map}" holds \\d+ of \\d+, want \\d+ more$`,
          ),
        );
        assert.deepEqual([...controller.failed.keys()], ['default/s2']);
        // Nothing of it is there, everything of the others is, and they go on being changed.
        const others = [...controller.plans.values()].filter(({ key }) => key !== 'default/s2');
        assert.deepEqual(engine.diff(others), { missing: [], unwanted: [] });
        for (const { pod, cgroup } of clients) {
          const [seen] = await node.attempt('tcp', { netns: pod.netns, cgroup }, VIP, 80);
          assert.equal(seen!.result, 'ok');
        }
        services.change([], ['default/s1']);
        slices.change([], ['default/s1-1']);
        const until = performance.now() + 5000;
        while (controller.failed.size > 0 && performance.now() < until)
          await new Promise((resolve) => setTimeout(resolve, 20));
        assert.deepEqual(results.at(-1), ['default/s2', undefined]);
        assert.deepEqual(engine.diff(controller.plans.values()), { missing: [], unwanted: [] });
      } finally {
        made.close();
      }
    });

  test('status states limits that nobody reaches: 16 million of each', () => {
    const { store, close } = open({});
    try {
      for (const name of ['lb_frontends', 'lb_backends', 'lb_tables'])
        assert.ok(store(name).limit > 16_000_000, `${name}: ${store(name).limit}`);
    } finally {
      close();
    }
  });
});
