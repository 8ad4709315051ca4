import assert from 'node:assert/strict';
import test from 'node:test';
import { Durations, metricsText, single } from './metrics.ts';

test('figures are written as Prometheus reads them', async () => {
  const calls = new Durations(2);
  calls.observe(0.002, { verb: 'ADD', code: 0 });
  calls.observe(0.2, { verb: 'ADD', code: 0 });
  calls.observe(60, { verb: 'DEL "x"', code: 7 });
  calls.observe(1, { verb: 'one too many', code: 7 });
  const text = await metricsText([
    calls.metric('calls_seconds', 'Calls.'),
    single('up', 'Is it up.', 'gauge', 1),
  ]);
  const lines = text.split('\n');
  for (const line of [
    '# TYPE calls_seconds histogram',
    'calls_seconds_bucket{le="0.001",verb="ADD",code="0"} 0',
    'calls_seconds_bucket{le="0.0025",verb="ADD",code="0"} 1',
    'calls_seconds_bucket{le="+Inf",verb="ADD",code="0"} 2',
    'calls_seconds_count{verb="ADD",code="0"} 2',
    'calls_seconds_bucket{le="10",verb="DEL \\"x\\"",code="7"} 0',
    'calls_seconds_sum{verb="DEL \\"x\\"",code="7"} 60',
    '# HELP up Is it up.',
    'up 1',
  ])
    assert.ok(lines.includes(line), `${line}\n${text}`);
  assert.doesNotMatch(text, /too many/);
});
