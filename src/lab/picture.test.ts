import assert from 'node:assert/strict';
import test from 'node:test';
import { drawMatrix, drawNodes, plain, verdictOf } from './picture.ts';

const node = (name: string, pods: number) => ({
  name,
  addresses: ['172.31.0.11'],
  podCidrs: ['10.244.0.0/24'],
  ready: true,
  pods: Array.from({ length: pods }, (_, at) => ({
    namespace: 'default',
    name: `web-${at}`,
    ips: [`10.244.0.${at + 2}`],
    state: 'Running',
    ready: true,
  })),
});

test('drawNodes() draws boxes of one width, side by side, standing on the underlay', () => {
  const lines = drawNodes([node('node1', 2), node('node2', 1)], {
    columns: 90,
    paint: plain,
    backend: 'vxlan',
  }).split('\n');
  assert.equal(lines[0], `┌${'─'.repeat(34)}┐  ┌${'─'.repeat(34)}┐`);
  assert.match(lines[1]!, /│ node1 +Ready │ {2}│ node2 +Ready │/);
  assert.match(lines.at(-1)!, /^─+┴─+┴─+ {2}vxlan$/);
});

test('drawNodes() wraps to the width of the terminal and says how many pods it left out', () => {
  const text = drawNodes([node('node1', 12), node('node2', 0)], {
    columns: 40,
    paint: plain,
    backend: 'host-gw',
  });
  assert.match(text, /… 4 more/);
  assert.equal(text.split('\n').filter((line) => line.includes('host-gw')).length, 2);
});

test('drawMatrix() shows microseconds, the failure, and a dot where nothing was tried', () => {
  const cells = [
    { from: 'web-0', to: 'web-1', family: 4 as const, micros: 183 },
    { from: 'web-1', to: 'web-0', family: 4 as const, micros: undefined, failure: 'ETIMEDOUT' },
  ];
  const text = drawMatrix(cells, 4, plain);
  assert.match(text, /web-0 +· +183 µs|web-0 +183 µs +·/);
  assert.match(text, /ETIMEDOUT/);
  assert.equal(drawMatrix(cells, 6, plain), '');
  assert.equal(verdictOf(cells), '2 connections tried, 1 FAILED');
});
