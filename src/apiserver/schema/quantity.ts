/**
 * Kubernetes resource quantities: `500m`, `1.5`, `2Gi`, `1e3`. Values are exact down to one nano unit; finer
 * fractions are rounded up, as Kubernetes does. Source: apimachinery `api/resource` v1.32 and its documentation.
 */
const syntax = /^([+-]?)(?:(\d+)(?:\.(\d*))?|\.(\d+))(|[numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)$/;
const decimalSuffixes = ['n', 'u', 'm', '', 'k', 'M', 'G', 'T', 'P', 'E'] as const;
const binarySuffixes = ['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei'] as const;
/** Exponents beyond this are refused rather than computed: nothing real is that large. */
const maxExponent = 40;

export interface Quantity {
  /** Value times 10^9. */
  readonly nanos: bigint;
  readonly format: 'decimal' | 'binary' | 'exponent';
}

/** Reads a quantity, or returns undefined when it has not the syntax of one. */
export function parseQuantity(text: string): Quantity | undefined {
  const match = syntax.exec(text);
  if (!match) return undefined;
  const [, sign, whole = '', fraction = match[4] ?? '', , suffix = ''] = match;
  let exponent = 0;
  let factor = 1n;
  let format: Quantity['format'] = 'decimal';
  const binary = binarySuffixes.indexOf(suffix as 'Ki');
  if (suffix.length === 2 && binary > 0) {
    factor = 1024n ** BigInt(binary);
    format = 'binary';
  } else if (/^[eE].+/.test(suffix)) {
    exponent = Number(suffix.slice(1));
    if (Math.abs(exponent) > maxExponent) return undefined;
    format = 'exponent';
  } else exponent = (decimalSuffixes.indexOf(suffix as 'n') - 3) * 3;
  const scale = 9 + exponent - fraction.length;
  const digits = BigInt(whole + fraction || '0') * factor;
  const nanos = scale >= 0 ? digits * 10n ** BigInt(scale) : ceilDivide(digits, 10n ** BigInt(-scale));
  return { nanos: sign === '-' ? -nanos : nanos, format };
}

const ceilDivide = (a: bigint, b: bigint) => (a + b - 1n) / b;

/** The one spelling that Kubernetes stores: `0.5` is `500m`, `1024Mi` is `1Gi`. */
export function formatQuantity({ nanos, format }: Quantity): string {
  if (nanos === 0n) return '0';
  const unit = 1_000_000_000n;
  const size = nanos < 0n ? -nanos : nanos;
  if (format === 'binary' && nanos % unit === 0n && size >= 1024n * unit) {
    let value = nanos / unit;
    let step = 0;
    while (step < binarySuffixes.length - 1 && value % 1024n === 0n) {
      value /= 1024n;
      step++;
    }
    return `${value}${binarySuffixes[step]}`;
  }
  let value = nanos;
  let step = 0;
  while (step < decimalSuffixes.length - 1 && value % 1000n === 0n) {
    value /= 1000n;
    step++;
  }
  if (format === 'exponent') return step === 3 ? `${value}` : `${value}e${(step - 3) * 3}`;
  return `${value}${decimalSuffixes[step]}`;
}
