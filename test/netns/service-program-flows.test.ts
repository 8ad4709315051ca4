/** The programs and the table of flows: ways of one port, a table that has grown, places that are all taken. */
import assert from 'node:assert/strict';
import test, { describe } from 'node:test';
import { jiffiesPerSecond } from '../../src/kernel/bpf/index.ts';
import type { Flow } from '../../src/service/engines/ebpf/flow-table.ts';
import { FLOW, flowStruct, flowTableStruct } from '../../src/service/engines/ebpf/layout.ts';
import { u32 } from '../lib/lb-map-contents.ts';
import {
  addressOf,
  asItWas,
  ends,
  families,
  isOf,
  MORE_PORTS,
  programScene,
} from '../lib/lb-program-scene.ts';
import { frame, readFrame, readIp, TCP } from '../lib/packet.ts';

describe('programs and the table of flows', () => {
  const scene = programScene('pw');
  const { run, fate, counted, nextPort } = scene;

  for (const f of families) {
    const { syn, datagram, answerTo, errorAbout, toBackend, flowOf } = scene.of(f);

    test(`${f.family}: of a pod's port to nine frontends of one backend each connection has its own, or none`, () => {
      // By its first way it would be port 100, which is nobody's to take.
      const sourcePort = (1 << 13) + 100;
      const targets = [80, 8080, ...MORE_PORTS];
      const open = targets.map((targetPort) => ({
        targetPort,
        at: fate('lb_from_pod', syn({ sourcePort, targetPort })),
      }));
      const ports = open.filter(({ at }) => at !== 'drop').map(({ at }) => Number(/ (\d+) > /.exec(at)![1]));
      assert.deepEqual(
        ports.sort((a, b) => a - b),
        [0, 2, 3, 4, 5, 6, 7].map((way) => sourcePort ^ (way << 13)).sort((a, b) => a - b),
      );
      for (const { targetPort, at } of open) {
        if (at === 'drop') continue;
        const seen = Number(/ (\d+) > /.exec(at)![1]);
        const packet = syn({ sourcePort: seen, targetPort: 8080, to: f.backend });
        assert.equal(fate('lb_to_pod', answerTo(packet)), `${f.vip} ${targetPort} > ${f.pod} ${sourcePort}`);
        // Errors about what the backend saw, and about what the pod saw.
        const told = readFrame(run('lb_to_pod', frame(errorAbout(packet, f.other, f.pod))).data);
        assert.equal(ends(readIp(told.payload)), `${f.pod} ${sourcePort} > ${f.vip} ${targetPort}`);
        const shown = { ...answerTo(packet), from: f.vip, sourcePort: targetPort, targetPort: sourcePort };
        const asked = readFrame(run('lb_from_pod', frame(errorAbout(shown, f.pod, f.vip))).data);
        assert.equal(ends(readIp(asked.payload)), `${f.backend} 8080 > ${f.pod} ${seen}`);
        assert.equal(asked.to, f.backend);
      }
      assert.equal(
        counted('drop-flows-full', () => fate('lb_from_pod', syn({ sourcePort, targetPort: 8088 }))),
        1,
      );
      // Of datagrams the last way is taken over: its flow had an answer, or will not get one.
      const sent = [53, ...MORE_PORTS].map((targetPort) =>
        fate('lb_from_pod', datagram({ sourcePort: 39_000, targetPort })),
      );
      assert.equal(sent.filter((at) => at === 'drop').length, 0);
      assert.equal(new Set(sent).size, 8);
    });

    test(`${f.family}: at nodes each of a client's connections from one port to one backend has its own, too`, () => {
      const sourcePort = nextPort();
      const seen = [80, 8080, 8081, 8082].map((targetPort) => {
        const [, own] = / (\d+) > .* 8080$/.exec(fate('lb_from_outside', syn({ sourcePort, targetPort })))!;
        return { targetPort, own: Number(own) };
      });
      assert.equal(new Set(seen.map(({ own }) => own)).size, 4);
      const { lb_links } = scene.engine.maps;
      const used = lb_links.get(u32(0))!.slice();
      // An earlier version noted only that there was more than one way.
      for (const note of [used, u32(3)]) {
        lb_links.set(u32(0), note);
        for (const { targetPort, own } of seen)
          assert.equal(
            fate('lb_to_outside', answerTo(syn({ sourcePort: own }))),
            `${f.vip} ${targetPort} > ${f.pod} ${sourcePort}`,
          );
      }
      lb_links.set(u32(0), used);
    });

    test(`${f.family}: in a table that has grown XDP finds flows wherever they may lie`, () => {
      const { lb_flow_table } = scene.engine.maps;
      const before = lb_flow_table.get(u32(0))!.slice();
      // As if it had begun with one set: all others may have flows in those that they were split from.
      const first = flowTableStruct.encode({ ...flowTableStruct.decode(before), first: 1 });
      for (const [tried, settled] of [
        [0, 0],
        [0, 1],
        [3, 1],
      ] as const) {
        scene.contents.markSets({ tried, settled });
        lb_flow_table.set(u32(0), first);
        try {
          for (const known of [true, false]) {
            const s = syn({ from: f.other });
            if (known) assert.equal(fate('lb_from_outside', s), toBackend(s));
            const { returned, data } = scene.engine.programs.get('lb_xdp')!.run({ data: frame(s) });
            assert.equal(returned, 2);
            // Behind a word for tc, where it is not left to it as it was.
            const packet = data.length === frame(s).length ? data : data.subarray(4);
            assert.equal(ends(readFrame(packet)), packet === data ? asItWas(s) : toBackend(s));
            assert.equal(
              fate('lb_from_outside', { ...s, flags: TCP.ACK }),
              known || packet !== data ? toBackend(s) : 'redirect',
            );
          }
        } finally {
          lb_flow_table.set(u32(0), before);
        }
      }
      scene.contents.fillFlows();
    });

    test(`${f.family}: where all places are taken, a new flow gets that of who loses least by it, or none`, () => {
      const second = jiffiesPerSecond();
      const ages: readonly (readonly [what: string, flags: number, idleS: number, given: boolean])[] = [
        ['being filled', 0, 1, false],
        ['left half filled', 0, 61, true],
        ['a connection', FLOW.USED | FLOW.REPLIED | FLOW.CONFIRMED, 3600, false],
        ['a connection of yesterday', FLOW.USED | FLOW.REPLIED | FLOW.CONFIRMED, 6 * 3600 + 1, true],
        ['a handshake', FLOW.USED, 0, true],
        ['just reset', FLOW.USED | FLOW.CONFIRMED | FLOW.RESET, 0, false],
        ['a handshake just refused', FLOW.USED | FLOW.RESET, 0, false],
        ['reset', FLOW.USED | FLOW.CONFIRMED | FLOW.RESET, 3, true],
        ['closed by both', FLOW.USED | FLOW.CONFIRMED | FLOW.FIN_CLIENT | FLOW.FIN_BACKEND, 3, true],
        ['closed by one', FLOW.USED | FLOW.CONFIRMED | FLOW.FIN_CLIENT, 3, false],
        ['a question', FLOW.USED | FLOW.UDP, 5, false],
        ['a question without an answer', FLOW.USED | FLOW.UDP, 16, true],
        ['a question just answered', FLOW.USED | FLOW.UDP | FLOW.REPLIED, 0, false],
        ['a question with its answer', FLOW.USED | FLOW.UDP | FLOW.REPLIED, 4, true],
        ['datagrams both ways', FLOW.USED | FLOW.UDP | FLOW.REPLIED | FLOW.CONFIRMED, 100, false],
        ['datagrams of old', FLOW.USED | FLOW.UDP | FLOW.REPLIED | FLOW.CONFIRMED, 181, true],
      ];
      const some = syn({ from: f.other });
      fate('lb_from_pod', some);
      const flow = flowOf(some);
      try {
        for (const [what, flags, idleS, given] of ages) {
          scene.contents.fillFlows({
            ...flow,
            flags,
            seen: (scene.engine.flows.jiffies() - idleS * second) >>> 0,
          });
          for (const program of ['lb_from_pod', 'lb_from_outside'] as const) {
            const s = syn();
            const refused = counted('drop-flows-full', () =>
              assert.equal(fate(program, s), given ? toBackend(s) : 'drop', what),
            );
            assert.equal(refused, given ? 0 : 1, what);
          }
          const put = { ...flow, client_port: nextPort(), flags: FLOW.USED };
          assert.equal(scene.engine.flows.put(flowBytes(put)), given, what);
        }
      } finally {
        scene.contents.fillFlows();
      }
    });

    test(`${f.family}: the agent's hands in the table do what they are asked, and refuse what is cut`, () => {
      scene.contents.fillFlows();
      for (const name of ['lb_flow_sweep', 'lb_flow_edit'])
        for (const length of [14, 16, 20]) {
          const data = new Uint8Array(length).fill(7);
          assert.deepEqual(
            Buffer.from(scene.engine.programs.get(name)!.run({ data }).data),
            Buffer.from(data),
          );
        }
      const sent = syn();
      fate('lb_from_pod', sent);
      const flow = flowOf(sent);
      // Again with the same backend: what is known is added.
      assert.ok(scene.engine.flows.put(flowBytes({ ...flow, flags: FLOW.USED | FLOW.REPLIED })));
      assert.equal(flowOf(sent).flags, FLOW.USED | FLOW.REPLIED);
      // With another one: a flow beside it.
      for (const other of [{ backend_port: 8081 }, { backend: addressOf(f.other) }]) {
        const before = scene.engine.flows.count().used;
        assert.ok(scene.engine.flows.put(flowBytes({ ...flow, ...other })));
        assert.equal(scene.engine.flows.count().used, before + 1);
      }
      const name = {
        client: addressOf(f.other),
        clientPort: 1,
        vip: addressOf(f.vip),
        vipPort: 80,
        udp: false,
      };
      assert.equal(scene.engine.flows.show(name), undefined);
      scene.engine.flows.cut(name);
      scene.contents.changeFlow(isOf(sent), { flags: 0 });
      assert.equal(scene.engine.flows.count().freed, 0, 'it may be filled just now');
      scene.contents.changeFlow((other) => other.flags === 0 && isOf(sent)(other), {
        seen: (scene.engine.flows.jiffies() - 61 * jiffiesPerSecond()) >>> 0,
      });
      assert.equal(scene.engine.flows.count().freed, 1);
      scene.engine.flows.clear();
    });
  }
});

const flowBytes = (flow: Flow): Uint8Array => flowStruct.encode(flow);
