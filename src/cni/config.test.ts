import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { isNetError } from '../errors/net-error.ts';
import { closest, readConfig } from './config.ts';
import { COMMANDS, readArgs, readEnvironment } from './environment.ts';
import { cniCode, failure } from './verdict.ts';

const base = { cniVersion: '1.1.0', name: 'portolan', type: 'portolan-cni' };
const read = (more: object, command: (typeof COMMANDS)[number] = 'ADD') =>
  readConfig(Buffer.from(JSON.stringify({ ...base, ...more })), command);

test('a configuration with all keys of the specification is taken', () => {
  const config = read({
    cniVersions: ['1.0.0', '1.1.0'],
    capabilities: { ips: true },
    runtimeConfig: { ips: ['10.0.0.5/24'], portMappings: [] },
    args: { cni: { ips: ['10.0.0.6'], labels: [{ key: 'a', value: 'b' }] }, 'example.com': {} },
    ipam: {},
    dns: { nameservers: ['10.96.0.10'] },
    ipMasq: false,
    disableCheck: true,
    disableGC: true,
    prevResult: { cniVersion: '1.1.0', ips: [{ address: '10.0.0.5/32', interface: 0 }] },
    'cni.dev/attachments': [{ containerID: 'a', ifname: 'eth0' }],
    'cni.dev/unheard-of': 1,
    mtu: 1400,
  });
  assert.equal(config.mtuBytes, 1400);
  assert.deepEqual(config.ips.map(String), ['10.0.0.5']);
  assert.deepEqual(config.dns, { nameservers: ['10.96.0.10'] });
  assert.deepEqual(config.validAttachments, [{ containerId: 'a', ifname: 'eth0' }]);
});

test('a misspelt key is refused with its value and the key that was meant', () => {
  const cases: [object, string, string | undefined][] = [
    [{ mtuu: 1400 }, 'mtuu', 'mtu'],
    [{ MTU: 1400 }, 'MTU', 'mtu'],
    [{ ipmasq: true }, 'ipmasq', 'ipMasq'],
    [{ isGateway: true }, 'isGateway', undefined],
    [{ runtimeConfig: { bandwidth: { ingressRate: 1 } } }, 'runtimeConfig.bandwidth', undefined],
    [{ ipam: { type: 'host-local' } }, 'ipam.type', undefined],
  ];
  for (const [more, key, hint] of cases)
    assert.throws(
      () => read(more),
      (error) =>
        isNetError(error, 'CNI_FIELD_UNSUPPORTED') &&
        error.context['key'] === key &&
        error.context['hint'] === hint,
    );
  assert.equal(closest('prevresult', ['prevResult', 'name']), 'prevResult');
  assert.equal(closest('x', ['mtu']), undefined);
});

test('DEL and GC forgive what ADD refuses: they must free what an older configuration made', () => {
  for (const command of ['DEL', 'GC'] as const) assert.equal(read({ mtuu: 1 }, command).name, 'portolan');
});

test('any JSON and any bytes are a configuration or an error of the CNI catalogue with a code of the specification', () => {
  const check = (bytes: Uint8Array) => {
    for (const command of COMMANDS)
      try {
        readConfig(bytes, command);
      } catch (error) {
        const code = cniCode(error);
        assert.ok([1, 2, 6, 7].includes(code), `${code}: ${error}`);
        const told = JSON.parse(failure(error).stdout);
        assert.ok(told.msg.length > 0 && told.code === code);
      }
  };
  fc.assert(fc.property(fc.json(), (json) => check(Buffer.from(json))));
  fc.assert(fc.property(fc.uint8Array(), check));
  const key = fc.constantFrom(
    'runtimeConfig',
    'args',
    'prevResult',
    'ipam',
    'dns',
    'mtu',
    'cni.dev/valid-attachments',
  );
  fc.assert(
    fc.property(fc.dictionary(key, fc.jsonValue()), (more) =>
      check(Buffer.from(JSON.stringify({ ...base, ...more }))),
    ),
  );
});

test('any environment is a call or an error of code 4', () => {
  const name = fc.constantFrom(
    'CNI_COMMAND',
    'CNI_CONTAINERID',
    'CNI_NETNS',
    'CNI_IFNAME',
    'CNI_ARGS',
    'CNI_PATH',
  );
  const value = fc.oneof(
    fc.string(),
    fc.constantFrom(...COMMANDS, 'eth0', 'c1', 'K8S_POD_NAME=a;IP=10.0.0.1'),
  );
  fc.assert(
    fc.property(fc.array(fc.tuple(name, value)), (pairs) => {
      try {
        const { command, ifname } = readEnvironment(new Map(pairs));
        if (command === 'ADD') assert.doesNotMatch(ifname, /[/:\s]|^$/);
      } catch (error) {
        assert.equal(cniCode(error), 4, String(error));
      }
    }),
    { numRuns: 500 },
  );
});

test('readArgs() takes the keys of Kubernetes and IP=, and ignores others', () => {
  assert.deepEqual(
    {
      ...readArgs('IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=a=b;X=;IP=10.0.0.1,fd00::1/64;'),
      ips: [],
    },
    { podNamespace: 'ns', podName: 'a=b', podUid: '', ips: [] },
  );
  assert.deepEqual(readArgs('IP=10.0.0.1,fd00::1/64').ips.map(String), ['10.0.0.1', 'fd00::1']);
  assert.throws(
    () => readArgs('=x'),
    (error) => isNetError(error, 'CNI_ENV_INVALID'),
  );
});
