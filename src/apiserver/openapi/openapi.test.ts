import assert from 'node:assert/strict';
import { test } from 'node:test';
import { documentedKinds, documentedVersions } from '../schema/absent-kinds.ts';
import { openapiV2Json, openapiV2Protobuf, openapiV3, openapiV3Index } from './index.ts';

type Json = Record<string, unknown>;

/** All values under the member `$ref`, anywhere. */
function references(json: unknown, found = new Set<string>()): Set<string> {
  if (typeof json !== 'object' || json === null) return found;
  for (const [key, value] of Object.entries(json))
    if (key === '$ref') found.add(String(value));
    else references(value, found);
  return found;
}

test('every reference of every document leads to a schema of the same document', () => {
  const v2 = JSON.parse(openapiV2Json());
  for (const ref of references(v2)) assert(ref.replace('#/definitions/', '') in v2.definitions, ref);
  for (const groupVersion of documentedVersions) {
    const [version = '', group = ''] = groupVersion.split('/').reverse();
    const v3 = JSON.parse(openapiV3(group, version)!);
    for (const ref of references(v3))
      assert(ref.replace('#/components/schemas/', '') in v3.components.schemas, ref);
  }
  assert.equal(openapiV3('apps', 'v2'), undefined);
});

test('the v3 index names each group and version with a hash of its document', () => {
  const { paths } = JSON.parse(openapiV3Index()) as { paths: Record<string, { serverRelativeURL: string }> };
  assert.deepEqual(Object.keys(paths).sort(), [
    'api/v1',
    'apis/apiextensions.k8s.io/v1',
    'apis/apps/v1',
    'apis/batch/v1',
    'apis/batch/v1beta1',
    'apis/coordination.k8s.io/v1',
    'apis/discovery.k8s.io/v1',
    'apis/discovery.k8s.io/v1beta1',
    'apis/events.k8s.io/v1',
    'apis/extensions/v1beta1',
    'apis/networking.k8s.io/v1',
    'apis/networking.k8s.io/v1beta1',
    'apis/policy.networking.k8s.io/v1alpha2',
    'apis/policy.portolan.dev/v1alpha1',
  ]);
  assert.match(paths['api/v1']!.serverRelativeURL, /^\/openapi\/v3\/api\/v1\?hash=[0-9A-F]{128}$/);
});

test('PATCH of every kind takes fieldValidation and dryRun, which kubectl looks for', () => {
  for (const kind of documentedKinds) {
    const { paths } = JSON.parse(openapiV3(kind.group, kind.version)!) as {
      paths: Record<string, { patch?: Json }>;
    };
    const patches = Object.values(paths).flatMap(({ patch }) => (patch ? [patch] : []));
    const mine = patches.find(
      (patch) => (patch['x-kubernetes-group-version-kind'] as Json)['kind'] === kind.kind,
    );
    assert(mine);
    const names = (mine['parameters'] as Json[]).map((parameter) => parameter['name']);
    for (const name of ['fieldValidation', 'dryRun', 'fieldManager', 'force'])
      assert(names.includes(name), kind.kind);
  }
});

test('list types, merge keys and required members are stated', () => {
  const { definitions } = JSON.parse(openapiV2Json());
  const { ports } = definitions['io.k8s.api.core.v1.ServiceSpec'].properties;
  assert.deepEqual(ports, {
    type: 'array',
    items: { $ref: '#/definitions/io.k8s.api.core.v1.ServicePort' },
    description: 'Ports that are exposed.',
    'x-kubernetes-list-type': 'map',
    'x-kubernetes-list-map-keys': ['port', 'protocol'],
    'x-kubernetes-patch-merge-key': 'port',
    'x-kubernetes-patch-strategy': 'merge',
  });
  assert.deepEqual(definitions['io.k8s.api.core.v1.ServicePort'].required, ['port']);
  assert.deepEqual(definitions['io.k8s.api.core.v1.Service']['x-kubernetes-group-version-kind'], [
    { group: '', version: 'v1', kind: 'Service' },
  ]);
});

/** Reads one protobuf message: field number -> values, bytes for wire type 2. */
function readMessage(bytes: Uint8Array): Map<number, (number | Uint8Array)[]> {
  const fields = new Map<number, (number | Uint8Array)[]>();
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let shift = 1; ; shift *= 128) {
      const byte = bytes[at++]!;
      value += (byte & 127) * shift;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    let value: number | Uint8Array;
    if ((tag & 7) === 0) value = varint();
    else {
      assert.equal(tag & 7, 2);
      const length = varint();
      value = bytes.subarray(at, at + length);
      at += length;
    }
    const number = tag >>> 3;
    fields.set(number, [...(fields.get(number) ?? []), value]);
  }
  assert.equal(at, bytes.length);
  return fields;
}
const text = (value: unknown) => new TextDecoder().decode(value as Uint8Array);

test('the protobuf form has the same definitions and paths as the JSON form', () => {
  const json = JSON.parse(openapiV2Json());
  const document = readMessage(openapiV2Protobuf());
  assert.equal(text(document.get(1)![0]), '2.0');
  const names = (message: unknown, number: number) =>
    readMessage(message as Uint8Array)
      .get(number)!
      .map((pair) => text(readMessage(pair as Uint8Array).get(1)![0]));
  assert.deepEqual(names(document.get(9)![0], 1), Object.keys(json.definitions));
  assert.deepEqual(names(document.get(8)![0], 2), Object.keys(json.paths));
});
