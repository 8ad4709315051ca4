/** Benchmarks that run alone as well, put beside their budgets. */
import { benchApiServer } from './apiserver.ts';
import { benchCni } from './cni.ts';
import { type AreaOptions, atLeastTimes, atMost, type Figure, figureOf } from './figure.ts';
import type { BenchRow } from './measure.ts';
import { bench as benchServiceRows } from './service.ts';

export async function cniFigures({ quick }: AreaOptions): Promise<Figure[]> {
  const f = await benchCni(quick ? 3 : 7);
  const chain = 'bridge + host-local + portmap';
  const beside = (name: string, value: number, other: number | undefined): Figure => ({
    name,
    value,
    unit: 'ms',
    ...(other !== undefined && { baseline: { name: chain, value: other } }),
  });
  const at = `${f.parallel} at once`;
  return [
    {
      name: `CNI ADD, ${at}, inside the agent, p50`,
      value: f.agentP50Ms,
      unit: 'ms',
      budget: atMost(f.agentP50Ms, 15, 'ms'),
    },
    { name: `CNI ADD, ${at}, inside the agent, p99`, value: f.agentP99Ms, unit: 'ms' },
    { name: `CNI ADD, ${at}, CPU of the agent for each`, value: f.agentCpuMs, unit: 'ms' },
    { name: `CNI ADD, ${at}, over the socket, p50`, value: f.socketP50Ms, unit: 'ms' },
    beside(`CNI ADD, ${at}, plugin executed, p50`, f.execP50Ms, f.referenceP50Ms),
    beside(`CNI DEL, ${at}, plugin executed, p50`, f.delP50Ms, f.referenceDelP50Ms),
    beside('CNI ADD, alone, plugin executed, p50', f.singleExecMs, f.referenceSingleMs),
  ];
}

/** How much longer a connection through the socket hook may take than without, at 10,000 Services. */
const EXTRA_US = 0.1;

export async function serviceFigures({ quick }: AreaOptions): Promise<Figure[]> {
  const rows = await benchServiceRows(
    quick ? { rounds: 3, counts: [1, 10_000] } : { rounds: 9, counts: [1, 1000, 10_000, 100_000] },
  );
  return rows.map((row) => withBudget(row));
}

function withBudget(row: BenchRow): Figure {
  const { name, baseline, ms, baselineMs } = row;
  if (/^connect, 10,000 Services, socket hook/.test(name) && /pod itself/.test(baseline)) {
    const extra = (ms - baselineMs) * 1000;
    return figureOf(row, { text: `+ ${EXTRA_US} us (is ${extra.toFixed(2)})`, met: extra <= EXTRA_US });
  }
  return figureOf(row);
}

export async function apiFigures({ quick }: AreaOptions): Promise<Figure[]> {
  const f = await benchApiServer(quick ? 2000 : 10_000);
  const count = f.count.toLocaleString('en');
  return [
    {
      name: `create ${count} Services and ${count} EndpointSlices of 10, durable`,
      value: f.writesPerSecond,
      unit: '/s',
    },
    {
      name: `list ${count} Services`,
      value: f.listServicesMs,
      unit: 'ms',
      budget: atMost(f.listServicesMs, 2000, 'ms'),
    },
    {
      name: `list ${count} EndpointSlices (${Math.round(f.listBytes / 1e6)} MB)`,
      value: f.listSlicesMs,
      unit: 'ms',
      budget: atMost(f.listSlicesMs, 2000, 'ms'),
    },
    { name: `list ${count} EndpointSlices, pages of 500`, value: f.pagedListMs, unit: 'ms' },
    {
      name: 'write to event at a watcher, p50',
      value: f.eventP50Ms,
      unit: 'ms',
      budget: atMost(f.eventP50Ms, 5, 'ms'),
    },
    { name: 'write to event at a watcher, p99', value: f.eventP99Ms, unit: 'ms' },
    { name: 'API server RSS', value: f.rssMiB, unit: 'MiB' },
    { name: 'start with that store', value: f.restartMs, unit: 'ms' },
  ];
}

export async function elementFigures(_options: AreaOptions): Promise<Figure[]> {
  const nft = await (await import('./nft-elements.ts')).bench();
  const bpf = await (await import('./bpf.ts')).bench();
  return [...nft, ...bpf].map((row) =>
    /^replace|^write 1000 /.test(row.name) ? atLeastTimes(figureOf(row), 3) : figureOf(row),
  );
}
