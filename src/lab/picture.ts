/** The picture that `lab up` and `lab status` end with: nodes with their pods, and who reaches whom how fast. */

export interface PicturedPod {
  namespace: string;
  name: string;
  ips: string[];
  /** e.g. Running, Pending, CrashLoopBackOff. */
  state: string;
  ready: boolean;
}

export interface PicturedNode {
  name: string;
  addresses: string[];
  podCidrs: string[];
  ready: boolean;
  pods: PicturedPod[];
}

/** One probe: from a row to a column. */
export interface ProbeCell {
  from: string;
  to: string;
  family: 4 | 6;
  /** Microseconds of the fastest TCP connect, or undefined when none worked. */
  micros: number | undefined;
  /** Name of the errno when none worked, e.g. ETIMEDOUT. */
  failure?: string;
}

/** How cells are coloured; the identity where there is no terminal. */
export type Paint = (style: 'green' | 'red' | 'yellow' | 'dim' | 'bold', text: string) => string;
export const plain: Paint = (_style, text) => text;

const MOST_PODS_SHOWN = 8;

/** Boxes of nodes side by side on a line that is the underlay, at most `columns` wide. */
export function drawNodes(
  nodes: readonly PicturedNode[],
  options: { columns: number; paint: Paint; backend: string },
): string {
  const { paint } = options;
  const boxes = nodes.map((node) => nodeBox(node, paint));
  const perRow = Math.max(1, Math.floor((options.columns + 2) / (BOX_WIDTH + 2)));
  const rows: string[] = [];
  for (let at = 0; at < boxes.length; at += perRow) {
    const row = boxes.slice(at, at + perRow);
    const height = Math.max(...row.map((box) => box.length));
    for (let line = 0; line < height; line++) {
      const last = line === height - 1;
      rows.push(
        row
          .map((box) => boxLine(box, line, height, last))
          .join('  ')
          .trimEnd(),
      );
    }
    const cable = '─'.repeat(row.length * (BOX_WIDTH + 2) - 2);
    const joints = [...cable]
      .map((mark, column) => (column % (BOX_WIDTH + 2) === BOX_WIDTH >> 1 ? '┴' : mark))
      .join('');
    const label = paint('dim', options.backend);
    const fits = joints.length + 2 + options.backend.length <= options.columns;
    rows.push(...(fits ? [`${joints}  ${label}`] : [joints, label]));
  }
  return rows.join('\n');
}

const BOX_WIDTH = 36;

function nodeBox(node: PicturedNode, paint: Paint): string[] {
  const inner = BOX_WIDTH - 4;
  const lines = [
    {
      text: node.name,
      style: 'bold' as const,
      tail: node.ready ? 'Ready' : 'NotReady',
      tailStyle: node.ready ? ('green' as const) : ('red' as const),
    },
    ...node.addresses.map((address) => ({
      text: address,
      style: 'dim' as const,
      tail: '',
      tailStyle: 'dim' as const,
    })),
    ...node.podCidrs.map((cidr) => ({
      text: `pods ${cidr}`,
      style: 'dim' as const,
      tail: '',
      tailStyle: 'dim' as const,
    })),
    ...node.pods.slice(0, MOST_PODS_SHOWN).map((pod) => ({
      text: `${pod.ready ? '●' : '○'} ${pod.name}`,
      style: pod.ready ? ('green' as const) : ('yellow' as const),
      tail: pod.ready ? (pod.ips[0] ?? '') : pod.state,
      tailStyle: pod.ready ? ('dim' as const) : ('yellow' as const),
    })),
  ];
  const more = node.pods.length - MOST_PODS_SHOWN;
  if (more > 0) lines.push({ text: `… ${more} more`, style: 'dim', tail: '', tailStyle: 'dim' });
  return [
    `┌${'─'.repeat(BOX_WIDTH - 2)}┐`,
    ...lines.map(({ text, style, tail, tailStyle }) => {
      const tailText = tail.length > inner - 4 ? `${tail.slice(0, inner - 5)}…` : tail;
      const room = inner - (tailText ? tailText.length + 1 : 0);
      const shown = text.length > room ? `${text.slice(0, room - 1)}…` : text;
      const gap = ' '.repeat(inner - shown.length - tailText.length);
      return `│ ${paint(style, shown)}${gap}${paint(tailStyle, tailText)} │`;
    }),
    `└${'─'.repeat((BOX_WIDTH >> 1) - 1)}┬${'─'.repeat((BOX_WIDTH >> 1) - 2)}┘`,
  ];
}

function boxLine(box: string[], line: number, height: number, last: boolean): string {
  if (line < box.length) return box[line]!;
  // A shorter box is tied to the underlay below by its cable.
  return height > box.length || last
    ? `${' '.repeat(BOX_WIDTH >> 1)}│${' '.repeat(BOX_WIDTH - (BOX_WIDTH >> 1) - 1)}`
    : '';
}

/** The matrix of probes of one family: a row a source, a column a target, microseconds or the failure in each cell. */
export function drawMatrix(cells: readonly ProbeCell[], family: 4 | 6, paint: Paint): string {
  const own = cells.filter((cell) => cell.family === family);
  if (own.length === 0) return '';
  const sources = [...new Set(own.map(({ from }) => from))];
  const targets = [...new Set(own.map(({ to }) => to))];
  const byPair = new Map(own.map((cell) => [`${cell.from}\0${cell.to}`, cell]));
  const first = Math.max(...sources.map((source) => source.length), 10);
  const columns = targets.map((target) => Math.max(target.length, 8));
  const head = `${`IPv${family}`.padEnd(first)}  ${targets.map((target, at) => target.padStart(columns[at]!)).join('  ')}`;
  const rows = sources.map((source) => {
    const row = targets.map((target, at) => {
      const cell = byPair.get(`${source}\0${target}`);
      const text = cellText(cell).padStart(columns[at]!);
      if (!cell) return paint('dim', text);
      return paint(cell.micros === undefined ? 'red' : 'green', text);
    });
    return `${source.padEnd(first)}  ${row.join('  ')}`;
  });
  return [paint('bold', head), ...rows].join('\n');
}

function cellText(cell: ProbeCell | undefined): string {
  if (!cell) return '·';
  if (cell.micros === undefined) return cell.failure ?? 'failed';
  return cell.micros < 10_000 ? `${cell.micros} µs` : `${Math.round(cell.micros / 1000)} ms`;
}

/** One sentence that sums the probes up. */
export function verdictOf(cells: readonly ProbeCell[]): string {
  const failed = cells.filter(({ micros }) => micros === undefined).length;
  const all = `${cells.length} connection${cells.length === 1 ? '' : 's'} tried`;
  return failed === 0 ? `${all}, all succeeded` : `${all}, ${failed} FAILED`;
}
