export { type Difference, difference } from './diff.ts';
export {
  Durations,
  METRICS_TYPE,
  type Metric,
  metricsText,
  processMetrics,
  single,
} from './metrics.ts';
export { cpuTimeMs, pauseMs, restMs } from './pacing.ts';
export { Reconciler, type ReconcilerOptions } from './reconciler.ts';
export { type ObjectStatus, PENDING, statusText } from './status.ts';
