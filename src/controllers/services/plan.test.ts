import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Service, ServiceCIDR } from '../../model/kubernetes.ts';
import { serviceCidrView, serviceView } from '../views.ts';
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
