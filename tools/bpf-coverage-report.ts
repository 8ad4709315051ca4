/** Which sides of which conditions of the BPF sources were never taken, of what llvm-cov exports. Pure. */

/** One side of one condition; every operand of `&&` and `||` is a condition, and so is each `case`. */
export interface Side {
  /** Relative to `bpf`. */
  readonly file: string;
  readonly line: number;
  readonly column: number;
  /** The condition as written, white space made one blank. */
  readonly condition: string;
  readonly side: 'true' | 'false';
  /** How often, in all programs that have it. */
  readonly taken: number;
}

/** Why a side is never taken: one that has these words, wherever in the file, so that lines may move. */
export interface Explained {
  readonly file: string;
  readonly condition: string;
  readonly side: 'true' | 'false';
  readonly why: string;
}

export interface Judged {
  readonly taken: number;
  readonly explained: readonly Side[];
  readonly missing: readonly Side[];
  /** Explanations of what does not exist or is taken: to be deleted. */
  readonly idle: readonly Explained[];
}

/** What is used of `llvm-cov export`: [line, column, line, column, true, false, ...] for a condition. */
export interface Exported {
  readonly data: readonly {
    readonly files: readonly {
      readonly filename: string;
      readonly branches: readonly (readonly number[])[];
    }[];
  }[];
}

/** All sides, in the order of the source. The same header in several objects counts once. */
export function sidesOf(exported: Exported, folder: string, sourceOf: (path: string) => string): Side[] {
  const found = new Map<string, Side>();
  for (const { filename, branches } of exported.data.flatMap(({ files }) => files)) {
    if (!filename.startsWith(`${folder}/`)) continue;
    const lines = sourceOf(filename).split('\n');
    const file = filename.slice(folder.length + 1);
    for (const [line = 0, column = 0, endLine = 0, endColumn = 0, yes = 0, no = 0] of branches) {
      const condition = textBetween(lines, line, column, endLine, endColumn);
      for (const [side, taken] of [
        ['true', yes],
        ['false', no],
      ] as const) {
        const key = [file, line, column, endLine, endColumn, side].join(':');
        const before = found.get(key)?.taken ?? 0;
        found.set(key, { file, line, column, condition, side, taken: before + taken });
      }
    }
  }
  return [...found.values()].sort(
    (a, b) => (a.file < b.file ? -1 : a.file > b.file ? 1 : 0) || a.line - b.line || a.column - b.column,
  );
}

/** Lines and columns count from 1; the end is the first that does not belong. */
function textBetween(
  lines: readonly string[],
  line: number,
  column: number,
  endLine: number,
  endColumn: number,
): string {
  const part = lines.slice(line - 1, endLine);
  if (part.length === 0) return '';
  part[part.length - 1] = part.at(-1)!.slice(0, endColumn - 1);
  part[0] = part[0]!.slice(column - 1);
  return part.join(' ').replace(/\s+/g, ' ').trim();
}

/** Tells what is taken from what is explained and what is neither. */
export function judge(sides: readonly Side[], explanations: readonly Explained[]): Judged {
  const explained: Side[] = [];
  const missing: Side[] = [];
  const used = new Set<Explained>();
  for (const side of sides) {
    if (side.taken > 0) continue;
    const why = explanations.find(
      (one) =>
        !used.has(one) &&
        one.file === side.file &&
        one.condition === side.condition &&
        one.side === side.side,
    );
    if (why) used.add(why);
    (why ? explained : missing).push(side);
  }
  return {
    taken: sides.length - explained.length - missing.length,
    explained,
    missing,
    idle: explanations.filter((one) => !used.has(one)),
  };
}

/** `include/lb_nat.h:120:6  never true   !flow` */
export function sideText({ file, line, column, condition, side }: Side): string {
  return `${`${file}:${line}:${column}`.padEnd(34)} never ${side.padEnd(5)}  ${condition}`;
}
