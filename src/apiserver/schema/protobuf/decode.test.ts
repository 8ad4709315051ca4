import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { isNetError } from '../../../errors/net-error.ts';
import { decodeObject, findKind, kinds } from '../index.ts';
import { type FieldType, resolve } from '../types/field.ts';
import { protobufToJson } from './decode.ts';
import { fieldNumbers } from './numbers.ts';

/** A varint. */
function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  for (; rest >= 128n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  return [...bytes, Number(rest)];
}
type Part = number | string | readonly Field[];
type Field = readonly [number, Part];
/** A message of fields: numbers are varints, strings and messages have a length. */
function message(fields: readonly Field[]): number[] {
  return fields.flatMap(([number, part]) => {
    if (typeof part === 'number') return [...varint(number << 3), ...varint(part)];
    const bytes = typeof part === 'string' ? [...new TextEncoder().encode(part)] : message(part);
    return [...varint((number << 3) | 2), ...varint(bytes.length), ...bytes];
  });
}
const body = (apiVersion: string, kind: string, fields: readonly Field[]) =>
  Uint8Array.from([
    0x6b,
    0x38,
    0x73,
    0,
    ...message([
      [
        1,
        [
          [1, apiVersion],
          [2, kind],
        ],
      ],
      [2, fields],
    ]),
  ]);

test('what kubectl 1.32 sends for "create configmap x --from-literal=a=b" is read', () => {
  const sent =
    '6b3873000a0f0a0276311209436f6e6669674d6170121b0a110a01781200 1a0022002a0032003800420012060a016112 01621a002200';
  const json = protobufToJson(Buffer.from(sent.replaceAll(' ', ''), 'hex'));
  const { object, typeErrors, unknownFields } = decodeObject(findKind('v1', 'ConfigMap')!, json);
  assert.deepEqual([typeErrors, unknownFields], [[], []]);
  assert.deepEqual(object, {
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name: 'x' },
    data: { a: 'b' },
  });
});

test('every form of a value is read', () => {
  const time: Part = [
    [1, 1893456000],
    [2, 5000],
  ];
  const pod = protobufToJson(
    body('v1', 'Pod', [
      [
        1,
        [
          [1, 'web'],
          [8, time],
          [
            17,
            [
              [1, 'me'],
              [2, 'Update'],
              [7, [[1, '{"f:a":{}}']]],
            ],
          ],
        ],
      ],
      [
        2,
        [
          [
            1,
            [
              [1, 'v'],
              [
                2,
                [
                  [
                    2,
                    [
                      [1, 'Memory'],
                      [2, [[1, '64Mi']]],
                    ],
                  ],
                ],
              ],
            ],
          ],
          [
            2,
            [
              [1, 'c'],
              [2, 'nginx'],
              [
                6,
                [
                  [1, 'http'],
                  [3, 8080],
                ],
              ],
              [
                8,
                [
                  [
                    1,
                    [
                      [1, 'cpu'],
                      [2, [[1, '1']]],
                    ],
                  ],
                ],
              ],
              [
                11,
                [
                  [
                    1,
                    [
                      [
                        2,
                        [
                          [1, '/'],
                          [
                            2,
                            [
                              [1, 1],
                              [2, 0],
                              [3, 'http'],
                            ],
                          ],
                        ],
                      ],
                    ],
                  ],
                  [2, 5],
                ],
              ],
              [16, 1],
            ],
          ],
          [4, -1],
          [
            14,
            [
              [2, -7],
              [4, 5],
            ],
          ],
        ],
      ],
    ]),
  );
  assert.deepEqual(pod, {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: 'web',
      creationTimestamp: '2030-01-01T00:00:00.000005000Z',
      managedFields: [{ manager: 'me', operation: 'Update', fieldsV1: { 'f:a': {} } }],
    },
    spec: {
      volumes: [{ name: 'v', emptyDir: { medium: 'Memory', sizeLimit: '64Mi' } }],
      containers: [
        {
          name: 'c',
          image: 'nginx',
          ports: [{ name: 'http', containerPort: 8080 }],
          resources: { limits: { cpu: '1' } },
          readinessProbe: { httpGet: { path: '/', port: 'http' }, initialDelaySeconds: 5 },
          stdin: true,
        },
      ],
      terminationGracePeriodSeconds: -1,
      securityContext: { runAsUser: -7, supplementalGroups: [5] },
    },
  });
});

test('every field of every table has a number', () => {
  const seen = new Set<string>();
  const missing: string[] = [];
  const namesOf = (message: string): string[] =>
    (fieldNumbers.get(message) ?? []).flatMap((name) =>
      name === undefined ? [] : name.startsWith('...') ? namesOf(name.slice(3)) : [name],
    );
  const visit = (type: FieldType): void => {
    if (type.is === 'list' || type.is === 'map') visit(resolve(type.of));
    if (type.is !== 'struct' || seen.has(type.name)) return;
    seen.add(type.name);
    const names = namesOf(type.name);
    for (const [name, field] of type.fields) {
      if (name !== 'apiVersion' && name !== 'kind' && !names.includes(name))
        missing.push(`${type.name}.${name}`);
      visit(resolve(field.type));
    }
  };
  for (const { type, custom } of kinds) if (!custom) visit(type);
  assert.deepEqual(missing, []);
});

test('a message that is cut inside a field is refused', () => {
  const whole = body('v1', 'ConfigMap', [
    [1, [[1, 'x']]],
    [
      2,
      [
        [1, 'a'],
        [2, 'b'],
      ],
    ],
  ]);
  // Between type and object there is a message without an object, which is one with nothing in it.
  const boundary =
    4 +
    message([
      [
        1,
        [
          [1, 'v1'],
          [2, 'ConfigMap'],
        ],
      ],
    ]).length;
  for (let length = 0; length < whole.length; length++)
    if (length !== boundary)
      assert.throws(
        () => protobufToJson(whole.subarray(0, length)),
        { code: 'API_BODY_PROTOBUF' },
        `at ${length}`,
      );
});

test('any bytes are an object or API_BODY_PROTOBUF', () => {
  const prefix = body('v1', 'Service', []).subarray(0, -2);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
      const raw = Uint8Array.from([...prefix, 0x12, bytes.length, ...bytes]);
      for (const input of [bytes, raw])
        try {
          assert.equal(typeof protobufToJson(input), 'object');
        } catch (error) {
          assert(isNetError(error, 'API_BODY_PROTOBUF'), String(error));
        }
    }),
    { numRuns: 500 },
  );
});
