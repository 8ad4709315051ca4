import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { isNetError } from '../errors/net-error.ts';
import { readConfig } from './config.ts';
import { mappingText, readPortMappings, unknownMappings } from './port-mappings.ts';

const invalid = (why: string) => new RangeError(why);
const read = (given: unknown) => readPortMappings(given, invalid);

test('readPortMappings() takes what containerd, nerdctl and podman send', () => {
  assert.deepEqual(read(undefined), []);
  assert.deepEqual(read(null), []);
  assert.deepEqual(
    read([
      { hostPort: 8080, containerPort: 80, protocol: 'tcp', hostIP: '' },
      { hostPort: 8080, containerPort: 80, protocol: 'UDP', hostIP: '0.0.0.0' },
      { HostPort: 8081, ContainerPort: 81, Protocol: '', HostIP: '2001:DB8:0::1' },
      { hostPort: 8080, containerPort: 80, protocol: 'tcp' },
    ]).map((mapping) => `${mappingText(mapping)} ${mapping.containerPort}`),
    ['*:8080/TCP 80', '0.0.0.0:8080/UDP 80', '[2001:db8::1]:8081/TCP 81'],
  );
});

test('a mapping that nobody could serve is refused with the place where it is wrong', () => {
  const one = { hostPort: 8080, containerPort: 80 };
  const cases: [unknown, RegExp][] = [
    [{}, /"runtimeConfig\.portMappings\.?": /],
    [[{ hostPort: 80 }], /portMappings\.0\.containerPort"/],
    [[{ ...one, hostPort: 0 }], /portMappings\.0\.hostPort"/],
    [[one, { ...one, hostPort: 65_536 }], /portMappings\.1\.hostPort"/],
    [[{ ...one, hostPort: 80.5 }], /hostPort"/],
    [[{ ...one, hostPort: '80' }], /hostPort"/],
    [[{ ...one, protocol: 'icmp' }], /protocol": "icmp" is none of tcp, udp, sctp/],
    [[{ ...one, hostIP: 'localhost' }], /hostIP": "localhost" is no IP address/],
    [[{ ...one, hostAddress: '10.0.0.1' }], /hostAddress/],
    [[7], /portMappings\.0"/],
    [[one, { ...one, containerPort: 81 }], /portMappings\.1": \*:8080\/TCP would lead to port 80 and 81/],
  ];
  for (const [given, why] of cases) assert.throws(() => read(given), why, JSON.stringify(given));
});

test('CHECK names mappings that the runtime believes in and ADD never saw', () => {
  const recorded = read([{ hostPort: 8080, containerPort: 80 }]);
  assert.deepEqual(unknownMappings(recorded, recorded), []);
  assert.deepEqual(unknownMappings(read([{ hostPort: 8080, containerPort: 81 }]), recorded), [
    'port mapping *:8080/TCP to 81 was not asked for at ADD',
  ]);
});

test('any JSON as portMappings is read or refused as a configuration, and DEL never fails for it', () => {
  const config = (portMappings: unknown) =>
    Buffer.from(
      JSON.stringify({ cniVersion: '1.1.0', name: 'n', type: 't', runtimeConfig: { portMappings } }),
    );
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      assert.deepEqual(readConfig(config(value), 'DEL').portMappings, []);
      try {
        for (const { hostPort } of readConfig(config(value), 'ADD').portMappings)
          assert.ok(hostPort > 0 && hostPort < 65_536);
      } catch (error) {
        assert.ok(isNetError(error, 'CNI_CONFIG_INVALID'), String(error));
      }
    }),
    { numRuns: 200 },
  );
});
