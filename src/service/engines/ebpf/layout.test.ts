import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import test from 'node:test';
import { checkLayout, layoutOf, readObjectFile } from '../../../kernel/bpf/index.ts';
import { distPath } from '../../../kernel/paths.ts';
import {
  BACKEND,
  CHUNK,
  CHUNKS,
  CONFIG_SIZE,
  decodeRanges,
  encodeEndpoint,
  encodeRanges,
  FLOW,
  FLOW_SLOTS,
  FRONTEND,
  flowStructs,
  nodeStructs,
  REASONS,
  readAddress,
  sharedStructs,
} from './layout.ts';

const path = distPath('bpf/lb_pod.bpf.o');
const header = readFileSync(new URL('../../../../bpf/include/lb_types.h', import.meta.url), 'utf8');

test('structures have the layout that the compiler gave them', {
  skip: !existsSync(path) && 'bpf is not built',
}, () => {
  const { btf } = readObjectFile(readFileSync(path), 'lb_pod');
  for (const struct of sharedStructs) checkLayout(struct, btf);
  assert.equal(layoutOf(btf, 'lb_config')?.size, CONFIG_SIZE);
  const flow = readObjectFile(readFileSync(distPath('bpf/lb_flow.bpf.o')), 'lb_flow').btf;
  for (const struct of flowStructs) checkLayout(struct, flow);
  const node = readObjectFile(readFileSync(distPath('bpf/lb_node.bpf.o')), 'lb_node').btf;
  for (const struct of nodeStructs) checkLayout(struct, node);
  const head = layoutOf(node, 'lb_nat_head')!;
  assert.equal(head.size, 64);
});

test('reasons and flags are those of the header', () => {
  const reasons = [
    ...header
      .split('enum lb_reason {')[1]!
      .split('}')[0]!
      .matchAll(/\bLB_([A-Z_]+),/g),
  ].map((m) => m[1]!.toLowerCase().replaceAll('_', '-'));
  assert.deepEqual(reasons.slice(0, -1), [...REASONS]);
  for (const [prefix, flags] of [
    ['LB_F_', FRONTEND],
    ['LB_B_', BACKEND],
    ['LB_FLOW_', FLOW],
  ] as const)
    for (const [name, value] of Object.entries(flags)) {
      const declared = new RegExp(`\\b${prefix}${name} = (?:1 << )?(\\d+)`).exec(header)?.[1];
      assert.equal(name.endsWith('_SHIFT') ? Number(declared) : 1 << Number(declared), value, name);
    }
  const table = readFileSync(new URL('../../../../bpf/include/lb_flow_table.h', import.meta.url), 'utf8');
  assert.equal(Number(/LB_FLOW_SLOTS (\d+)/.exec(table)![1]), FLOW_SLOTS);
  const maps = readFileSync(new URL('../../../../bpf/include/lb_maps.h', import.meta.url), 'utf8');
  assert.equal(1 << Number(/LB_CHUNK_BITS (\d+)/.exec(maps)![1]), CHUNK);
  assert.equal(Number(/LB_CHUNKS (\d+)/.exec(maps)![1]), CHUNKS);
});

test('addresses of both families are 16 bytes and come back as they were', () => {
  for (const address of ['10.96.0.10', 'fd00:10:96::10', '0.0.0.0', '::', '255.255.255.255'])
    assert.equal(readAddress(encodeEndpoint(address, 80, 6)), address);
  assert.equal(
    Buffer.from(encodeEndpoint('10.96.0.10', 80, 6)).toString('hex'),
    '00000000000000000000ffff0a60000a00500600',
  );
});

test('Service ranges of both families come back as they were', () => {
  const ranges = ['10.96.0.0/16', 'fd00:10:96::/112', '10.0.0.0/7', '192.0.2.128/25', '::/0', '1.2.3.4/32'];
  assert.deepEqual(decodeRanges(encodeRanges(ranges)), ranges);
  assert.deepEqual(decodeRanges(encodeRanges([])), []);
});
