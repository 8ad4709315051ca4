/**
 * Figures for Prometheus. Counting is plain numbers, always on; the library that writes the text format is loaded
 * when somebody asks for the first time.
 */

export type MetricLabels = Readonly<Record<string, string | number>>;

/** One metric with all its values, as prom-client's collectors give them. */
export interface Metric {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly values: readonly { labels: MetricLabels; value: number; metricName?: string }[];
}

/** Upper bounds in seconds: from what a map update costs to what a person notices. */
const BOUNDS_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

/** Durations of one kind of work, counted in buckets; by labels when there are some. */
export class Durations {
  readonly #rows = new Map<string, { labels: MetricLabels; counts: number[]; sum: number; count: number }>();
  readonly #most: number;

  /** `most` combinations of labels are told apart at most; what comes then is left out. */
  constructor(most = 1_000) {
    this.#most = most;
  }

  observe(seconds: number, labels: MetricLabels = {}): void {
    const key = Object.values(labels).join('\n');
    let row = this.#rows.get(key);
    if (!row) {
      if (this.#rows.size >= this.#most) return;
      row = { labels, counts: new Array<number>(BOUNDS_SECONDS.length).fill(0), sum: 0, count: 0 };
      this.#rows.set(key, row);
    }
    const bucket = BOUNDS_SECONDS.findIndex((bound) => seconds <= bound);
    if (bucket >= 0) row.counts[bucket]!++;
    row.sum += seconds;
    row.count++;
  }

  /** As a histogram. */
  metric(name: string, help: string): Metric {
    const values: { labels: MetricLabels; value: number; metricName?: string }[] = [];
    for (const { labels, counts, sum, count } of this.#rows.values()) {
      let below = 0;
      BOUNDS_SECONDS.forEach((le, at) => {
        below += counts[at]!;
        values.push({ labels: { le, ...labels }, value: below, metricName: `${name}_bucket` });
      });
      values.push({ labels: { le: '+Inf', ...labels }, value: count, metricName: `${name}_bucket` });
      values.push({ labels, value: sum, metricName: `${name}_sum` });
      values.push({ labels, value: count, metricName: `${name}_count` });
    }
    return { name, help, type: 'histogram', values };
  }
}

/** A metric of one value. */
export function single(name: string, help: string, type: 'counter' | 'gauge', value: number): Metric {
  return { name, help, type, values: [{ labels: {}, value }] };
}

/** What every process tells of itself, by the names that Prometheus' own libraries use. */
export function processMetrics(): Metric[] {
  const { user, system } = process.cpuUsage();
  const { rss, heapUsed } = process.memoryUsage();
  return [
    single('process_resident_memory_bytes', 'Resident memory.', 'gauge', rss),
    single('nodejs_heap_size_used_bytes', 'JavaScript heap in use.', 'gauge', heapUsed),
    single('process_cpu_seconds_total', 'CPU time.', 'counter', (user + system) / 1e6),
    single(
      'process_start_time_seconds',
      'Start, in seconds since 1970.',
      'gauge',
      Math.round(Date.now() / 1000 - process.uptime()),
    ),
  ];
}

export const METRICS_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

/** The text format of Prometheus. */
export async function metricsText(metrics: readonly Metric[]): Promise<string> {
  // It is CommonJS: a bundler keeps only its default export.
  const { default: prometheus } = await import('prom-client');
  const registry = new prometheus.Registry();
  // prom-client asks a registered metric only for `get()`; its type wants one of its own classes.
  for (const metric of metrics)
    registry.registerMetric({ name: metric.name, get: async () => metric } as unknown as Parameters<
      typeof registry.registerMetric
    >[0]);
  return registry.metrics();
}
