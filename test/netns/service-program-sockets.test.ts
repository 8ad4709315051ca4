/**
 * The programs at sockets, system call by system call: protocols that are not load balanced, sockets that talk to many or
 * go on elsewhere, loopback and limited sources, entries that lead nowhere, no room to remember. The kernel runs such
 * programs for sockets only, so a process makes some.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface, type Interface } from 'node:readline';
import test, { after, before, describe } from 'node:test';
import { viewOf } from '../../src/codec/index.ts';
import { mapById } from '../../src/kernel/bpf/index.ts';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import {
  encodeEndpoint,
  FRONTEND,
  frontendStruct,
  peerStruct,
  writeAddress,
} from '../../src/service/engines/ebpf/layout.ts';
import type { EngineSizes } from '../../src/service/engines/ebpf/objects.ts';
import { MapContents, type Protocol, u32 } from '../lib/lb-map-contents.ts';
import { FRONTENDS, openWithFrontends } from '../lib/lb-programs.ts';
import { ServiceNode } from '../lib/services.ts';

const SCRIPT = `
import errno, json, socket, sys
sockets = {}
KINDS = {'tcp': (socket.SOCK_STREAM, 0), 'udp': (socket.SOCK_DGRAM, 0), 'udplite': (socket.SOCK_DGRAM, 136), 'mptcp': (socket.SOCK_STREAM, 262), 'ping': (socket.SOCK_DGRAM, 1)}
def family(host): return socket.AF_INET6 if ':' in host else socket.AF_INET
def do(what, name, *more):
    if what == 'socket':
        kind, six = more
        type_, protocol = KINDS[kind]
        if kind == 'ping' and six: protocol = 58
        s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, type_, protocol)
        s.settimeout(3)
        sockets[name] = s
        return 'ok'
    s = sockets[name]
    if what == 'bind':
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(tuple(more))
        if s.type == socket.SOCK_STREAM: s.listen(64)
    elif what == 'connect':
        try: s.connect(tuple(more))
        except ConnectionAbortedError: s.connect(tuple(more)) # what a refused socket says first of all
    elif what == 'send': s.sendto(b'hi', tuple(more))
    elif what == 'answer':
        data, client = s.recvfrom(99)
        s.sendto(data, client)
    elif what == 'name': return list(s.getsockname()[:2])
    elif what == 'from': return list(s.recvfrom(99)[1][:2])
    elif what == 'peer': return list(s.getpeername()[:2])
    elif what == 'close': sockets.pop(name).close()
    return 'ok'
for line in sys.stdin:
    try: out = do(*json.loads(line))
    except OSError as e: out = errno.errorcode.get(e.errno, str(e))
    print(json.dumps(out), flush=True)
`;

type Answer = string | readonly [host: string, port: number];

/** A process that makes the system calls that it is told, in the node's cgroup. */
class Caller {
  readonly #child: ChildProcess;
  readonly #lines: Interface;
  #count = 0;

  constructor(node: ServiceNode, netns: string) {
    const inside = ['ip', 'netns', 'exec', netns, 'python3', '-c', SCRIPT];
    const enter = `echo $$ > ${node.cgroup}/cgroup.procs; exec "$@"`;
    this.#child = spawn('sh', ['-ec', enter, 'sh', ...inside], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#lines = createInterface({ input: this.#child.stdout! });
  }

