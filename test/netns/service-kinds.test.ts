/** NodePorts, load balancer addresses, traffic policies and affinity, from everywhere a client can be. */
import assert from 'node:assert/strict';
import test, { after, before, beforeEach, describe } from 'node:test';
import { writeNftParts } from '../../src/kernel/nft/index.ts';
import type { Service } from '../../src/model/kubernetes.ts';
import { type EbpfEngine, masqueradeParts } from '../../src/service/engines/ebpf/index.ts';
import { serviceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService } from '../../src/service/testing.ts';
import type { ServiceFacts, SliceFacts } from '../../src/service/types.ts';
import { applyAll, openEngine, slicesOf } from '../lib/service-engine.ts';
import { addNeighbours } from '../lib/service-neighbours.ts';
import { ServiceNode, type TestPod } from '../lib/services.ts';

const ports = [
  { name: 'tcp', port: 80, nodePort: 30_080, protocol: 'TCP' as const },
  { name: 'udp', port: 53, nodePort: 30_053, protocol: 'UDP' as const },
];
const LB = { ip4: '203.0.113.7', ip6: 'fd00:113::7' };

describe('kinds of Services', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let outside: TestPod;
  let remote: TestPod;
  let client: TestPod;
  let one: TestPod;
  let two: TestPod;
  const services = new Map<string, ServiceFacts>();
  const slices = new Map<string, SliceFacts>();
  const planner = new ServicePlanner(
    { services, slices },
    aNode({ nodePortAddresses: ['192.168.77.1', '127.0.0.1', 'fd77::1', '::1'] }),
  );

  /** Programs the Service with these endpoints; the host `remote` counts as another node's pod. */
  function put(spec: Partial<Service['spec']>, endpoints: TestPod[], status?: Service['status']): void {
    const service = aService(
      { type: 'NodePort', clusterIPs: ['10.96.0.10', 'fd00:10:96::10'], ports, ...spec },
      {},
      status,
    );
    const facts = serviceFacts(service);
    services.set(facts.key, facts);
    slices.clear();
    const nodeNameOf = (pod: TestPod) => (pod === remote ? 'node-b' : 'node-a');
    for (const slice of slicesOf(endpoints, ports, { nodeNameOf })) slices.set(slice.key, slice);
    applyAll(engine, planner);
  }

  const fromOutside = () => ({ netns: outside.netns, cgroup: false });
  const fromNode = () => ({ netns: node.prefix, cgroup: true });
  const fromPod = () => ({ netns: client.netns, cgroup: true });
  const fromPodPackets = () => ({ netns: client.netns, cgroup: false });
  const host = (seen: { client?: string } | undefined) =>
    seen?.client?.replace(/:\d+$/, '').replace(/[[\]]/g, '');
  const address = { ip4: '192.168.77.1', ip6: 'fd77::1' } as const;
  const families = ['ip4', 'ip6'] as const;

  before(async () => {
    node = ServiceNode.create('k');
    ({ client, one, two, outside, remote } = await addNeighbours(node));
    engine = openEngine(node);
    engine.setServiceRanges(['10.96.0.0/16', 'fd00:10:96::/112']);
    for (const pod of node.pods) engine.attachPodLink(pod.ifindex);
    engine.attachNodeInterface(outside.ifindex);
    writeNftParts(masqueradeParts(), { netns: node.netns });
    node.exec(['ip', 'route', 'add', `${LB.ip4}/32`, 'via', '172.20.7.1'], outside.netns);
    node.exec(['ip', 'route', 'add', `${LB.ip6}/128`, 'via', 'fd00:20:7::1'], outside.netns);
    node.exec(['ip', 'route', 'add', '10.96.0.0/16', 'via', '172.20.7.1'], outside.netns);
  });

  beforeEach(() => put({}, [one, two]));

  after(async () => {
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  for (const family of families) {
    for (const kind of ['tcp', 'udp', 'udp-connected'] as const) {
      const nodePort = kind === 'tcp' ? 30_080 : 30_053;
      test(`${kind} ${family}: a nodePort answers clients outside, on the node, in pods`, async () => {
        for (const from of [fromOutside(), fromNode(), fromPod(), fromPodPackets()]) {
          const seen = await node.attempt(kind, from, address[family], nodePort, { times: 16 });
          assert.deepEqual([...new Set(seen.map((s) => s.result))], ['ok'], JSON.stringify(from));
          assert.deepEqual(
            [...new Set(seen.map((s) => s.server))].sort(),
            ['one', 'two'],
            JSON.stringify(from),
          );
          assert.ok(seen.every((s) => s.peer!.includes(address[family])));
        }
      });
      test(`${kind} ${family}: a nodePort answers on the loopback address of the node`, async () => {
        const loopback = family === 'ip4' ? '127.0.0.1' : '::1';
        const [seen] = await node.attempt(kind, fromNode(), loopback, nodePort);
        assert.equal(seen!.result, 'ok');
        assert.ok(seen!.peer!.includes(loopback));
      });
    }

    test(`${family}: endpoints see this node and not the client, wherever they are`, async () => {
      const [near] = await node.attempt('tcp', fromOutside(), address[family], 30_080);
      assert.equal(near!.result, 'ok');
      // The link of a pod of this test has an address of its own.
      const own = family === 'ip4' ? ['169.254.1.1', '192.168.77.1'] : ['fd77::1', 'fd00:20:7::1'];
      assert.ok(own.includes(host(near)!), host(near));
      put({}, [remote]);
      for (const kind of ['tcp', 'udp'] as const) {
        const [far] = await node.attempt(
          kind,
          fromOutside(),
          address[family],
          kind === 'tcp' ? 30_080 : 30_053,
        );
        assert.equal(far!.result, 'ok');
        assert.equal(far!.server, 'rem');
        assert.equal(host(far), family === 'ip4' ? '172.30.7.1' : 'fd00:30:7::1');
      }
      const [large] = await node.attempt('tcp', fromOutside(), address[family], 30_080, {
        size: 1 << 20,
        timeout: 5,
      });
      assert.equal(large!.result, 'ok');
    });

    test(`${family}: external policy Local uses endpoints of this node and keeps the client's address`, async () => {
      put({ externalTrafficPolicy: 'Local' }, [one, remote]);
      const seen = await node.attempt('tcp', fromOutside(), address[family], 30_080, { times: 12 });
      assert.deepEqual([...new Set(seen.map((s) => s.server))], ['one']);
      assert.deepEqual([...new Set(seen.map(host))], [outside[family]]);
      const short = await node.attempt('tcp', fromPod(), '10.96.0.10', 80);
      assert.equal(short[0]!.result, 'ok');
    });

    test(`${family}: external policy Local without endpoints here drops clients outside, and pods take the short cut`, async () => {
      put({ externalTrafficPolicy: 'Local' }, [remote]);
      const [lost] = await node.attempt('tcp', fromOutside(), address[family], 30_080, { timeout: 0.3 });
      assert.equal(lost!.result, 'timeout');
      const [seen] = await node.attempt('tcp', fromNode(), address[family], 30_080);
      assert.equal(seen!.result, 'ok');
    });

    test(`${family}: without endpoints clients outside are refused, 40 of 40`, async () => {
      put({}, []);
      const tcp = await node.attempt('tcp', fromOutside(), address[family], 30_080, { times: 40 });
      assert.equal(tcp.filter((s) => s.result === 'ECONNREFUSED' && s.ms < 1000).length, 40);
      const udp = await node.attempt('udp-connected', fromOutside(), address[family], 30_053, { times: 40 });
      assert.equal(udp.filter((s) => s.result === 'ECONNREFUSED' && s.ms < 1000).length, 40);
    });

    test(`${family}: a load balancer address serves its source ranges only, the nodePort everybody`, async () => {
      const status = { loadBalancer: { ingress: [{ ip: LB.ip4 }, { ip: LB.ip6 }] } };
      const spec = { type: 'LoadBalancer' as const };
      put(spec, [one], status);
      const [open] = await node.attempt('tcp', fromOutside(), LB[family], 80);
      assert.equal(open!.result, 'ok');
      put({ ...spec, loadBalancerSourceRanges: ['172.20.0.0/16', 'fd00:20::/32'] }, [one], status);
      const [inside] = await node.attempt('tcp', fromOutside(), LB[family], 80);
      assert.equal(inside!.result, 'ok');
      put({ ...spec, loadBalancerSourceRanges: ['172.21.0.0/16', 'fd00:21::/32'] }, [one], status);
      const [denied] = await node.attempt('tcp', fromOutside(), LB[family], 80, { timeout: 0.3 });
      assert.equal(denied!.result, 'timeout');
      const [everybody] = await node.attempt('tcp', fromOutside(), address[family], 30_080);
      assert.equal(everybody!.result, 'ok');
      put({ ...spec, loadBalancerSourceRanges: [] }, [one], status);
      assert.deepEqual([...engine.maps.lb_source_ranges.keys()], []);
    });
  }

  test('a ClusterIP that somebody routes to the node is served', async () => {
    put({}, [remote]);
    const [seen] = await node.attempt('tcp', fromOutside(), '10.96.0.10', 80);
    assert.equal(seen!.result, 'ok');
    assert.equal(host(seen), '172.30.7.1');
  });

  for (const [where, from, target, targetPort] of [
    ['a process of a pod', fromPod, '10.96.0.10', 80],
    ['packets of a pod', fromPodPackets, '10.96.0.10', 80],
    ['clients outside', fromOutside, '192.168.77.1', 30_080],
  ] as const)
    test(`affinity keeps ${where} at one endpoint, until it is switched off`, async () => {
      const affine = { sessionAffinity: 'ClientIP' as const };
      put(affine, [one, two]);
      const sticky = await node.attempt('tcp', from(), target, targetPort, { times: 20 });
      assert.equal(new Set(sticky.map((s) => s.server)).size, 1);
      put({}, [one, two]);
      const spread = await node.attempt('tcp', from(), target, targetPort, { times: 30 });
      assert.equal(new Set(spread.map((s) => s.server)).size, 2);
      put(affine, [one, two]);
      const again = await node.attempt('tcp', from(), target, targetPort, { times: 20 });
      assert.equal(new Set(again.map((s) => s.server)).size, 1);
      // The endpoint goes: the client gets the other one.
      const kept = again[0]!.server === 'one' ? two : one;
      put(affine, [kept]);
      const [moved] = await node.attempt('tcp', from(), target, targetPort);
      assert.equal(moved!.server, kept.name);
    });

  test('affinity ends a while after the last new connection', async () => {
    const config = { clientIP: { timeoutSeconds: 1 } };
    put({ sessionAffinity: 'ClientIP', sessionAffinityConfig: config }, [one, two]);
    const servers = new Set<string>();
    for (let round = 0; round < 20; round++) {
      const seen = await node.attempt('tcp', fromPod(), '10.96.0.10', 80, { times: 3 });
      assert.equal(new Set(seen.map((s) => s.server)).size, 1);
      servers.add(seen[0]!.server!);
      if (servers.size === 2) return;
      await new Promise((resolve) => setTimeout(resolve, 1050));
    }
    assert.fail('always the same endpoint');
  });

  test('the dump names kinds, policies and sizes of hash tables', () => {
    put({ externalTrafficPolicy: 'Local', sessionAffinity: 'ClientIP' }, [one, remote]);
    assert.deepEqual(engine.diff(planner.plans.values()), { missing: [], unwanted: [] });
    const line = engine.dump().find((text) => text.includes('192.168.77.1:30080'))!;
    assert.equal(
      line.replace(/id=\d+/, 'id=N'),
      'SVC 192.168.77.1:30080/TCP id=N NodePort affinity=10800s -> 10.244.7.3:8080, 172.30.7.9:8080 | outside -> 10.244.7.3:8080 (maglev 251)',
    );
  });
});
