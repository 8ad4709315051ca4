import assert from 'node:assert/strict';
import test from 'node:test';
import { isNetError } from '../errors/index.ts';
import type { ConfigMap, Container, EnvVar, Pod } from '../model/kubernetes.ts';
import { containerEnv, type EnvSources, expand } from './env.ts';

const pod: Pod = {
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: {
    name: 'web-1',
    namespace: 'shop',
    uid: 'u1',
    labels: { app: 'web' },
    annotations: { 'a.b/c': 'd' },
  },
  spec: { nodeName: 'n1', containers: [] },
};
const map: ConfigMap = {
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { name: 'm' },
  data: { k: 'v', x: 'y' },
};
const sources: EnvSources = {
  pod,
  configMap: (name) => (name === 'm' ? map : undefined),
  podIps: ['10.244.1.2', 'fd00::2'],
  hostIps: ['192.0.2.1'],
};

function resolve(env: EnvVar[], rest: Partial<Container> = {}): Record<string, string> {
  const variables = containerEnv({ name: 'c', env, ...rest }, sources);
  return Object.fromEntries(variables.map(({ name, value }) => [name, value]));
}

test('expand() follows the rules of the Kubernetes documentation', () => {
  const values = new Map([
    ['A', '1'],
    ['EMPTY', ''],
  ]);
  const cases: [string, string][] = [
    ['$(A)', '1'],
    ['x$(A)y$(A)', 'x1y1'],
    ['$(EMPTY)|', '|'],
    ['$(MISSING)', '$(MISSING)'],
    ['$$(A)', '$(A)'],
    ['$$$(A)', '$1'],
    ['$$', '$'],
    ['$', '$'],
    ['$A ${', '$A ${'],
    ['$(A', '$(A'],
  ];
  for (const [text, want] of cases)
    assert.equal(
      expand(text, (name) => values.get(name)),
      want,
      text,
    );
});

test('containerEnv() resolves references, and later variables see earlier ones', () => {
  const field = (fieldPath: string) => ({ valueFrom: { fieldRef: { fieldPath } } });
  const got = resolve(
    [
      { name: 'NAME', ...field('metadata.name') },
      { name: 'NS', ...field('metadata.namespace') },
      { name: 'LABEL', ...field("metadata.labels['app']") },
      { name: 'NOTE', ...field("metadata.annotations['a.b/c']") },
      { name: 'IPS', ...field('status.podIPs') },
      { name: 'HOST', ...field('status.hostIP') },
      { name: 'KEY', valueFrom: { configMapKeyRef: { name: 'm', key: 'k' } } },
      { name: 'NONE', valueFrom: { configMapKeyRef: { name: 'm', key: 'no', optional: true } } },
      { name: 'CPU', valueFrom: { resourceFieldRef: { resource: 'limits.cpu', divisor: '1m' } } },
      { name: 'MEM', valueFrom: { resourceFieldRef: { resource: 'limits.memory', divisor: '1Mi' } } },
      { name: 'BOTH', value: '$(NS)/$(NAME) $(LATER)' },
      { name: 'LATER', value: 'x' },
    ],
    {
      envFrom: [{ prefix: 'P_', configMapRef: { name: 'm' } }],
      resources: { limits: { cpu: '250m', memory: '64Mi' } },
    },
  );
  assert.deepEqual(got, {
    HOSTNAME: 'web-1',
    P_k: 'v',
    P_x: 'y',
    NAME: 'web-1',
    NS: 'shop',
    LABEL: 'web',
    NOTE: 'd',
    IPS: '10.244.1.2,fd00::2',
    HOST: '192.0.2.1',
    KEY: 'v',
    CPU: '250',
    MEM: '64',
    BOTH: 'shop/web-1 $(LATER)',
    LATER: 'x',
  });
});

test('containerEnv() names the reference that leads nowhere', () => {
  const cases: [EnvVar, RegExp][] = [
    [{ name: 'A', valueFrom: { configMapKeyRef: { name: 'gone', key: 'k' } } }, /configmap "gone" not found/],
    [{ name: 'A', valueFrom: { configMapKeyRef: { name: 'm', key: 'no' } } }, /has no key "no"/],
    [{ name: 'A', valueFrom: { fieldRef: { fieldPath: 'spec.x' } } }, /fieldPath "spec.x" is not supported/],
    [{ name: 'A', valueFrom: { secretKeyRef: { name: 's', key: 'k' } } }, /Secrets are not served/],
    [{ name: 'A', valueFrom: {} }, /names no source/],
  ];
  for (const [variable, message] of cases)
    assert.throws(
      () => resolve([variable]),
      (error) => isNetError(error, 'PODS_ENV_MISSING') && message.test(error.message),
    );
});
