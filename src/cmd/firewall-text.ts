/** Policies of a node as a table. */
import type { PolicyStatus } from '../policy/index.ts';
import { styled, table } from './output.ts';

/** `unwritten` is the name of a policy that is only asked about: it is not in force, it would be. */
export function statesText(states: PolicyStatus['nodePolicies'], unwritten?: string): string {
  if (states.length === 0) return 'no policy selects this node: it accepts and sends everything';
  const colour = { 'in force': 'green', 'on trial': 'yellow', expired: 'red', refused: 'red' } as const;
  const rows = states.map(({ name, generation, state, until, lockouts }) => {
    const would = name === unwritten && (state === 'in force' || state === 'on trial') ? 'would be ' : '';
    const text = `${would}${until ? `${state} until ${until}` : state}`;
    return [name, String(generation), styled(colour[state], text), lockouts.join(', ')];
  });
  const problems = states.flatMap(({ name, problems: list }) => list.map((line) => `${name}: ${line}`));
  return [
    table(['POLICY', 'GENERATION', 'STATE', 'CUTS'], rows),
    ...problems.map((line) => `${styled('red', 'problem')} ${line}`),
  ].join('\n');
}
