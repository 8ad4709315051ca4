import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Service, ServiceCIDR } from '../../model/kubernetes.ts';
import { serviceCidrView, serviceView } from '../views.ts';
import { parsePortRange, planServiceRepair } from './repair.ts';
import { planServiceCidrs, serviceCidrFinalizer } from './service-cidrs.ts';

const service = (name: string, ips: string[], nodePorts: number[] = [], createdAt = '2026-01-01T00:00:00Z') =>
  serviceView({
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace: 'default', creationTimestamp: createdAt },
    spec: {
      clusterIP: ips[0],
      clusterIPs: ips,
      ports: nodePorts.map((nodePort) => ({ port: 80, nodePort })),
    },
  } as Service);
const cidr = (name: string, cidrs: string[], patch: Partial<ServiceCIDR['metadata']> = {}, ready?: string) =>
  serviceCidrView({
    apiVersion: 'networking.k8s.io/v1',
    kind: 'ServiceCIDR',
    metadata: { name, ...patch },
    spec: { cidrs },
    ...(ready && { status: { conditions: [{ type: 'Ready', status: ready as 'True' }] } }),
  });

test('addresses and ports that cannot be right are told about', () => {
  const old = '2025-01-01T00:00:00Z';
  const cases: [string, ReturnType<typeof service>[], string[]][] = [
    [
      'good ones',
      [service('a', ['10.96.0.1']), service('b', ['None']), service('c', ['10.96.0.2'], [30_000])],
      [],
    ],
    [
      'duplicate',
      [service('a', ['10.96.0.1']), service('b', ['10.96.0.1'], [], old)],
      ['a ClusterIPAlreadyAllocated'],
    ],
    [
      'the same written differently',
      [service('a', ['fd00::1']), service('b', ['fd00:0::1'])],
      ['b ClusterIPAlreadyAllocated'],
    ],
    ['out of range', [service('a', ['10.97.0.1'])], ['a ClusterIPOutOfRange']],
    ['garbage', [service('a', ['x'])], ['a ClusterIPNotValid']],
    [
      'ports',
      [service('a', ['None'], [30_001]), service('b', ['None'], [30_001, 80])],
      ['b PortAlreadyAllocated', 'b PortOutOfRange'],
    ],
  ];
  const ranges = [cidr('kubernetes', ['10.96.0.0/16', 'fd00::/112'])];
  for (const [name, services, want] of cases)
    assert.deepEqual(
      planServiceRepair(services, ranges, { first: 30_000, last: 32_767 }).map(
        (problem) => `${problem.service.name} ${problem.reason}`,
      ),
      want,
      name,
    );
});

test('port ranges are read or refused', () => {
  assert.deepEqual(parsePortRange('30000-32767'), { first: 30_000, last: 32_767 });
  for (const text of ['', '1', '2-1', '0-5', '1-65536', 'a-b', '1-2-3'])
    assert.equal(parsePortRange(text), undefined);
});

test('a ServiceCIDR becomes ready, and stays while its addresses are needed', () => {
  const mine = { finalizers: [serviceCidrFinalizer] };
  const going = { ...mine, deletionTimestamp: '2026-01-01T00:00:00Z' };
  const told = (objects: ReturnType<typeof cidr>[], services: ReturnType<typeof service>[] = []) =>
    planServiceCidrs(objects, services, 'now').map((write) =>
      write.verb === 'condition'
        ? `${write.object.name} Ready=${write.condition.status}`
        : `${write.object.name} finalizers [${write.finalizers}]`,
    );
  assert.deepEqual(told([cidr('a', ['10.96.0.0/16'])]), [
    `a finalizers [${serviceCidrFinalizer}]`,
    'a Ready=True',
  ]);
  assert.deepEqual(told([cidr('a', ['10.96.0.0/16'], mine, 'True')]), []);
  const used = [service('s', ['10.96.0.9'])];
  assert.deepEqual(told([cidr('a', ['10.96.0.0/16'], going, 'True')]), ['a finalizers []']);
  assert.deepEqual(told([cidr('a', ['10.96.0.0/16'], going, 'True')], used), ['a Ready=False']);
  assert.deepEqual(told([cidr('a', ['10.96.0.0/16'], going, 'False')], used), []);
  assert.deepEqual(
    told([cidr('a', ['10.96.0.0/16'], going, 'True'), cidr('b', ['10.96.0.0/12'], mine, 'True')], used),
    ['a finalizers []'],
  );
});
