/** Sides of conditions in bpf/ that no test takes, and why none can. Checked by tools/bpf-coverage.ts. */
import type { Explained } from './bpf-coverage-report.ts';

export const EXPLAINED: readonly Explained[] = [];
