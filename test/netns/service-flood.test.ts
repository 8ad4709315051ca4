/**
 * A flood of new flows from outside (the shape of a SYN flood, each packet of another client) costs established
 * connections nothing, and memory does not grow.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import test, { after, before, describe } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { mapMemoryBytes } from '../../src/kernel/bpf/index.ts';
import { writeNftParts } from '../../src/kernel/nft/index.ts';
import { type EbpfEngine, masqueradeParts } from '../../src/service/engines/ebpf/index.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import { openEngine } from '../lib/service-engine.ts';
import { ServiceNode, type TestPod } from '../lib/services.ts';
import { compiled, firstLine } from '../lib/soak.ts';

const VIP = '10.96.0.10';
const NODE_PORTS = { tcp: 30_080, udp: 30_081 };
const PORT = 9000;
/** Answers every datagram, so that the backend's side of each new flow is seen, too. */
const ECHO = 9001;
/** Places for flows; more are not given. */
const FLOWS = 8192;
/** Many times what the flow tables hold. */
const FLOOD = 60_000;

/** A server that speaks by itself a while after it was asked, when the flow has been idle for long. */
const SERVER = `
import socket, threading, time
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('', ${PORT})); s.listen(64)
def one(c):
    while True:
        d = c.recv(99)
        if not d: break
        c.sendall(d)
        if d.startswith(b'late'): time.sleep(float(d.split()[1])); c.sendall(b'pushed')
print('ready', flush=True)
while True:
    c, a = s.accept(); threading.Thread(target=one, args=(c,), daemon=True).start()
`;
/** Ends well if the server's words arrive, and an answer after them. */
const CLIENT = `
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5); s.settimeout(20)
s.sendall(b'late ' + sys.argv[3].encode()); s.recv(99); print('open', flush=True)
got = s.recv(99)
s.sendall(b'bye'); got += b' ' + s.recv(99)
print(got.decode(), flush=True)
`;

describe('flood', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let attacker: TestPod;
  let honest: TestPod;
  let client: TestPod;
  const stops: (() => void)[] = [];

  before(async () => {
    node = ServiceNode.create('w');
    const servers = [node.addPod('one'), node.addPod('two')];
    client = node.addPod('client');
    attacker = node.addHost('bad', 20);
    honest = node.addHost('good', 30);
    for (const { netns } of servers) {
      for (const words of [
        ['python3', '-c', SERVER],
        [compiled('soak'), 'serve', String(ECHO)],
      ]) {
        const child = spawn('ip', ['netns', 'exec', netns, ...words]);
        stops.push(() => child.kill('SIGKILL'));
        await firstLine(child);
      }
    }
    // Answers to the flood find somebody who is silent, as victims of forged addresses should be.
    node.ip(`route add 198.18.0.0/15 via ${attacker.ip4}`);
    engine = openEngine(node, { sizes: { flows: FLOWS, flowsUnproven: FLOWS } });
    engine.setServiceRanges(['10.96.0.0/16']);
    for (const pod of node.pods) engine.attachPodLink(pod.ifindex);
    for (const { ifindex } of [attacker, honest]) engine.attachNodeInterface(ifindex);
    writeNftParts(masqueradeParts(), { netns: node.netns });
    const ports = [
      { name: 'tcp', port: 80, nodePort: NODE_PORTS.tcp, protocol: 'TCP' as const },
      { name: 'udp', port: 80, nodePort: NODE_PORTS.udp, protocol: 'UDP' as const },
    ];
    const service = serviceFacts(aService({ type: 'NodePort', clusterIPs: [VIP], ports }));
    const slices = ports.map(({ name, protocol }) =>
      sliceFacts(
        aSlice(
          servers.map(({ ip4 }) => `${ip4} node-a`),
          { name: `web-${name}`, portName: name, protocol, port: protocol === 'UDP' ? ECHO : PORT },
        ),
      ),
    );
    const planner = new ServicePlanner(
      {
        services: new Map([[service.key, service]]),
        slices: new Map(slices.map((slice) => [slice.key, slice])),
      },
      aNode({ nodePortAddresses: ['192.168.77.1'] }),
    );
    assert.deepEqual([...engine.apply(planner.planAll()).failed], []);
  });

  after(async () => {
    for (const stop of stops) stop();
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  const open = async (netns: string, address: string, port: number, seconds: number) => {
    const words = [
      ...['netns', 'exec', netns, 'python3', '-c', CLIENT],
      address,
      String(port),
      String(seconds),
    ];
    const child: ChildProcess = spawn('ip', words);
    stops.push(() => child.kill('SIGKILL'));
    let text = '';
    const hear = (part: Buffer) => (text += part);
    child.stderr!.on('data', hear);
    child.stdout!.on('data', hear);
    const ended = new Promise<string>((resolve) =>
      child.once('close', () => resolve(text.trim().split(/\n+/).slice(1).join(' '))),
    );
    while (text === '' && child.exitCode === null) await sleep(10);
    return ended;
  };

  for (const kind of ['syn', 'udp'] as const)
    test(`${FLOOD} new flows by ${kind}: idle connections go on, also where the server speaks first`, async () => {
      const memory = () => Object.values(engine.maps).reduce((sum, map) => sum + mapMemoryBytes(map), 0);
      const before = memory();
      const idle = 4;
      const clients = await Promise.all(
        Array.from({ length: 6 }, (_, at) =>
          at % 2
            ? open(honest.netns, '192.168.77.1', NODE_PORTS.tcp, idle)
            : open(client.netns, VIP, 80, idle),
        ),
      );
      const mac = JSON.parse(
        execFileSync('ip', ['-j', '-n', node.prefix, 'link', 'show', 'up20'], { encoding: 'utf8' }),
      )[0].address as string;
      const port = kind === 'syn' ? NODE_PORTS.tcp : NODE_PORTS.udp;
      const words = ['eth0', mac, '192.168.77.1', port, kind, FLOOD, 40_000].map(String);
      const flood = spawn('ip', ['netns', 'exec', attacker.netns, compiled('flood'), ...words]);
      stops.push(() => flood.kill('SIGKILL'));
      const [sent] = (await firstLine(flood)).split(' ').map(Number);
      assert.equal(sent, FLOOD);
      assert.deepEqual(
        await Promise.all(clients),
        clients.map(() => 'pushed bye'),
      );
      const after = memory();
      assert.ok(after <= before, `${after - before} bytes more`);
      const flows = engine.flows.count().used;
      assert.ok(flows <= FLOWS, `${flows} flows`);
      // Connections that the kernel follows are bounded by itself; those that were never answered go first.
      const tracked = Number(node.exec(['conntrack', '-C']));
      const limit = Number(node.exec(['sysctl', '-n', 'net.netfilter.nf_conntrack_max']));
      const forwarded = engine.counters()['forward-flow'];
      console.log(
        `${sent} ${kind}: ${forwarded} flows opened, ${flows} kept, conntrack ${tracked} of ${limit}`,
      );
      assert.ok(tracked <= limit);
    });
});
