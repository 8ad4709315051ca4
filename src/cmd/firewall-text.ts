/** Policies of a node as a table. */
import type { PolicyStatus } from '../policy/index.ts';
import { styled, table } from './output.ts';

export function statesText(states: PolicyStatus['nodePolicies']): string {
  if (states.length === 0) return 'no policy selects this node: it accepts and sends everything';
  const colour = { 'in force': 'green', 'on trial': 'yellow', expired: 'red', refused: 'red' } as const;
  const rows = states.map(({ name, generation, state, until, lockouts }) => [
    name,
    String(generation),
    styled(colour[state], until ? `${state} until ${until}` : state),
    lockouts.join(', '),
  ]);
  const problems = states.flatMap(({ name, problems: list }) => list.map((line) => `${name}: ${line}`));
  return [
    table(['POLICY', 'GENERATION', 'STATE', 'CUTS'], rows),
    ...problems.map((line) => `${styled('red', 'problem')} ${line}`),
  ].join('\n');
}
