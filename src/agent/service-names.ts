/** Names of Services as people type them. */
import { agentError } from '../errors/index.ts';

/** `web` is short for `default/web`. */
export function serviceName(text: string): string {
  return text.includes('/') ? text : `default/${text}`;
}

/** AGENT_NO_SUCH_SERVICE, with the one that was probably meant. */
export function noSuchService(service: string, known: Iterable<string>) {
  const near = nearestService(service, known);
  return agentError('AGENT_NO_SUCH_SERVICE', { service, ...(near !== undefined && { near }) });
}

/** More differing letters than this are another name, and no mistake. */
const MOST_MISTAKES = 2;

/** The name that somebody meant who typed `service`: few letters differ, or only the namespace is another one. */
export function nearestService(service: string, known: Iterable<string>): string | undefined {
  const own = nameOf(service);
  let best: { name: string; cost: number } | undefined;
  for (const name of known) {
    // Another namespace is as likely as two mistakes.
    const cost = Math.min(
      mistakes(service, name),
      nameOf(name) === own ? MOST_MISTAKES : Number.POSITIVE_INFINITY,
    );
    if (cost <= MOST_MISTAKES && cost < (best?.cost ?? Number.POSITIVE_INFINITY)) best = { name, cost };
  }
  return best?.name;
}

const nameOf = (service: string) => service.slice(service.indexOf('/') + 1);

/** Letters to add, take away, change or swap with their neighbour to make one of the other; Infinity for far more. */
function mistakes(a: string, b: string): number {
  if (Math.abs(a.length - b.length) > MOST_MISTAKES) return Number.POSITIVE_INFINITY;
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      let cost = Math.min(change, row[j]! + 1, next[j - 1]! + 1);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        cost = Math.min(cost, before[j - 2]! + 1);
      next.push(cost);
    }
    [before, row] = [row, next];
  }
  return row[b.length]!;
}
