import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { parseCidr, parseIp, parseMac } from '../addr/index.ts';
import { isNetError } from '../errors/index.ts';
import { leaseAnnotations, leaseOfNode, vtepMac } from './index.ts';
import type { Lease } from './types.ts';

const lease: Lease = {
  node: 'node-1',
  backend: 'vxlan',
  endpoints: {
    4: {
      publicIp: parseIp('192.0.2.1'),
      podCidrs: [parseCidr('10.244.1.0/24')],
      vtep: { vni: 1, mac: parseMac('02:00:00:00:00:01'), port: 8472 },
    },
    6: {
      publicIp: parseIp('2001:db8::1'),
      podCidrs: [parseCidr('fd00:1::/64')],
      vtep: { vni: 1, mac: parseMac('02:00:00:00:00:02'), port: 8472 },
    },
  },
};
const podCidrs = ['10.244.1.0/24', 'fd00:1::/64'];
const prefix = 'flannel.alpha.coreos.com';

test('a lease is written exactly as flannel writes it, and read back', () => {
  const annotations = leaseAnnotations(lease);
  assert.deepEqual(annotations, {
    'flannel.alpha.coreos.com/kube-subnet-manager': 'true',
    'flannel.alpha.coreos.com/backend-type': 'vxlan',
    'flannel.alpha.coreos.com/public-ip': '192.0.2.1',
    'flannel.alpha.coreos.com/backend-data': '{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}',
    'flannel.alpha.coreos.com/public-ipv6': '2001:db8::1',
    'flannel.alpha.coreos.com/backend-v6-data': '{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}',
  });
  assert.deepEqual(leaseOfNode({ name: 'node-1', annotations, podCidrs }), lease);
});

test('a host-gw lease has null as its data, as flannel has', () => {
  const hostGw = leaseAnnotations({
    node: 'n',
    backend: 'host-gw',
    endpoints: { 4: { publicIp: parseIp('192.0.2.1'), podCidrs: [parseCidr('10.244.1.0/24')] } },
  });
  assert.equal(hostGw[`${prefix}/backend-data`], 'null');
  assert.equal(
    leaseOfNode({ name: 'n', annotations: hostGw, podCidrs: ['10.244.1.0/24'] })?.backend,
    'host-gw',
  );
});

test('a node that has told nothing or has no pod CIDR yet is no peer and no error', () => {
  assert.equal(leaseOfNode({ name: 'n', annotations: {}, podCidrs }), undefined);
  assert.equal(leaseOfNode({ name: 'n', annotations: leaseAnnotations(lease), podCidrs: [] }), undefined);
});

test('junk of others is refused with the name of the node and the annotation', () => {
  const good = leaseAnnotations(lease);
  for (const [key, value] of [
    ['public-ip', 'localhost'],
    ['public-ip', '127.0.0.1'],
    ['public-ip', '0.0.0.0'],
    ['public-ip', '224.0.0.1'],
    ['public-ip', '2001:db8::1'],
    ['public-ipv6', '192.0.2.1'],
    ['backend-type', '../x'],
    ['backend-type', ''],
    ['backend-data', ''],
    ['backend-data', 'null'],
    ['backend-data', '[]'],
    ['backend-data', '{"VNI":0,"VtepMAC":"02:00:00:00:00:01"}'],
    ['backend-data', '{"VNI":16777216,"VtepMAC":"02:00:00:00:00:01"}'],
    ['backend-data', '{"VNI":1}'],
    ['backend-data', '{"VNI":1,"VtepMAC":7}'],
    ['backend-data', '{"VNI":1,"VtepMAC":"01:00:00:00:00:01"}'],
    ['backend-data', '{"VNI":1,"VtepMAC":"02:00:00:00:00:01","Port":99999}'],
    ['backend-v6-data', '{"VNI":"1","VtepMAC":"02:00:00:00:00:01"}'],
  ] as const)
    assert.throws(
      () => leaseOfNode({ name: 'node-9', annotations: { ...good, [`${prefix}/${key}`]: value }, podCidrs }),
      (error) =>
        isNetError(error, 'OVERLAY_BAD_ANNOTATION') &&
        error.message.includes('"node-9"') &&
        error.message.includes(`${prefix}/${key}`),
      `${key}=${value}`,
    );
  for (const cidr of ['10.244.1.5/24', 'x', '224.0.0.0/8', '127.0.0.0/8', '0.0.0.0/0', 'fe80::/64'])
    assert.throws(
      () => leaseOfNode({ name: 'node-9', annotations: good, podCidrs: [cidr] }),
      (error) => isNetError(error, 'OVERLAY_BAD_POD_CIDR') && error.message.includes('"node-9"'),
    );
});

test('whatever stands in the annotations, the answer is a lease, nothing, or an error of the catalogue', () => {
  const value = fc.oneof(
    fc.string(),
    fc.json(),
    fc.constantFrom('null', '{}', '192.0.2.1', 'vxlan', '{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}'),
  );
  const keys = ['public-ip', 'public-ipv6', 'backend-type', 'backend-data', 'backend-v6-data'];
  fc.assert(
    fc.property(
      fc.dictionary(fc.constantFrom(...keys.map((key) => `${prefix}/${key}`)), value),
      (annotations) => {
        try {
          leaseOfNode({ name: 'n', annotations, podCidrs });
        } catch (error) {
          assert.ok(isNetError(error), String(error));
        }
      },
    ),
  );
});

test('the MAC of a tunnel end follows from the name of the node, differs by node and family, and is local unicast', () => {
  assert.equal(vtepMac('node-1', 4), vtepMac('node-1', 4));
  const all = new Set([1, 2, 3].flatMap((n) => [vtepMac(`node-${n}`, 4), vtepMac(`node-${n}`, 6)]));
  assert.equal(all.size, 6);
  for (const mac of all) assert.equal(Number.parseInt(mac.slice(0, 2), 16) & 3, 2);
});
