/**
 * Debian's containerd and runc with our configuration list: real pods through CRI. containerd runs inside the node's
 * namespace on folders of its own; the native snapshotter copies, so it works on any file system.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { rmdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { PortMaps } from '../../src/agent/port-maps.ts';
import { NftablesEngine, ServiceController } from '../../src/service/index.ts';
import { aNode } from '../../src/service/testing.ts';
import { CniNode, inNetns } from '../lib/cni-node.ts';
import { containerdMissing, startContainerd } from '../lib/containerd.ts';
import { CriClient, type Fields, type Message } from '../lib/cri-client.ts';

const IMAGE = 'docker.io/portolan/busybox:test';
const missing = containerdMissing('/usr/lib/cni/loopback');
const skip = missing ? `${missing} is not installed` : false;

/** Serves port mappings of a node at 192.0.2.1, in nftables. */
async function servePorts(node: CniNode, undo: AsyncDisposableStack): Promise<PortMaps> {
  const nothing = { items: new Map<string, never>(), synced: Promise.resolve(), onChange() {} };
  const engine = NftablesEngine.open({ netns: node.netns, nodeName: 'node-a' });
  undo.defer(() => engine.close());
  const maps = new PortMaps({
    store: node.store,
    pods: nothing,
    controller: () => controller,
    engine: () => engine,
  });
  const controller = new ServiceController({
    services: nothing,
    slices: nothing,
    hostPorts: maps.table,
    engine,
    node: aNode({ localAddresses: ['192.0.2.1'], nodePortAddresses: [] }),
    healMs: 0,
  });
  undo.defer(() => controller.close());
  await controller.start();
  return maps;
}

const first = (messages: Message[]): Message => {
  assert.ok(messages[0], 'a message is missing');
  return messages[0];
};

