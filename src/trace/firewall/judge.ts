/**
 * Which of somebody's chains drops a packet. Pure. Three answers: a rule that hangs on what is not known (a mark, a
 * time, a foreign match) may or may not match, and whatever follows from it is a "may".
 */
import type { FirewallChain, FirewallRule, Probe, Tri, Verdict } from './types.ts';

/** Where a packet may end in a base chain. */
export interface Judgement {
  readonly certain: boolean;
  readonly chain: FirewallChain;
  /** Undefined: the policy of the chain. */
  readonly rule: FirewallRule | undefined;
  /** Rules that jumped, from the base chain on. */
  readonly path: readonly string[];
}

type End = 'accepted' | 'dropped' | 'fell through';

const DEEPEST = 16;

/** All drops that a packet can meet in the base chains of its hook. */
export function judge(chains: readonly FirewallChain[], probe: Probe): Judgement[] {
  const byName = new Map(chains.map((chain) => [keyOf(chain, chain.name), chain]));
  const base = chains
    .filter((chain) => chain.hook === probe.hook && concerns(chain, probe))
    .sort((a, b) => (a.priority ?? 0) - (b.priority ?? 0));
  const found: Judgement[] = [];
  for (const chain of base) {
    const walk = new Walk(byName, probe, found);
    const { end, certain } = walk.through(chain, { certain: true, path: [] });
    if (end === 'fell through' && chain.policy === 'drop')
      found.push({ certain, chain, rule: undefined, path: [] });
  }
  return found;
}

function concerns({ family }: FirewallChain, probe: Probe): boolean {
  if ((family === 'bridge') !== (probe.bridged === true)) return false;
  return family === 'bridge' || family === 'inet' || (family === 'ip') === (probe.family === 4);
}

function keyOf({ tool, table }: FirewallChain, name: string): string {
  return `${tool} ${table} ${name}`;
}

interface State {
  readonly certain: boolean;
  readonly path: readonly string[];
}

class Walk {
  readonly #chains: ReadonlyMap<string, FirewallChain>;
  readonly #probe: Probe;
  readonly #found: Judgement[];

  constructor(chains: ReadonlyMap<string, FirewallChain>, probe: Probe, found: Judgement[]) {
    this.#chains = chains;
    this.#probe = probe;
    this.#found = found;
  }

  through(chain: FirewallChain, { certain, path }: State): { end: End; certain: boolean } {
    let sure = certain;
    if (path.length > DEEPEST) return { end: 'fell through', certain: false };
    for (const rule of chain.rules) {
      const matches = all(rule.conditions.map((condition) => condition(this.#probe)));
      if (matches === 'no') continue;
      const verdicts = rule.verdicts(this.#probe);
      const one = verdicts.length === 1 && matches === 'yes';
      let maybe = false;
      for (const verdict of verdicts) {
        const ended = this.#follow(chain, rule, verdict, { certain: sure && one, path });
        if (ended === 'next') continue;
        if (one && ended.sure) return { end: ended.end, certain: ended.certain };
        maybe = true;
      }
      // Somebody may have ended the packet's way here, well or badly.
      if (maybe) sure = false;
    }
    return { end: 'fell through', certain: sure };
  }

  #follow(
    chain: FirewallChain,
    rule: FirewallRule,
    verdict: Verdict,
    { certain, path }: State,
  ): 'next' | { end: End; certain: boolean; sure: boolean } {
    switch (verdict.kind) {
      case 'continue':
        return 'next';
      case 'unknown':
        return { end: 'fell through', certain: false, sure: false };
      case 'accept':
        return { end: 'accepted', certain, sure: true };
      case 'return':
        return { end: 'fell through', certain, sure: true };
      case 'drop':
      case 'reject':
        this.#found.push({ certain, chain, rule, path });
        return { end: 'dropped', certain, sure: true };
      case 'jump':
      case 'goto': {
        const target = this.#chains.get(keyOf(chain, verdict.chain));
        if (!target) return { end: 'fell through', certain: false, sure: false };
        const inner = this.through(target, { certain, path: [...path, `${chain.name}: ${rule.text}`] });
        if (inner.end !== 'fell through') return { ...inner, sure: true };
        if (verdict.kind === 'goto') return { ...inner, sure: true };
        // Nothing is lost when it came back surely.
        return inner.certain === certain ? 'next' : { ...inner, sure: false };
      }
    }
  }
}

/** All of them. */
export function all(answers: readonly Tri[]): Tri {
  if (answers.includes('no')) return 'no';
  return answers.includes('maybe') ? 'maybe' : 'yes';
}

/** One of them at least. */
export function any(answers: readonly Tri[]): Tri {
  if (answers.includes('yes')) return 'yes';
  return answers.includes('maybe') ? 'maybe' : 'no';
}

export function not(answer: Tri): Tri {
  return answer === 'yes' ? 'no' : answer === 'no' ? 'yes' : 'maybe';
}
