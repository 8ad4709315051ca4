import assert from 'node:assert/strict';
import test, { afterEach, beforeEach, describe, mock } from 'node:test';
import { parseIp } from '../../../addr/index.ts';
import type { ConntrackEntry } from '../../../kernel/conntrack/index.ts';
import { FlowCutter } from './flow-cutter.ts';
import type { LedgerPort } from './ledger.ts';
import type { PortChange } from './port-changes.ts';

const A = '10.244.1.2';
const B = '10.244.2.2';

/** A port for datagrams that went from these endpoints to those. */
function change(family: 4 | 6, before: readonly string[], after: readonly string[]): PortChange {
  const side = (addresses: readonly string[]) =>
    ({
      key: `default/dns:${family}`,
      plan: {
        protocol: 'UDP',
        family,
        frontends: [{ address: family === 4 ? '10.96.0.10' : 'fd00::10', port: 53 }],
        backends: addresses.map((address) => ({ endpoint: { address, serving: true }, port: 53 })),
      },
    }) as unknown as LedgerPort;
  return { before: side(before), after: side(after) };
}

function flow(backend: string, destination = '10.96.0.10'): ConntrackEntry {
  const original = {
    protocol: 17,
    source: parseIp('10.244.1.9'),
    destination: parseIp(destination),
    sourcePort: 4000,
    destinationPort: 53,
  };
  const reply = { protocol: 17, source: parseIp(backend), sourcePort: 53 };
  return { original, reply } as unknown as ConntrackEntry;
}

/** A cutter over a conntrack that refuses when it is told to. */
function world(flows: ConntrackEntry[]) {
  const state = { flows, looks: 0, cpuMs: 0, refuses: (_family: 4 | 6): boolean => false };
  const told: string[] = [];
  const cutter = new FlowCutter({
    open: () => ({
      list: ({ family }) => {
        state.looks++;
        if (state.refuses(family!)) throw new Error('EAGAIN');
        return state.flows.filter(({ original }) => original.destination.family === family);
      },
      delete: (entries) => {
        state.flows = state.flows.filter((entry) => !entries.includes(entry));
        return entries.length;
      },
      [Symbol.dispose]() {},
    }),
    // Walks cost nothing, unless a test lets them take 10 ms.
    cpuMs: () => (state.cpuMs += state.cpuMs === 0 ? 0 : 10),
    onFault: (error) => told.push(error?.message ?? 'done'),
  });
  return { state, told, cutter };
}

describe('FlowCutter', () => {
  beforeEach(() => mock.timers.enable({ apis: ['setTimeout'] }));
  afterEach(() => mock.timers.reset());

  test('what conntrack refuses once is tried again without another change, and told', () => {
    const { state, told, cutter } = world([flow(A), flow(B)]);
    state.refuses = () => true;
    cutter.cut([change(4, [A], [B])]);
    assert.deepEqual([state.flows.length, told], [2, ['EAGAIN']]);
    state.refuses = () => false;
    mock.timers.tick(100);
    assert.deepEqual(state.flows, [flow(B)]);
    assert.deepEqual(told, ['EAGAIN', 'done']);
    mock.timers.tick(60_000);
    assert.equal(state.looks, 2);
    cutter.close();
  });

  test('as long as it refuses the rest grows to 5 s, and it is told once', () => {
    const { state, told, cutter } = world([flow(A)]);
    state.refuses = () => true;
    cutter.cut([change(4, [A], [B])]);
    for (const [waitMs, looks] of [
      [100, 2],
      [200, 3],
      [400, 4],
      [800, 5],
      [1_600, 6],
      [3_200, 7],
      [5_000, 8],
      [5_000, 9],
    ] as const) {
      mock.timers.tick(waitMs - 1);
      assert.equal(state.looks, looks - 1);
      mock.timers.tick(1);
      assert.equal(state.looks, looks);
    }
    assert.deepEqual(told, ['EAGAIN']);
    cutter.close();
    assert.equal(state.looks, 10, 'once more when it ends');
    mock.timers.tick(60_000);
    assert.equal(state.looks, 10, 'and no more after it');
  });

  test('a change does not wait until a failed look is taken again', () => {
    const { state, cutter } = world([flow(A)]);
    state.refuses = () => true;
    cutter.cut([change(4, [A], [B])]);
    for (const waitMs of [100, 200, 400, 800, 1_600]) mock.timers.tick(waitMs);
    state.refuses = () => false;
    cutter.cut([change(4, [B], [B])]);
    assert.deepEqual(state.flows, []);
    cutter.close();
  });

  test('one family that fails keeps nobody from the other one', () => {
    const six = flow('fd00:1::2', 'fd00::10');
    const { state, cutter } = world([flow(A), six]);
    state.refuses = (family) => family === 4;
    cutter.cut([change(4, [A], [B]), change(6, ['fd00:1::2'], ['fd00:2::2'])]);
    assert.deepEqual(state.flows, [flow(A)]);
    state.refuses = () => false;
    mock.timers.tick(100);
    assert.deepEqual(state.flows, []);
    assert.equal(state.looks, 3, 'what is done is not looked for again');
    cutter.close();
  });

  test('a change that comes soon after a walk waits for four times its CPU time', () => {
    const { state, cutter } = world([flow(A)]);
    state.cpuMs = 1;
    cutter.cut([change(4, [A], [B])]);
    state.flows = [flow(A), flow(B)];
    cutter.cut([change(4, [B], [A])]);
    assert.equal(state.looks, 1);
    mock.timers.tick(40);
    assert.equal(state.looks, 2);
    assert.deepEqual(state.flows, [flow(A)]);
    state.flows = [flow(A)];
    cutter.cut([change(4, [A], [B])]);
    cutter.close();
    assert.deepEqual(state.flows, [], 'what waits is done when it ends');
  });
});
