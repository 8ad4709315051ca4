/**
 * Containers of a runtime that is no kubelet, with the whole agent behind the plugin, in both Service engines: the
 * capability `portMappings`, with clients outside, on the node and in other containers; and source addresses.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before, describe } from 'node:test';
import { conflist, patchShim } from '../../src/cni/index.ts';
import { createNetns, deleteNetns } from '../../src/kernel/netns/index.ts';
import { distPath } from '../../src/kernel/paths.ts';
import { startAgain, stopProcess } from '../../src/lab/restart.ts';
import { CniTool, type Container, type NetworkList, PluginError } from '../lib/cnitool.ts';
import { type Lab, podOf, run, serviceOf, startLab } from '../lib/lab.ts';
import { until } from '../lib/until.ts';

/** Answers HTTP and datagrams on ports 80 and 81 with its name, the port, and the client's address. */
const SERVER = String.raw`
import socket, sys, threading
name = sys.argv[1]
def tell(a, port): return ('%s %d %s' % (name, port, a[0].replace('::ffff:', ''))).encode()
def serve(kind, port):
    s = socket.socket(socket.AF_INET6, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.bind(('::', port))
    if kind == socket.SOCK_DGRAM:
        def udp():
            while True:
                d, a = s.recvfrom(2048); s.sendto(tell(a, port), a)
        return udp
    s.listen(64)
    def tcp():
        while True:
            c, a = s.accept(); c.recv(2048)
            body = tell(a, port)
            c.sendall(b'HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n' % len(body) + body); c.close()
    return tcp
for port in (80, 81):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        threading.Thread(target=serve(kind, port)).start()
print('ready', flush=True)
`;

/** One datagram from a given port, and its answer. */
const ASK = `
import socket, sys
host, port, own = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)
s.bind(('', own)); s.sendto(b'x', (host, port))
try: print(s.recvfrom(2048)[0].decode())
except socket.timeout: print('timeout')
except OSError as e: print(e)
`;

/** Says the source of each datagram that comes to port 82. */
const HEAR = `
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
s.bind(('::', 82)); print('ready', flush=True)
while True: print(s.recvfrom(100)[1][0].replace('::ffff:', ''), flush=True)
`;

const NODE = 'node1';
const bracket = (address: string) => (address.includes(':') ? `[${address}]` : address);

