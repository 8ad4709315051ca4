/**
 * A figure beside its baseline and its budget, and how it is printed. Baselines come from the same run, because on
 * a busy machine only ratios mean something.
 */
import type { BenchRow } from './measure.ts';

/** `ratio` figures have no unit of their own, e.g. CPU beside CPU. */
export type Unit = 'ms' | 'us' | 'ns' | 's' | 'MiB' | 'Gbit/s' | 's/GB' | '/s' | '%';

export interface Figure {
  readonly name: string;
  readonly value: number;
  readonly unit: Unit;
  /** What is more: rates are better when they are higher, everything else when it is lower. */
  readonly baseline?: { readonly name: string; readonly value: number };
  readonly budget?: Budget;
}

/** What was promised, in words, and whether this run kept it. */
export interface Budget {
  readonly text: string;
  readonly met: boolean;
}

/** The options of every area. */
export interface AreaOptions {
  /** Fewer rounds and smaller tables. */
  readonly quick: boolean;
}

const RATES: readonly Unit[] = ['Gbit/s', '/s'];

/** At most so much, in the unit of the figure. */
export function atMost(value: number, limit: number, unit: Unit): Budget {
  return { text: `<= ${limit} ${unit}`, met: value <= limit };
}

/** How many times better than the baseline, whatever better means for the unit. */
export function ratioOf({ value, unit, baseline }: Figure): number | undefined {
  if (!baseline || baseline.value === 0 || value === 0) return undefined;
  return RATES.includes(unit) ? value / baseline.value : baseline.value / value;
}

/** At least so many times better than the baseline. */
export function atLeastTimes(figure: Figure, times: number): Figure {
  const ratio = ratioOf(figure);
  return { ...figure, budget: { text: `>= ${times}x`, met: ratio !== undefined && ratio >= times } };
}

/** Rows of benchmarks that time one thing beside another. */
export function figureOf({ name, ms, baseline, baselineMs }: BenchRow, budget?: Budget): Figure {
  return {
    name,
    value: ms,
    unit: 'ms',
    baseline: { name: baseline, value: baselineMs },
    ...(budget && { budget }),
  };
}

/** `12.3 ms`, `45.6 us`: three digits that count. */
export function quantity(value: number, unit: Unit): string {
  if (unit === 'ms' && value < 1) return quantity(value * 1000, 'us');
  if (unit === 'ms' && value >= 10_000) return quantity(value / 1000, 's');
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${unit}`;
}

/** `10.4x` better, or `0.62x` when it is worse. */
export function times(ratio: number): string {
  return `${ratio.toFixed(ratio >= 10 ? 0 : ratio >= 2 ? 1 : 2)}x`;
}

function verdict(budget: Budget | undefined): string {
  return budget ? `${budget.text}: ${budget.met ? 'met' : 'MISSED'}` : '';
}

/** One line a figure: name, value, baseline, its value, ratio, budget. */
export function lineOf(figure: Figure): string {
  const { name, value, unit, baseline, budget } = figure;
  const ratio = ratioOf(figure);
  return [
    name.padEnd(58),
    quantity(value, unit).padStart(11),
    '  ',
    (baseline?.name ?? '').padEnd(38),
    (baseline ? quantity(baseline.value, unit) : '').padStart(11),
    (ratio === undefined ? '' : times(ratio)).padStart(8),
    `   ${verdict(budget)}`,
  ]
    .join(' ')
    .trimEnd();
}

/** A row of a Markdown table. */
export function markdownOf(figure: Figure): string {
  const { name, value, unit, baseline, budget } = figure;
  const ratio = ratioOf(figure);
  return `| ${[
    name,
    quantity(value, unit),
    baseline ? `${baseline.name}: ${quantity(baseline.value, unit)}` : '',
    ratio === undefined ? '' : times(ratio),
    budget ? `${budget.text}: ${budget.met ? 'met' : '**missed**'}` : '',
  ].join(' | ')} |`;
}

/** Median; the list is sorted in place. */
export function median(values: number[]): number {
  return quantile(values, 0.5);
}

/** The value below which a share of all lies; the list is sorted in place. */
export function quantile(values: number[], share: number): number {
  values.sort((a, b) => a - b);
  return values[Math.min(values.length - 1, Math.floor(values.length * share))]!;
}