  async do(...words: readonly (string | number | boolean)[]): Promise<Answer> {
    this.#child.stdin!.write(`${JSON.stringify(words)}\n`);
    const [line] = (await once(this.#lines, 'line')) as [string];
    return JSON.parse(line) as Answer;
  }

  /** A new socket's name. */
  async socket(kind: 'tcp' | 'udp' | 'udplite' | 'mptcp' | 'ping', six: boolean): Promise<string> {
    const name = `${kind}${++this.#count}`;
    assert.equal(await this.do('socket', name, kind, six), 'ok');
    return name;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill('SIGKILL');
    await once(this.#child, 'close');
  }
}

const families = [
  {
    ...{
      family: 'IPv4',
      ...FRONTENDS.IPv4,
      backend: '10.244.2.2',
      other: '10.244.2.3',
      second: '10.96.0.20',
    },
    ...{ loopback: '127.0.0.1', odd: [] as readonly string[] },
  },
  {
    ...{ family: 'IPv6', ...FRONTENDS.IPv6, backend: 'fd00:10:244:2::2', other: 'fd00:10:244:2::3' },
    ...{ second: 'fd00:10:96::20', loopback: '::1' },
    // They begin like loopback addresses.
    odd: ['::5', '::1:0:0:1', '::1:0:0:0:1'],
  },
] as const;
/** More frontends than a socket has places for peers, 16. */
const MORE_PORTS = Array.from({ length: 17 }, (_, at) => 54 + at);

describe('programs at sockets', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let contents: MapContents;
  let caller: Caller;
  let inPod: Caller;

  function open(sizes: EngineSizes = {}): void {
    const backend = { ip4: families[0].backend, ip6: families[1].backend };
    engine = openWithFrontends(node, backend, 'node-b', { sizes });
    contents = new MapContents(engine);
    using frontends = contents.frontends();
    const copy = (from: string, fromPort: number, to: string, toPort: number, protocol: number) =>
      frontends.set(
        encodeEndpoint(to, toPort, protocol),
        frontends.get(encodeEndpoint(from, fromPort, protocol))!,
      );
    for (const { vip, second, loopback, odd } of families) {
      for (const port of MORE_PORTS) copy(vip, 53, vip, port, 17);
      copy(vip, 53, second, 53, 17);
      for (const address of [loopback, ...odd]) copy(vip, 80, address, 80, 6);
    }
  }

  before(async () => {
    node = ServiceNode.create('pk');
    const pod = node.addPod('pod');
    node.ip(
      ...families.flatMap(({ backend, other }) =>
        [backend, other].map(
          (address) => `addr add ${address}/${address.includes(':') ? '128' : '32'} dev lo`,
        ),
      ),
    );
    // Whoever is in group 0 may ping.
    node.exec(['sysctl', '-qw', 'net.ipv4.ping_group_range=0 0']);
    open();
    caller = new Caller(node, node.prefix);
    inPod = new Caller(node, pod.netns);
    for (const { family, backend } of families)
      for (const kind of ['tcp', 'udp'] as const) {
        const name = `${kind}-server-${family}`;
        await caller.do('socket', name, kind, family === 'IPv6');
        assert.equal(await caller.do('bind', name, backend, 8080), 'ok');
      }
  });

  after(async () => {
    await caller?.[Symbol.asyncDispose]();
    await inPod?.[Symbol.asyncDispose]();
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  for (const f of families) {
    const six = f.family === 'IPv6';
    const server = `udp-server-${f.family}`;
    /** What connect() says, and who the peer is then. */
    async function connected(
      kind: 'tcp' | 'udp' | 'udplite' | 'mptcp' | 'ping',
      host: string,
      port: number,
      by = caller,
    ) {
      const name = await by.socket(kind, six);
      const result = await by.do('connect', name, host, port);
      const peer = result === 'ok' ? await by.do('peer', name) : undefined;
      await by.do('close', name);
      return peer ?? result;
    }
    const idOfBackend = (port = 80, protocol: Protocol = 'TCP') =>
      contents.firstBackend(contents.frontendOf(f.vip, port, protocol).inside_line);

    test(`${f.family}: TCP, with several paths too, and UDP go to a backend, and no other protocol does`, async () => {
      assert.deepEqual(await connected('tcp', f.vip, 80), [f.vip, 80]);
      // It is a TCP socket inside that connects, and the one around it is not known to be its.
      assert.deepEqual(await connected('mptcp', f.vip, 80), [f.backend, 8080]);
      assert.deepEqual(await connected('udp', f.vip, 53), [f.vip, 53]);
      const before = engine.counters()['forward-socket'];
      // The node has no route to a VIP: whoever is not translated notices.
      for (const kind of ['udplite', 'ping'] as const)
        assert.equal(await connected(kind, f.vip, 53), 'ENETUNREACH', kind);
      const name = await caller.socket('udplite', six);
      assert.equal(await caller.do('send', name, f.vip, 53), 'ENETUNREACH');
      await caller.do('close', name);
      assert.equal(engine.counters()['forward-socket'], before);
    });

    test(`${f.family}: what cannot be served says so at once, by the error that means it`, async () => {
      const refused = 'ECONNREFUSED';
      assert.equal(await connected('tcp', f.empty, 80), refused);
      assert.equal(await connected('tcp', f.vip, 81), refused);
      assert.equal(await connected('tcp', f.lost, 80), 'EPERM');
      assert.equal(await connected('udp', f.nobody, 53), 'EPERM');
      // What another proxy serves is its own matter: the node has no route, and nobody forbids it.
      assert.equal(await connected('udp', f.notOurs, 53), 'ENETUNREACH');
      using frontends = contents.frontends();
      const { inside_line: line } = frontendStruct.decode(frontends.get(encodeEndpoint(f.vip, 80, 6))!);
      const changed = (map: ReturnType<typeof contents.frontends>, key: Uint8Array, value: Uint8Array) => {
        const old = map.get(key)!.slice();
        map.set(key, value);
        return () => map.set(key, old);
      };
      using lines = mapById(viewOf(engine.maps.lb_tables.get(u32(0))!).getUint32(0, true), 'lb_tables');
      const back = changed(lines, u32(line), new Uint8Array(64));
      const before = engine.counters()['drop-no-backend']!;
      assert.equal(await connected('tcp', f.vip, 80), refused);
      back();
      assert.equal(engine.counters()['drop-no-backend'], before + 1);
      const key = encodeEndpoint(f.vip, 80, 6);
      const value = frontendStruct.decode(frontends.get(key)!);
      // Sources that are limited: the node is one of them or not, and of a pod its link decides.
      for (const [flags, want] of [
        [FRONTEND.RANGES, 'EPERM'],
        [FRONTEND.RANGES | FRONTEND.NODE_ALLOWED, [f.vip, 80]],
      ] as const) {
        const put = changed(frontends, key, frontendStruct.encode({ ...value, flags: value.flags | flags }));
        assert.deepEqual(await connected('tcp', f.vip, 80), want);
        put();
      }
      const datagrams = encodeEndpoint(f.vip, 53, 17);
      const limited = frontendStruct.decode(frontends.get(datagrams)!);
      const put = changed(
        frontends,
        datagrams,
        frontendStruct.encode({ ...limited, flags: limited.flags | FRONTEND.RANGES }),
      );
      const forwarded = engine.counters()['forward-socket'];
      assert.deepEqual(await connected('udp', f.vip, 53, inPod), [f.vip, 53]);
      assert.equal(engine.counters()['forward-socket'], forwarded, 'its packets go to the VIP');
      put();
      const sticky = changed(frontends, key, frontendStruct.encode({ ...value, affinity_s: 60 }));
      for (let times = 0; times < 2; times++)
        assert.deepEqual(await connected('tcp', f.vip, 80), [f.vip, 80]);
      sticky();
      const remembered = [...engine.maps.lb_affinities.keys()];
      assert.equal(remembered.length, 1);
      engine.maps.lb_affinities.delete(remembered[0]!);
    });

    test(`${f.family}: the loopback of the node is a frontend, that of a pod is the pod's own`, async () => {
      assert.deepEqual(await connected('tcp', f.loopback, 80), [f.loopback, 80]);
      assert.equal(await connected('tcp', f.loopback, 80, inPod), 'ECONNREFUSED');
      for (const address of f.odd) assert.deepEqual(await connected('tcp', address, 80), [address, 80]);
    });

    test(`${f.family}: a socket that sends to many keeps their answers apart from others', and forgets the oldest`, async () => {
      const name = await caller.socket('udp', six);
      const ask = async (host: string, port: number) => {
        assert.equal(await caller.do('send', name, host, port), 'ok', `${host} ${port}`);
        assert.equal(await caller.do('answer', server), 'ok');
        return caller.do('from', name);
      };
      for (let times = 0; times < 2; times++) assert.deepEqual(await ask(f.vip, 53), [f.vip, 53]);
      // Others say something, too: from another port, from another address.
      const [, own] = (await caller.do('name', name)) as [string, number];
      for (const [host, port] of [
        [f.backend, 9999],
        [f.other, 8080],
      ] as const) {
        const stranger = await caller.socket('udp', six);
        await caller.do('bind', stranger, host, port);
        assert.equal(await caller.do('send', stranger, f.backend, own), 'ok');
        assert.deepEqual(await caller.do('from', name), [host, port]);
        await caller.do('close', stranger);
      }
      // All of them lead to one backend: its answer is to what was asked last.
      for (const [host, port] of [
        [f.second, 53],
        ...MORE_PORTS.map((port) => [f.vip, port] as const),
        [f.vip, 53],
      ] as const)
        assert.deepEqual(await ask(host, port), [host, port]);
      // With all places taken, a stranger is none of them.
      const stranger = await caller.socket('udp', six);
      await caller.do('bind', stranger, f.other, 8080);
      assert.equal(await caller.do('send', stranger, f.backend, own), 'ok');
      assert.deepEqual(await caller.do('from', name), [f.other, 8080]);
      // Its backend's id means another one: chosen anew, which is that one.
      using backends = mapById(
        viewOf(engine.maps.lb_backends.get(u32(0))!).getUint32(0, true),
        'lb_backends',
      );
      const id = u32(idOfBackend(53, 'UDP'));
      const before = backends.get(id)!.slice();
      const elsewhere = before.slice();
      writeAddress(elsewhere, 0, f.other);
      backends.set(id, elsewhere);
      assert.equal(await caller.do('send', name, f.vip, 53), 'ok');
      assert.equal(await caller.do('answer', stranger), 'ok');
      assert.deepEqual(await caller.do('from', name), [f.vip, 53]);
      backends.set(id, before);
      // Or nobody.
      const { lb_datagrams } = engine.maps;
      for (const [key, bytes] of [...lb_datagrams.entries()].map(
        ([k, v]) => [k.slice(), v.slice()] as const,
      )) {
        const id = peerStruct.members.find((member) => member.name === 'backend_id')!.offset;
        for (let at = 0; at < 16; at++) viewOf(bytes).setUint32(at * peerStruct.size + id, 0xff_ffff, true);
        lb_datagrams.set(key, bytes);
      }
      assert.equal(((await ask(f.vip, 53)) as [string, number])[0], f.vip);
      for (const done of [name, stranger]) await caller.do('close', done);
      assert.deepEqual([...lb_datagrams.keys()], []);
    });

    test(`${f.family}: of two that a socket asks at once each answer is named by what was asked`, async () => {
      const name = await caller.socket('udp', six);
      const other = await caller.socket('udp', six);
      await caller.do('bind', other, f.other, 8080);
      const id = u32(idOfBackend(53, 'UDP'));
      using backends = mapById(
        viewOf(engine.maps.lb_backends.get(u32(0))!).getUint32(0, true),
        'lb_backends',
      );
      const before = backends.get(id)!.slice();
      const elsewhere = before.slice();
      writeAddress(elsewhere, 0, f.other);
      for (const order of [
        [server, other],
        [other, server],
      ]) {
        assert.equal(await caller.do('send', name, f.vip, 53), 'ok');
        backends.set(id, elsewhere);
        assert.equal(await caller.do('send', name, f.second, 53), 'ok');
        backends.set(id, before);
        for (const one of order) {
          assert.equal(await caller.do('answer', one), 'ok');
          assert.deepEqual(await caller.do('from', name), one === server ? [f.vip, 53] : [f.second, 53]);
        }
      }
      for (const done of [name, other]) await caller.do('close', done);
    });

    test(`${f.family}: a connected socket that names its frontend again sends to the backend that it has`, async () => {
      const name = await caller.socket('udp', six);
      assert.equal(await caller.do('connect', name, f.vip, 53), 'ok');
      const forwarded = engine.counters()['forward-socket'];
      assert.equal(await caller.do('send', name, f.vip, 53), 'ok');
      assert.equal(await caller.do('answer', server), 'ok');
      assert.deepEqual(await caller.do('from', name), [f.vip, 53]);
      assert.equal(engine.counters()['forward-socket'], forwarded, 'nobody was chosen anew');
      // Another frontend is another matter.
      assert.equal(await caller.do('send', name, f.second, 53), 'ok');
      assert.equal(await caller.do('answer', server), 'ok');
      assert.equal(engine.counters()['forward-socket'], (forwarded ?? 0) + 1);
      await caller.do('close', name);
      // A socket that a Service has never connected has no peer of its own among frontends.
      const direct = await caller.socket('udp', six);
      assert.equal(await caller.do('connect', direct, f.backend, 8080), 'ok');
      assert.equal(await caller.do('send', direct, f.vip, 53), 'ok');
      assert.equal(await caller.do('answer', server), 'ok');
      assert.deepEqual(await caller.do('from', direct), [f.vip, 53]);
      assert.deepEqual(await caller.do('peer', direct), [f.backend, 8080]);
      await caller.do('close', direct);
    });

    test(`${f.family}: a socket that was refused and goes on elsewhere has its real peer`, async () => {
      const elsewhere = new Uint8Array(16);
      writeAddress(elsewhere, 0, f.other);
      const id = idOfBackend();
      using backends = mapById(
        viewOf(engine.maps.lb_backends.get(u32(0))!).getUint32(0, true),
        'lb_backends',
      );
      const before = backends.get(u32(id))!.slice();
      // Nobody listens at either: the port is at 16 of lb_backend.
      const otherPort = before.slice();
      viewOf(otherPort).setUint16(16, 9);
      const otherAddress = before.slice();
      otherAddress.set(elsewhere);
      for (const value of [otherPort, otherAddress]) {
        const name = await caller.socket('tcp', six);
        backends.set(u32(id), value);
        assert.equal(await caller.do('connect', name, f.vip, 80), 'ECONNREFUSED');
        backends.set(u32(id), before);
        assert.equal(await caller.do('connect', name, f.backend, 8080), 'ok');
        assert.deepEqual(await caller.do('peer', name), [f.backend, 8080]);
        await caller.do('close', name);
      }
    });
  }

  test('sockets that meet at one place are told apart, and may go on elsewhere', async () => {
    engine.remove();
    open({ socketPlaces: 1 });
    const stored = () => engine.status().stores.find(({ name }) => name === 'lb_sockets')!.entries;
    for (const { family, vip, backend } of families) {
      const six = family === 'IPv6';
      const names = [await caller.socket('udp', six), await caller.socket('udp', six)] as const;
      const [first, second] = names;
      for (const [at, name] of names.entries()) {
        assert.equal(await caller.do('connect', name, vip, 53), 'ok');
        assert.deepEqual(await caller.do('peer', name), [vip, 53]);
        assert.equal(stored(), at + 1);
      }
      await caller.do('close', first);
      assert.equal(stored(), 1);
      assert.deepEqual(await caller.do('peer', second), [vip, 53]);
      // The place is free now: what was remembered beside it counts no more.
      assert.equal(await caller.do('connect', second, vip, 54), 'ok');
      assert.deepEqual(await caller.do('peer', second), [vip, 54]);
      assert.equal(await caller.do('connect', second, backend, 5353), 'ok');
      assert.deepEqual(await caller.do('peer', second), [backend, 5353]);
      assert.equal(stored(), 0);
      await caller.do('close', second);
    }
  });

  test('where nothing more can be remembered, datagram sockets are refused and connections go on', async () => {
    engine.remove();
    open({ sockets: 1, socketPlaces: 1, datagrams: 1 });
    for (const { family, vip } of families) {
      const six = family === 'IPv6';
      const sockets: string[] = [];
      const one = async (kind: 'tcp' | 'udp', what: 'connect' | 'send') => {
        const name = await caller.socket(kind, six);
        sockets.push(name);
        return caller.do(what, name, vip, kind === 'tcp' ? 80 : 53);
      };
      assert.equal(await one('udp', 'connect'), 'ok');
      assert.equal(await one('udp', 'connect'), 'ok', 'beside its place');
      assert.equal(await one('udp', 'connect'), 'EPERM');
      assert.equal(await one('tcp', 'connect'), 'ok');
      assert.equal(await one('udp', 'send'), 'ok');
      assert.equal(await one('udp', 'send'), 'EPERM');
      for (const name of sockets) await caller.do('close', name);
    }
    assert.equal(engine.counters()['drop-sockets-full'], 4);
  });
});