test('containerd runs pods through the plugin: addresses, traffic, and nothing left after removal', {
  skip,
}, async () => {
  // The whole of port mappings but for an API: what containerd sends becomes rules of the node.
  await using undo = new AsyncDisposableStack();
  let maps: PortMaps | undefined;
  const node = undo.use(
    await CniNode.open({
      ports: {
        claim: (attachment) => maps!.claim(attachment),
        publish: (attachment) => maps!.publish(attachment),
        withdraw: (attachment) => maps!.withdraw(attachment),
        check: (attachment) => maps!.check(attachment),
      },
    }),
  );
  maps = await servePorts(node, undo);
  // containerd before 2.0 runs this plugin for every pod besides those of the list.
  symlinkSync('/usr/lib/cni/loopback', join(node.binDir, 'loopback'));
  const containerd = await startContainerd({
    folder: join(node.folder, 'containerd'),
    netns: node.netns,
    image: IMAGE,
    binDir: node.binDir,
    confDir: join(node.folder, 'net.d'),
  });
  const cri = new CriClient(containerd.socket);
  const parent = `/portolan-test-${process.pid}`;
  const sandboxes: string[] = [];
  try {
    const conditions = first((await cri.call('Status', [])).messages(1)).messages(1);
    assert.deepEqual(
      conditions.map((each) => [each.text(1), each.number(2)]),
      [
        ['RuntimeReady', 1],
        ['NetworkReady', 1],
      ],
    );
    const sandboxConfig = (name: string): Fields => [
      [
        1,
        [
          [1, name],
          [2, `uid-${name}`],
          [3, 'default'],
        ],
      ], // metadata
      [2, name], // hostname
      [3, join(node.folder, 'logs')], // log_directory
      ...(name === 'client'
        ? ([
            [
              5,
              [
                [2, 8080],
                [3, 8085],
              ],
            ],
          ] as const)
        : []), // port_mappings
      [8, [[1, parent]]], // linux.cgroup_parent
    ];
    const run = async (name: string) => {
      const id = (await cri.call('RunPodSandbox', [[1, sandboxConfig(name)]])).text(1);
      sandboxes.push(id);
      const network = first(first((await cri.call('PodSandboxStatus', [[1, id]])).messages(1)).messages(5));
      return { id, name, ips: [network.text(1), ...network.messages(2).map((ip) => ip.text(1))] };
    };
    const web = await run('web');
    const client = await run('client');
    assert.deepEqual(web.ips, ['10.244.1.2', 'fd00:10:244:1::2']);
    assert.deepEqual(client.ips, ['10.244.1.3', 'fd00:10:244:1::3']);
    assert.deepEqual(node.store.list()[0]!.pod, { namespace: 'default', name: 'web', uid: 'uid-web' });
    assert.equal(node.store.list()[0]!.containerId, web.id);

    const container = (
      await cri.call('CreateContainer', [
        [1, client.id],
        [
          2,
          [
            [1, [[1, 'main']]],
            [2, [[1, IMAGE]]],
            [11, 'main.log'],
            [15, []],
          ],
        ],
        [3, sandboxConfig('client')],
      ])
    ).text(1);
    await cri.call('StartContainer', [[1, container]]);
    const exec = async (...command: string[]) => {
      const answer = await cri.call('ExecSync', [
        [1, container],
        ...command.map((word) => [2, word] as const),
        [3, 10],
      ]);
      assert.equal(answer.number(3), 0, answer.text(1) + answer.text(2));
      return answer.text(1);
    };
    assert.match(await exec('/bin/ip', 'addr', 'show', 'eth0'), /10\.244\.1\.3\/32/);
    // A raw socket needs no more than what CRI gives by default.
    for (const ip of web.ips)
      assert.match(await exec('/bin/ping', '-c', '1', '-W', '1', ip), / 0% packet loss/);
    execFileSync('ip', ['-n', node.nodeName, 'addr', 'add', '192.0.2.1/32', 'dev', 'lo']);
    assert.match(inNetns(node.nodeName, 'ping', '-c1', '-W1', '10.244.1.3'), / 0% packet loss/);

    // What crictl and nerdctl do for a person: the port works once the pod is there, and only till it stops.
    assert.deepEqual(
      node.store.list().flatMap(({ portMappings }) => portMappings),
      [{ hostPort: 8085, containerPort: 8080, protocol: 'TCP', hostIP: undefined }],
    );
    const ask = () =>
      spawnSync('nsenter', [`--net=${node.netns.path}`, 'curl', '-s', '-m', '10', 'http://192.0.2.1:8085/']);
    await exec('/bin/sh', '-c', 'busybox httpd -p 8080 -h /etc || httpd -p 8080 -h /etc');
    assert.equal(ask().status, 0);

    await cri.call('StopContainer', [
      [1, container],
      [2, 0],
    ]);
    await cri.call('RemoveContainer', [[1, container]]);
    for (const id of [web.id, client.id]) {
      await cri.call('StopPodSandbox', [[1, id]]);
      await cri.call('StopPodSandbox', [[1, id]]);
      await cri.call('RemovePodSandbox', [[1, id]]);
      sandboxes.splice(sandboxes.indexOf(id), 1);
    }
    assert.deepEqual(node.leftovers(), []);
    assert.equal(ask().status, 7, 'nobody has the port any more');

    // The agent is away: the runtime gets a reason that a person can act on, and keeps no half pod.
    await node.server.close();
    await assert.rejects(run('late'), /does not answer/);
    assert.deepEqual(node.leftovers(), []);
  } finally {
    for (const id of sandboxes) {
      await cri.call('StopPodSandbox', [[1, id]]).catch(() => {});
      await cri.call('RemovePodSandbox', [[1, id]]).catch(() => {});
    }
    cri.close();
    await containerd.stop();
    for (const controller of [
      'cpu',
      'cpuacct',
      'cpuset',
      'memory',
      'devices',
      'freezer',
      'blkio',
      'pids',
      'systemd',
      'unified',
      '.',
    ])
      try {
        rmdirSync(join('/sys/fs/cgroup', controller, parent));
      } catch {}
  }
});
