import assert from 'node:assert/strict';
import test, { describe } from 'node:test';
import type { ConntrackEntry } from '../../../kernel/conntrack/index.ts';
import type { Service } from '../../../model/kubernetes.ts';
import { serviceFacts, sliceFacts } from '../../facts.ts';
import { ServicePlanner } from '../../planner.ts';
import { aNode, aService, aSlice } from '../../testing.ts';
import type { ServiceFacts, SliceFacts } from '../../types.ts';
import { Ledger } from './ledger.ts';
import { StaleFlows } from './stale.ts';

const [VIP, A, B] = ['10.96.0.10', '10.244.1.2', '10.244.2.2'];
const ENDPOINTS = { [A]: `${A} node-a`, [B]: `${B} node-b` };

/** Services of datagrams and what their changes leave; `web` unless another name is given. */
function cluster() {
  const services = new Map<string, ServiceFacts>();
  const slices = new Map<string, SliceFacts>();
  const planner = new ServicePlanner({ services, slices }, aNode({}));
  const ledger = new Ledger('node-a');
  let stale = new StaleFlows();
  const put = (endpoints: readonly (keyof typeof ENDPOINTS)[], spec: Partial<Service['spec']> = {}) => {
    const ports = [{ name: 'http', port: 53, protocol: 'UDP' as const }];
    const facts = serviceFacts(aService({ ports, ...spec }, { name: 'web' }));
    services.set(facts.key, facts);
    const words = endpoints.map((address) => ENDPOINTS[address]!);
    const slice = sliceFacts(
      aSlice(words, { name: 'web-1', service: 'web', portName: 'http', protocol: 'UDP' }),
    );
    slices.set(slice.key, slice);
    for (const plan of planner.plan([facts.key], [slice.key]).upsert) ledger.put(plan);
    stale.add(ledger.changes.all);
    ledger.changes.settle();
  };
  const remove = () => {
    ledger.drop('default/web');
    stale.add(ledger.changes.all);
    ledger.changes.settle();
  };
  return {
    put,
    remove,
    /** Nothing is gathered any more. */
    looked: () => {
      stale = new StaleFlows();
    },
    asks: () => stale.families.size > 0,
    cuts: (backend: string, address: string = VIP) => stale.isStale(flow(address, backend)),
  };
}

function flow(destination: string, backend: string): ConntrackEntry {
  const original = { protocol: 17, source: '10.244.1.9', sourcePort: 4000, destination, destinationPort: 53 };
  const reply = {
    protocol: 17,
    source: backend,
    sourcePort: 8080,
    destination: '10.244.1.9',
    destinationPort: 4000,
  };
  return { original, reply } as unknown as ConntrackEntry;
}

describe('StaleFlows', () => {
  test('flows to an endpoint that went are cut, those to others stay', () => {
    const { put, looked, cuts } = cluster();
    put([A, B]);
    looked();
    put([B]);
    assert.deepEqual([cuts(A), cuts(B), cuts(A, '10.96.0.99')], [true, false, false]);
  });

  test('an endpoint that comes asks for no look, but the first one does: packets passed untranslated before', () => {
    const { put, looked, asks, cuts } = cluster();
    put([A]);
    assert.equal(asks(), true);
    assert.equal(cuts(VIP), true);
    looked();
    put([A, B]);
    assert.equal(asks(), false);
  });

  test('an address that comes asks for a look', () => {
    const { put, looked, asks, cuts } = cluster();
    put([A]);
    looked();
    put([A], { externalIPs: ['192.0.2.7'] });
    assert.equal(asks(), true);
    assert.equal(cuts('192.0.2.7', '192.0.2.7'), true);
  });

  test('changes that are looked for together count as the last one has it', () => {
    const { put, looked, cuts } = cluster();
    put([A]);
    looked();
    put([B]);
    put([A, B]);
    assert.deepEqual([cuts(A), cuts(B)], [false, false]);
    put([A]);
    assert.deepEqual([cuts(A), cuts(B)], [false, true]);
  });

  test('without any endpoint what is open may end by itself; without the Service it may not', () => {
    const { put, remove, looked, asks, cuts } = cluster();
    put([A]);
    looked();
    put([]);
    assert.equal(asks(), false);
    put([A]);
    looked();
    remove();
    assert.equal(cuts(A), true);
  });
});