for (const engine of ['ebpf', 'nftables'] as const)
  describe(`containers with ${engine}`, () => {
    let lab: Lab;
    let folder: string;
    let tool: CniTool;
    let nodeIps: string[];
    let outsideIps: string[];
    const servers: ChildProcess[] = [];
    const spaces: string[] = [];

    before(async () => {
      lab = await startLab('--nodes', '1', '--dual-stack', '--no-demo', '--service-engine', engine);
      folder = mkdtempSync(join(tmpdir(), 'portolan-maps-'));
      const plugin = patchShim(
        readFileSync(distPath('native/portolan-cni')),
        `/run/${lab.name}/${NODE}/cni.sock`,
      );
      writeFileSync(join(folder, 'portolan-cni'), plugin, { mode: 0o755 });
      const list = { ...(conflist() as NetworkList), cniVersion: '1.1.0' };
      tool = new CniTool(list, [folder], join(folder, 'results'));
      const [node] = (
        await lab.get<{ items: { status: { addresses: { type: string; address: string }[] } }[] }>('nodes')
      ).items;
      nodeIps = node!.status.addresses
        .filter(({ type }) => type === 'InternalIP')
        .map(({ address }) => address);
      assert.equal(nodeIps.length, 2);
      outsideIps = nodeIps.map((address) => {
        const [route] = JSON.parse(
          execFileSync('nsenter', [`--net=${lab.netns('underlay')}`, 'ip', '-j', 'route', 'get', address], {
            encoding: 'utf8',
          }),
        ) as { prefsrc: string }[];
        return route!.prefsrc;
      });
    });

    after(async () => {
      for (const child of servers) child.kill('SIGKILL');
      await lab?.down();
      for (const name of spaces) deleteNetns(name);
      rmSync(folder, { recursive: true, force: true });
    });

    /** A container: its namespace and, after `add`, a server in it. */
    function container(
      id: string,
      portMappings: { hostPort: number; containerPort: number; protocol?: string; hostIP?: string }[],
      pod?: string,
    ): Container {
      const name = `${lab.name}-${id}`;
      createNetns(name).close();
      spaces.push(name);
      return {
        id,
        netns: `/run/netns/${name}`,
        capabilityArgs: { portMappings },
        ...(pod ? { args: `IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=${pod}` } : {}),
      };
    }

    async function serve({ id, netns }: Container): Promise<void> {
      const child = lab.start(netns, lab.outside, ['python3', '-c', SERVER, id]);
      servers.push(child);
      await new Promise<void>((resolve, reject) => {
        child.stdout.once('data', () => resolve());
        child.once('exit', () => reject(new Error(`the server of ${id} ended`)));
      });
    }

    /** The server is there before the ADD returns, so the first packet after it must be answered. */
    async function add(one: Container): Promise<void> {
      await serve(one);
      await tool.add(one);
    }

    const at = (netns: string, cgroup: string, command: string[]) =>
      run('sh', lab.inside(netns, cgroup, command).slice(1));
    const outside = (command: string[]) => at(lab.netns('underlay'), lab.outside, command);
    /** What a server says, or `refused`, or curl's status. */
    const said = ({ status, stdout }: { status: number; stdout: string }) =>
      status === 7 ? 'refused' : status === 0 ? stdout.trim() : `curl ${status}`;
    const url = (address: string, port: number) => `http://${bracket(address)}:${port}/`;
    const curl = async (address: string, port: number) =>
      said(await outside(['curl', '-s', '-m', '10', url(address, port)]));
    const nodeCurl = async (address: string, port: number) =>
      said(await lab.exec(NODE, ['curl', '-s', '-m', '10', url(address, port)]));
    const datagram = async (address: string, port: number, own: number) =>
      (await outside(['python3', '-c', ASK, address, String(port), String(own)])).stdout.trim();
    const refused = (code: number, text: RegExp) => (error: unknown) => {
      assert.ok(error instanceof PluginError, String(error));
      assert.equal(error.code, code, error.message);
      assert.match(error.message, text);
      return true;
    };
    const hostPortLines = async () =>
      (await lab.ask<string[]>(NODE, 'service', 'maps')).filter((line) => line.includes('8080'));

    test('a port leads to its container when ADD returns, from everywhere, in both families; DEL ends it (cni-015)', async () => {
      const [v4 = '', v6 = ''] = nodeIps;
      // A client that asked too early is forgotten: its flow must not stay without translation.
      assert.doesNotMatch(await datagram(v4, 8080, 40_001), /web/);
      const web = container('web', [
        { hostPort: 8080, containerPort: 80, protocol: 'tcp' },
        { hostPort: 8080, containerPort: 81, protocol: 'udp' },
        { hostPort: 8081, containerPort: 80, hostIP: v4 },
        { hostPort: 8081, containerPort: 81, hostIP: v6 },
        { hostPort: 8082, containerPort: 80, hostIP: '127.0.0.1' },
      ]);
      const other = container('other', []);
      await tool.add(other);
      await add(web);
      for (const [index, address] of nodeIps.entries()) {
        assert.equal(await curl(address, 8080), `web 80 ${outsideIps[index]}`);
        assert.equal(await datagram(address, 8080, 40_001), `web 81 ${outsideIps[index]}`);
        assert.match(await nodeCurl(address, 8080), /^web 80 /);
        assert.match(
          said(await at(other.netns, lab.outside, ['curl', '-s', '-m', '10', url(address, 8080)])),
          /^web 80 /,
        );
        // It reaches itself by the node's address.
        assert.match(
          said(await at(web.netns, lab.outside, ['curl', '-s', '-m', '10', url(address, 8080)])),
          /^web 80 /,
        );
      }
      assert.match(await curl(v4, 8081), /^web 80 /);
      assert.match(await curl(v6, 8081), /^web 81 /);
      assert.match(await nodeCurl('127.0.0.1', 8080), /^web 80 /);
      assert.match(await nodeCurl('127.0.0.1', 8082), /^web 80 /);
      assert.equal(await curl(v4, 8082), 'refused');
      await tool.check(web);
      await assert.rejects(
        tool.check({
          ...web,
          capabilityArgs: { portMappings: [{ hostPort: 9, containerPort: 9, protocol: 'tcp' }] },
        }),
        refused(102, /\*:9\/TCP to 9 was not asked for at ADD/),
      );

      await stopProcess(lab.name, NODE, true);
      assert.match(await curl(v4, 8080), /^web 80 /);
      await startAgain(lab.name, NODE);
      await until(async () => (await hostPortLines()).length > 0, { what: 'the agent answers' });
      for (const address of nodeIps) assert.match(await curl(address, 8080), /^web 80 /);
      await until(
        () =>
          tool.check(web).then(
            () => true,
            () => false,
          ),
        { what: 'CHECK succeeds' },
      );

      await tool.del(web);
      for (const address of nodeIps) assert.equal(await curl(address, 8080), 'refused');
      assert.equal(await nodeCurl('127.0.0.1', 8082), 'refused');
      assert.deepEqual(await hostPortLines(), []);
      // The same client port, another container: datagrams go to the new one.
      const next = container('next', [{ hostPort: 8080, containerPort: 80, protocol: 'udp' }]);
      await add(next);
      for (const address of nodeIps) assert.match(await datagram(address, 8080, 40_001), /^next 80 /);
      await tool.del(web);
      for (const address of nodeIps) assert.match(await datagram(address, 8080, 40_001), /^next 80 /);
      await tool.del(next);
      await tool.del(other);
    });

    test("another's port is refused by its name, and nothing of the refused container stays (cni-015)", async () => {
      const [v4 = ''] = nodeIps;
      await lab.apply([
        podOf('hosted', ['busybox', 'httpd', '-f', '-p', '8080', '-h', '/usr/share'], {
          nodeName: NODE,
          container: { ports: [{ containerPort: 8080, hostPort: 8090 }] },
        }),
        serviceOf('taken', { app: 'hosted' }, [{ port: 80, nodePort: 30_099 }], { type: 'NodePort' }),
      ]);
      await lab.waitReady('app=hosted');
      await until(async () => /^curl|^[^r]/.test(await curl(v4, 8090)), { what: 'the hostPort of the Pod' });
      const first = container('first', [{ hostPort: 8100, containerPort: 80, hostIP: v4 }]);
      await add(first);
      await until(
        async () =>
          (await lab.ask<string[]>(NODE, 'service', 'maps')).some((line) => line.includes(':30099')),
        { what: 'the nodePort' },
      );
      const cases: [object, number, RegExp][] = [
        [{ hostPort: 8100, containerPort: 80 }, 105, /:8100\/TCP .*belongs to container "first"/],
        [{ hostPort: 8090, containerPort: 80 }, 105, /:8090\/TCP .*belongs to pod "default\/hosted"/],
        [{ hostPort: 30_099, containerPort: 80 }, 105, /:30099\/TCP .*belongs to Service "default\/taken"/],
        [
          { hostPort: 8101, containerPort: 80, hostIP: '203.0.113.9' },
          104,
          /203\.0\.113\.9:8101\/TCP.*the node has no such/,
        ],
        [{ hostPort: 8101, containerPort: 0 }, 7, /containerPort/],
        ...(engine === 'ebpf'
          ? [
              [
                { hostPort: 8101, containerPort: 80, protocol: 'sctp' },
                106,
                /:8101\/SCTP.*carries TCP and UDP/,
              ] as [object, number, RegExp],
            ]
          : []),
      ];
      const late = container('late', []);
      if (engine === 'nftables') {
        const sctp = { portMappings: [{ hostPort: 8101, containerPort: 80, protocol: 'sctp' }] };
        await tool.add({ ...late, capabilityArgs: sctp });
        const maps = await lab.ask<string[]>(NODE, 'service', 'maps');
        assert.ok(
          maps.some((line) => line.includes(':8101/SCTP')),
          maps.join('\n'),
        );
        await tool.del(late);
      }
      for (const [mapping, code, text] of cases)
        await assert.rejects(
          tool.add({ ...late, capabilityArgs: { portMappings: [mapping] } }),
          refused(code, text),
        );
      assert.ok(!(await lab.podLinks(NODE)).some(({ containerId }) => containerId === 'late'));
      // Another protocol, another address: no conflict.
      const beside = {
        ...late,
        capabilityArgs: {
          portMappings: [
            { hostPort: 8100, containerPort: 81, protocol: 'udp' },
            { hostPort: 8100, containerPort: 81, hostIP: '127.0.0.1' },
          ],
        },
      };
      await add(beside);
      assert.match(await curl(v4, 8100), /^first 80 /);
      assert.match(await nodeCurl('127.0.0.1', 8100), /^late 81 /);
      assert.match(await datagram(v4, 8100, 40_002), /^late 81 /);
      await tool.gc([first]);
      assert.match(await curl(v4, 8100), /^first 80 /);
      assert.equal(await nodeCurl('127.0.0.1', 8100), 'refused');
      await tool.del(first);
      assert.equal(await curl(v4, 8100), 'refused');
    });

    test("the last sandbox of a pod has its ports, and an older one's late DEL takes nothing (cni-019)", async () => {
      const [v4 = ''] = nodeIps;
      const mappings = [{ hostPort: 8110, containerPort: 80, protocol: 'tcp' }];
      const old = container('old', mappings, 'again');
      const young = container('young', mappings, 'again');
      await add(old);
      assert.match(await curl(v4, 8110), /^old 80 /);
      await add(young);
      assert.match(await curl(v4, 8110), /^young 80 /);
      await tool.del(old);
      for (const address of nodeIps) assert.match(await curl(address, 8110), /^young 80 /);
      await tool.check(young);
      await tool.del(young);
      assert.equal(await curl(v4, 8110), 'refused');
    });

    test('what a container sends with an address that is not its own is dropped and counted', async () => {
      const [liar, victim, other] = ['liar', 'victim', 'other2'].map((id) => container(id, []));
      const addresses = async (one: Container) =>
        (await tool.add(one)).ips.map(({ address }) => address.split('/')[0]!);
      const [own, target, stolen] = [
        await addresses(liar!),
        await addresses(victim!),
        await addresses(other!),
      ];
      const ear = lab.start(victim!.netns, lab.outside, ['python3', '-c', HEAR]);
      servers.push(ear);
      let heard = '';
      ear.stdout.on('data', (text: Buffer) => {
        heard += text;
      });
      await until(() => heard.includes('ready'), { what: 'the ear' });
      // Whoever may change its own network may call itself anything.
      for (const address of [...stolen, '203.0.113.5', 'fd00:bad::5'])
        execFileSync('ip', ['-n', liar!.netns.split('/').at(-1)!, 'addr', 'add', address, 'dev', 'lo']);
      const counted = async () =>
        (await lab.ask<{ services: { counters: Record<string, number> } }>(NODE, 'status')).services.counters[
          'drop-spoofed'
        ]!;
      const before = await counted();
      /** Datagrams in this order, each from its source. */
      const say = async (...said: (readonly [source: string, to: string])[]) => {
        const { status, stderr } = await at(liar!.netns, lab.outside, [
          'python3',
          '-c',
          `import socket
for source, to in ${JSON.stringify(said)}:
    s = socket.socket(socket.AF_INET6 if ':' in to else socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((source, 0)); s.sendto(b'x', (to, 82))`,
        ]);
        assert.equal(status, 0, stderr);
      };
      const [node4 = '', node6 = ''] = nodeIps;
      await say(
        [stolen[0]!, target[0]!],
        ['203.0.113.5', target[0]!],
        [stolen[1]!, target[1]!],
        ['fd00:bad::5', target[1]!],
        // To the node itself as well.
        [stolen[0]!, node4],
        [stolen[1]!, node6],
        // Its own, last: when these are there, nothing is under way any more.
        [own[0]!, target[0]!],
        [own[1]!, target[1]!],
      );
      await until(() => own.every((address) => heard.includes(`${address}\n`)), { what: 'its own address' });
      assert.deepEqual(heard.trim().split('\n').sort(), ['ready', ...own].sort());
      assert.equal((await counted()) - before, 6);
      // Duplicate address detection and listener reports are none of it; another container leaves the count alone.
      const name = liar!.netns.split('/').at(-1)!;
      execFileSync('ip', ['-n', name, '-6', 'addr', 'add', 'fe80::77/64', 'dev', 'eth0']);
      await until(
        () =>
          !execFileSync('ip', ['-n', name, '-6', 'addr', 'show', 'dev', 'eth0', 'tentative'], {
            encoding: 'utf8',
          }).includes('fe80::77'),
        { what: 'fe80::77 is free' },
      );
      await tool.del(other!);
      assert.equal((await counted()) - before, 6);
      await stopProcess(lab.name, NODE, true);
      await say([stolen[0]!, target[0]!]);
      await startAgain(lab.name, NODE);
      await until(async () => (await counted()) !== undefined, { what: 'the agent' });
      await say([stolen[1]!, target[1]!], [own[0]!, target[0]!]);
      await until(() => heard.split(`${own[0]}\n`).length === 3, { what: 'its own address' });
      assert.ok(!stolen.some((address) => heard.includes(`${address}\n`)));
      await tool.del(liar!);
      await tool.del(victim!);
    });
  });
