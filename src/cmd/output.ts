/** What commands print: results on stdout as a table or JSON, diagnostics on stderr, colour only on a terminal. */

/** True when colour codes would reach a person: a terminal, and no NO_COLOR (no-color.org). */
export function coloured(stream: { isTTY?: boolean } = process.stdout): boolean {
  return Boolean(stream.isTTY) && !process.env['NO_COLOR'];
}

const CODES = { red: 31, green: 32, yellow: 33, blue: 34, cyan: 36, dim: 2, bold: 1 } as const;
export type Style = keyof typeof CODES;

/** `text` in a style where colour is shown, else as it is. */
export function styled(style: Style, text: string, stream: { isTTY?: boolean } = process.stdout): string {
  return coloured(stream) ? `\x1b[${CODES[style]}m${text}\x1b[0m` : text;
}

/** A state in its colour: `done`, `error: ...`, or something between. */
export function stateStyle(state: string): string {
  if (state === 'done') return styled('green', state);
  return styled(/^(error|Cannot)/.test(state) ? 'red' : 'yellow', state);
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: colour codes are control characters
const CODE = /\x1b\[[0-9;]*m/g;

/** Columns that a text takes on a terminal, colour codes left out. */
export function width(text: string): number {
  return text.replace(CODE, '').length;
}

export function padEnd(text: string, columns: number): string {
  return text + ' '.repeat(Math.max(0, columns - width(text)));
}

export function padStart(text: string, columns: number): string {
  return ' '.repeat(Math.max(0, columns - width(text))) + text;
}

/** Rows in aligned columns under a head in capitals, as kubectl prints them. No rows: only the head. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, at) => Math.max(width(title), ...rows.map((row) => width(row[at] ?? ''))));
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, at) => (at === cells.length - 1 ? cell : padEnd(cell, widths[at]!)))
      .join('   ')
      .trimEnd();
  return [line(head), ...rows.map(line)].join('\n');
}

/** Seconds since a time as kubectl writes an age: 45s, 12m, 3h, 9d. */
export function age(since: string | undefined, now = Date.now()): string {
  if (!since) return '<unknown>';
  const seconds = Math.max(0, Math.round((now - Date.parse(since)) / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

/** Bytes with a binary unit and at most one decimal: 512 B, 1.5 MiB. */
export function bytes(count: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let at = 0;
  let value = count;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at++;
  }
  return `${at === 0 ? value : value.toFixed(1)} ${units[at]}`;
}

/** Prints a result: the object as JSON with `--json`, else the text for people. */
export function print(result: { json: boolean; value: unknown; text: () => string }): void {
  process.stdout.write(
    result.json ? `${JSON.stringify(result.value, bigintAsString, 2)}\n` : `${result.text()}\n`,
  );
}

function bigintAsString(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? value.toString() : value;
}
