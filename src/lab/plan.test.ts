import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { isNetError } from '../errors/index.ts';
import { checkLabName, type LabOptions, nodeNamed, planLab } from './plan.ts';
import { assertOwnName, isLabFolder, loadLab } from './state.ts';
import { labNetns } from './underlay.ts';

const options: LabOptions = {
  name: 'lab',
  nodes: 2,
  backend: 'vxlan',
  dualStack: false,
  directRouting: true,
  port: 6443,
};

test('planLab() numbers nodes from 11 on one underlay, and names everything after the lab', () => {
  const plan = planLab({ ...options, dualStack: true });
  assert.deepEqual(plan.nodes[1], {
    name: 'node2',
    netns: 'lab-node2',
    addresses: ['172.31.0.12', 'fd00:172:31::c'],
    stateDir: '/run/lab/node2',
    bpffsDir: '/sys/fs/bpf/lab/node2',
    cgroup: 'lab/node2',
  });
  assert.deepEqual(plan.clusterCidrs, ['10.244.0.0/16', 'fd00:10:244::/56']);
  assert.equal(nodeNamed(plan, 'node1').netns, 'lab-node1');
  assert.throws(
    () => nodeNamed(plan, 'node3'),
    (error) => isNetError(error, 'LAB_NO_SUCH_NODE') && error.remedy === 'Its nodes are node1, node2',
  );
});

test('planLab() refuses what cannot be, by the name of the option', () => {
  for (const [wrong, want] of [
    [{ nodes: 0 }, /--nodes 0: want 1 to 100/],
    [{ nodes: 101 }, /--nodes 101/],
    [{ nodes: 1.5 }, /--nodes 1\.5/],
    [{ backend: 'wireguard' as 'vxlan' }, /--backend wireguard: want vxlan or host-gw/],
    [{ port: 0 }, /--port 0: want 1 to 65535/],
    [{ port: 65_536 }, /--port 65536/],
  ] as const)
    assert.throws(
      () => planLab({ ...options, ...wrong }),
      (error) => isNetError(error, 'LAB_BAD_OPTION') && want.test(error.message),
    );
});

test('names that lead elsewhere, or read like a part of another lab, are refused', () => {
  for (const name of ['', '.', '..', '../etc', 'a/b', 'A', '1a', 'a_b', 'a*', 'a.slice', 'a'.repeat(32)])
    for (const use of [checkLabName, assertOwnName, loadLab])
      assert.throws(
        () => use(name),
        (error) => isNetError(error, 'LAB_BAD_OPTION'),
        `"${name}"`,
      );
  for (const name of ['a-node1', 'a-node12-x', 'a-underlay', 'a-underlay-b'])
    assert.throws(
      () => checkLabName(name),
      (error) => isNetError(error, 'LAB_BAD_OPTION') && /parts of labs/.test(error.message),
    );
  for (const name of ['a', 'a-b', 'a-nodes', 'a-node', 'node1', 'underlay', 'portolan-lab'])
    checkLabName(name);
});

test('a folder below /run that is no lab gives no name to one', () => {
  // There on every Linux machine that runs this.
  assert.throws(
    () => assertOwnName('lock'),
    (error) => isNetError(error, 'LAB_NAME_TAKEN') && /"\/run\/lock" is there/.test(error.message),
  );
  assertOwnName('there-is-none-of-this');
  assert.equal(isLabFolder([]), true);
  assert.equal(isLabFolder(['lab.lock']), true);
  assert.equal(isLabFolder(['lab.json', 'node1']), true);
  assert.equal(isLabFolder(['agent.sock']), false);
  assert.equal(isLabFolder(['lab.lock', 'agent.sock']), false);
});

test('labNetns() finds the namespaces of one lab and none of its neighbours', () => {
  const all = [
    'a-underlay',
    'a-node1',
    'a-node10-0123456789ab',
    'a-b-underlay',
    'a-b-node1',
    'a-b-node1-0123456789ab',
    'a-nodex',
    'a-node1x',
    'a',
    'b-node1',
  ];
  assert.deepEqual(labNetns('a', all), ['a-underlay', 'a-node1', 'a-node10-0123456789ab']);
  assert.deepEqual(labNetns('a-b', all), ['a-b-underlay', 'a-b-node1', 'a-b-node1-0123456789ab']);
});

test('no two labs with allowed names share a namespace', () => {
  const name = fc
    .array(fc.constantFrom('a', 'b', 'node1', 'node', 'underlay', '1'), { minLength: 1, maxLength: 4 })
    .map((parts) => parts.join('-'))
    .filter((text) => {
      try {
        checkLabName(text);
        return true;
      } catch {
        return false;
      }
    });
  fc.assert(
    fc.property(name, name, (first, second) => {
      if (first === second) return;
      const plan = planLab({ ...options, name: second });
      const theirs = [plan.underlay.netns, ...plan.nodes.flatMap(({ netns }) => [netns, `${netns}-0a`])];
      assert.deepEqual(labNetns(first, theirs), []);
      assert.equal(labNetns(second, theirs).length, theirs.length);
    }),
  );
});

test('socket paths of the longest names fit into the 107 bytes of sun_path', () => {
  const plan = planLab({ ...options, name: `a${'b'.repeat(30)}`, nodes: 100 });
  const { stateDir } = plan.nodes.at(-1)!;
  assert.ok(`${stateDir}/agent.sock`.length <= 107);
});
