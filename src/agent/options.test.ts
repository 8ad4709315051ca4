import assert from 'node:assert/strict';
import test from 'node:test';
import { isNetError } from '../errors/index.ts';
import { type AgentFlags, agentOptions } from './options.ts';

const flags: AgentFlags = {
  nodeName: 'node1',
  kubeconfig: '/etc/portolan/node.kubeconfig',
  stateDir: '/run/portolan',
  bpffs: '/sys/fs/bpf/portolan',
  cgroup: '/sys/fs/cgroup',
  backend: 'vxlan',
  directRouting: true,
  clusterCidr: ['10.244.0.0/16'],
  nodeIp: [],
  pods: 'none',
  label: [],
};

test('agentOptions() turns flags into values', () => {
  const options = agentOptions(
    {
      ...flags,
      nodeIp: ['192.0.2.7', '2001:db8::7'],
      clusterCidr: ['10.244.0.0/16', 'fd00:10:244::/56'],
      label: ['zone=a', 'empty=', 'example.com/x=y=z'],
      cniBinDir: '/opt/cni/bin',
      cniConfDir: '/etc/cni/net.d',
    },
    '1.2.3',
  );
  assert.deepEqual(options.nodeIps.map(String), ['192.0.2.7', '2001:db8::7']);
  assert.deepEqual(options.clusterCidrs.map(String), ['10.244.0.0/16', 'fd00:10:244::/56']);
  assert.deepEqual(options.nodeLabels, { zone: 'a', empty: '', 'example.com/x': 'y=z' });
  assert.deepEqual(options.cni, { binDir: '/opt/cni/bin', confDir: '/etc/cni/net.d' });
  assert.equal(agentOptions(flags, '1').cni, undefined);
  assert.equal(agentOptions(flags, '1').metricsServices, 1000);
  assert.equal(agentOptions({ ...flags, metricsServices: '0' }, '1').metricsServices, 0);
});

test('agentOptions() cuts open connections that a policy forbids, unless told to keep them', () => {
  const cuts = (policyEstablished?: string) =>
    agentOptions({ ...flags, ...(policyEstablished && { policyEstablished }) }, '1').cutEstablished;
  assert.deepEqual([cuts(), cuts('cut'), cuts('keep')], [true, true, false]);
});

test('agentOptions() reads the switches of Services, and leaves out those that were not given', () => {
  assert.deepEqual(agentOptions(flags, '1').services, {
    externalIPs: false,
    masqueradeAll: false,
    proxyName: undefined,
    dsrDispatch: 'ipip',
  });
  const { services } = agentOptions(
    { ...flags, externalIps: true, nodeportAddresses: ['primary', '10.0.0.0/8', '::/0'] },
    '1',
  );
  assert.equal(services?.externalIPs, true);
  assert.deepEqual(services?.nodePortAddresses?.map(String), ['primary', '10.0.0.0/8', '::/0']);
  assert.throws(
    () => agentOptions({ ...flags, nodeportAddresses: ['10.0.0.1/99'] }, '1'),
    /nodeport-addresses/,
  );
});

test('agentOptions() refuses what it cannot use, and names the option', () => {
  for (const [wrong, want] of [
    [{ nodeName: 'Node_1' }, /--node-name Node_1: want a lower-case host name/],
    [{ nodeName: '' }, /--node-name/],
    [{ backend: 'wireguard' }, /--backend wireguard: want vxlan or host-gw/],
    [{ podSources: 'none' }, /--pod-sources none: want own or any/],
    [{ pods: 'docker' }, /--pods docker: want process or none/],
    [{ cniBinDir: '/opt/cni/bin' }, /--cni-bin-dir .*both --cni-bin-dir and --cni-conf-dir/],
    [{ stateDir: 'run' }, /--state-dir run: want an absolute path/],
    [{ stateDir: `/run/${'x'.repeat(100)}` }, /--state-dir .*want at most 89 bytes/],
    [{ bpffs: 'x' }, /--bpffs x/],
    [{ cgroup: './x' }, /--cgroup/],
    [{ clusterCidr: [] }, /--cluster-cidr .*want a network/],
    [{ clusterCidr: ['10.244.0.0'] }, /--cluster-cidr 10\.244\.0\.0: want a network/],
    [{ nodeIp: ['host2'] }, /--node-ip host2: want an IPv4 or IPv6 address/],
    [{ nodeIp: ['192.0.2.1', '192.0.2.2'] }, /--node-ip .*want one address a family/],
    [{ nodeIp: ['fd00::1'] }, /--node-ip fd00::1: want addresses of the families of --cluster-cidr/],
    [{ label: ['zone'] }, /--label zone: want KEY=VALUE/],
    [{ label: ['=a'] }, /--label =a/],
  ] as [Partial<AgentFlags>, RegExp][])
    assert.throws(
      () => agentOptions({ ...flags, ...wrong }, '1'),
      (error) => isNetError(error, 'AGENT_BAD_OPTION') && want.test(error.message),
      String(want),
    );
});

test('networks that share addresses are refused: with each other, and with the node', () => {
  for (const [wrong, want] of [
    [{ clusterCidr: ['10.0.0.0/8', '10.244.0.0/16'] }, /10\.0\.0\.0\/8 and 10\.244\.0\.0\/16 as cluster/],
    [{ nodeIp: ['10.244.9.9'] }, /10\.244\.9\.9\/32 and 10\.244\.0\.0\/16 as/],
  ] as [Partial<AgentFlags>, RegExp][])
    assert.throws(
      () => agentOptions({ ...flags, ...wrong }, '1'),
      (error) => isNetError(error, 'AGENT_CIDR_OVERLAP') && want.test(error.message),
      String(want),
    );
});
