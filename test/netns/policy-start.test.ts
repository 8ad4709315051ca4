/** A pod under fire from before its namespace exists: with a policy that denies, not one packet gets in. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { PodLinkKind } from '../../src/podlink/kinds.ts';
import type { PolicyFacts } from '../../src/policy/index.ts';
import { namespaceLabels, type PodFacts, PolicyController, policyFacts } from '../../src/policy/index.ts';
import { CniNode } from '../lib/cni-node.ts';
import { MemoryTable } from '../lib/policy-cluster.ts';
import { type Place, Prober } from '../lib/policy-net.ts';

const PODS = 10;

for (const kind of ['routed', 'bridge'] as const)
  test(`a flood at all addresses of a node reaches pods of open namespaces only: ${kind}`, () => flood(kind));

async function flood(kind: PodLinkKind): Promise<void> {
  const policies = new MemoryTable<PolicyFacts>();
  const pods = new MemoryTable<PodFacts>();
  const namespaces = new MemoryTable<Readonly<Record<string, string>>>();
  for (const name of ['x', 'y', 'z']) namespaces.set(name, namespaceLabels({ metadata: { name } }));
  const deny = policyFacts({
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: { namespace: 'x', name: 'deny' },
    spec: { podSelector: { matchLabels: { closed: 'yes' } }, policyTypes: ['Ingress', 'Egress'] },
  });
  policies.set(deny.key, deny);
  let controller: PolicyController | undefined;
  const node = await CniNode.open({
    kind,
    beforeLink: (attachment) => controller!.isolate(attachment),
    afterRemoved: (attachment) => controller!.forget(attachment),
  });
  let hammer: ChildProcess | undefined;
  const probers: Prober[] = [];
  try {
    controller = new PolicyController({ nodeName: 'n', policies, pods, namespaces, netns: node.netns });
    await controller.start([]);
    const known = (namespace: string, name: string) =>
      pods.set(`${namespace}/${name}`, {
        namespace,
        name,
        uid: name,
        labels: { closed: 'yes' },
        node: 'n',
        hostNetwork: false,
        ended: false,
        addresses: [],
        ports: [],
      });
    const add = (namespace: string, name: string, netns: string) =>
      node.network.add({ containerId: name, ifname: 'eth0', netns, pod: { namespace, name, uid: name } });
    const clientPath = node.pod();
    known('z', 'hammer');
    const client = await add('z', 'hammer', clientPath);
    const targets = Array.from({ length: 2 * PODS + 4 }, (_, at) => [
      `10.244.1.${2 + at}`,
      `fd00:10:244:1::${(2 + at).toString(16)}`,
    ]).flat();
    const script = new URL('../lib/policy-hammer.ts', import.meta.url).pathname;
    const child = spawn(process.execPath, [script, clientPath, ...client.addresses.map(String), ...targets], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    hammer = child;
    await new Promise((resolve) => child.stdout.once('data', resolve));
    const arrived = { x: 0, y: 0 };
    for (let at = 0; at < PODS; at++)
      for (const namespace of ['x', 'y'] as const) {
        const name = `${namespace}${at}`;
        const path = node.pod();
        const place = { name, netns: path } as Place;
        const prober = new Prober(place);
        probers.push(prober);
        // Of half the pods the API server's word comes late.
        if (at % 2 === 0) known(namespace, name);
        const attachment = await add(namespace, name, path);
        assert.ok(attachment.addresses.every((address) => targets.includes(String(address))));
        await sleep(15);
        if (at % 2 === 1) known(namespace, name);
        await sleep(25);
        arrived[namespace] += prober.drain().size;
      }
    await sleep(100);
    for (const prober of probers)
      arrived[prober.place.name.startsWith('x') ? 'x' : 'y'] += prober.drain().size;
    assert.equal(arrived.x, 0, `${arrived.x} packets got into closed pods`);
    assert.ok(arrived.y > PODS, `${arrived.y} packets got into open pods`);
    const links = node.network.list();
    await Promise.all(links.map((each) => node.network.del(each)));
    assert.equal(controller.compiler.isolated.size, 0);
  } finally {
    hammer?.kill('SIGKILL');
    for (const prober of probers) prober.close();
    await controller?.close();
    await node[Symbol.asyncDispose]();
  }
}
