import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { decodeObject, duplicateFields, findKind, kinds } from './index.ts';

const pod = findKind('v1', 'Pod')!;
const service = findKind('v1', 'Service')!;
const meta = { metadata: { name: 'x' } };

test('members of the wrong type are told with their path and the words of Go', () => {
  const cases: [unknown, string, string][] = [
    [
      { spec: { ports: [{ port: '80' }] } },
      'spec.ports[0].port',
      'json: cannot unmarshal string into Go struct field ServicePort.spec.ports.port of type int32',
    ],
    [
      { spec: { ports: { port: 80 } } },
      'spec.ports',
      'json: cannot unmarshal object into Go struct field ServiceSpec.spec.ports of type []v1.ServicePort',
    ],
    [
      { metadata: { labels: { a: true } } },
      'metadata.labels.a',
      'json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string',
    ],
    [
      { spec: { ports: [{ port: 1.5 }] } },
      'spec.ports[0].port',
      'json: cannot unmarshal number 1.5 into Go struct field ServicePort.spec.ports.port of type int32',
    ],
    [
      { spec: { ports: [{ port: 4e9 }] } },
      'spec.ports[0].port',
      'json: cannot unmarshal number 4000000000 into Go struct field ServicePort.spec.ports.port of type int32',
    ],
    [
      { metadata: { creationTimestamp: 'now' } },
      'metadata.creationTimestamp',
      'parsing time "now" as "2006-01-02T15:04:05Z07:00": cannot parse',
    ],
    [[], '', 'json: cannot unmarshal array into Go value of type v1.Service'],
  ];
  for (const [json, field, message] of cases)
    assert.deepEqual(decodeObject(service, json).typeErrors, [
      { type: 'FieldValueTypeInvalid', field, message },
    ]);
});

test('unknown members are told and left out', () => {
  const { object, unknownFields } = decodeObject(pod, {
    ...meta,
    sepc: {},
    spec: {
      hostNetwrok: true,
      containers: [
        { name: 'a', image: 'b' },
        { name: 'c', image: 'd', prots: [] },
      ],
    },
  });
  assert.deepEqual(unknownFields, ['sepc', 'spec.hostNetwrok', 'spec.containers[1].prots']);
  assert.deepEqual(object, {
    ...meta,
    spec: {
      containers: [
        { name: 'a', image: 'b' },
        { name: 'c', image: 'd' },
      ],
    },
  });
});

test('null and zero values are dropped where they mean absent, and kept where they do not', () => {
  const { object } = decodeObject(pod, {
    metadata: { name: 'x', labels: null, annotations: {} },
    spec: {
      hostNetwork: false,
      hostname: '',
      automountServiceAccountToken: false,
      terminationGracePeriodSeconds: 0,
      nodeSelector: {},
      volumes: [{ name: 'v', emptyDir: {} }],
      containers: [{ name: 'a', image: 'b', command: [], resources: {}, env: [{ name: 'E', value: '' }] }],
    },
  });
  assert.deepEqual(object, {
    ...meta,
    spec: {
      automountServiceAccountToken: false,
      terminationGracePeriodSeconds: 0,
      volumes: [{ name: 'v', emptyDir: {} }],
      containers: [{ name: 'a', image: 'b', resources: {}, env: [{ name: 'E' }] }],
    },
  });
});

test('quantities, times and keys get their one spelling', () => {
  const lease = findKind('coordination.k8s.io/v1', 'Lease')!;
  const { object } = decodeObject(lease, {
    metadata: { name: 'x', creationTimestamp: '2030-01-01T02:00:00.5+02:00' },
    spec: { renewTime: '2030-01-01T00:00:00.1234567Z' },
  });
  assert.deepEqual(object, {
    metadata: { name: 'x', creationTimestamp: '2030-01-01T00:00:00Z' },
    spec: { renewTime: '2030-01-01T00:00:00.123456Z' },
  });
  const map = decodeObject(
    findKind('v1', 'ConfigMap')!,
    JSON.parse('{"metadata":{"name":"x"},"data":{"__proto__":"p"}}'),
  );
  assert.deepEqual(Object.entries((map.object as unknown as { data: object }).data), [['__proto__', 'p']]);
});

test('any JSON decodes for any kind without an exception, and decoding again changes nothing', () => {
  fc.assert(
    fc.property(fc.constantFrom(...kinds), fc.jsonValue(), (schema, json) => {
      const { object } = decodeObject(schema, json);
      const again = decodeObject(schema, object);
      assert.deepEqual(again, { object, typeErrors: [], unknownFields: [] });
    }),
  );
});

test('members that look like those of a Pod never decode into something of another type', () => {
  const key = fc.constantFrom(
    'metadata',
    'spec',
    'containers',
    'name',
    'image',
    'ports',
    'env',
    'labels',
    'containerPort',
    'x',
  );
  const { tree } = fc.letrec((tie) => ({
    tree: fc.oneof(
      { maxDepth: 5 },
      fc.jsonValue({ maxDepth: 0 }),
      fc.array(tie('tree'), { maxLength: 3 }),
      fc.dictionary(key, tie('tree'), { maxKeys: 4 }),
    ),
  }));
  fc.assert(
    fc.property(tree, (json) => {
      const { object } = decodeObject(pod, json);
      const { containers } = (object as { spec?: { containers?: unknown } }).spec ?? {};
      assert(containers === undefined || Array.isArray(containers));
      assert.deepEqual(decodeObject(pod, object).typeErrors, []);
    }),
    { numRuns: 300 },
  );
});

test('members that occur twice are found with their paths', () => {
  const cases: [string, string[]][] = [
    ['{"a":1,"b":{"a":1}}', []],
    ['{"a":1,"a":2,"a":3}', ['a']],
    ['{"spec":{"ports":[{"port":1},{"port":1,"name":"{\\"","port":2}]}}', ['spec.ports[1].port']],
    ['{"a\\u0062":1,"ab":2}', ['ab']],
    ['[{"a":1},[{"b":1,"b":2}]]', ['[1][0].b']],
    ['{"a":[1,2,{"x":[],"x":{}}],"a":0}', ['a[2].x', 'a']],
  ];
  for (const [text, want] of cases) assert.deepEqual(duplicateFields(text), want, text);
});

test('JSON that was written by JSON.stringify has no duplicates', () => {
  fc.assert(
    fc.property(fc.jsonValue(), (json) => assert.deepEqual(duplicateFields(JSON.stringify(json)), [])),
  );
  fc.assert(fc.property(fc.string(), (text) => void duplicateFields(text)));
});
