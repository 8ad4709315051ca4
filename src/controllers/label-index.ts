/**
 * Two indexes that answer "which pods does this selector select" and "which selectors select this pod" without
 * walking over everything: 10,000 Services and a pod that becomes ready must not cost 10,000 comparisons.
 */
import type { Labels } from '../model/label-selector.ts';

const pairOf = (namespace: string, key: string, value: string) => `${namespace}\n${key}\n${value}`;

/** Whether labels have all pairs of a Service's selector. An empty selector selects nothing here. */
export function selects(selector: Labels, labels: Labels): boolean {
  let any = false;
  for (const key in selector) {
    if (labels[key] !== selector[key]) return false;
    any = true;
  }
  return any;
}

/** Objects by their label pairs. */
export class LabelIndex {
  readonly #byPair = new Map<string, Set<string>>();
  readonly #labels = new Map<string, { namespace: string; labels: Labels }>();

  set(key: string, namespace: string, labels: Labels): void {
    this.delete(key);
    this.#labels.set(key, { namespace, labels });
    for (const name in labels) addTo(this.#byPair, pairOf(namespace, name, labels[name]!), key);
  }

  delete(key: string): void {
    const old = this.#labels.get(key);
    if (!old) return;
    this.#labels.delete(key);
    for (const name in old.labels)
      removeFrom(this.#byPair, pairOf(old.namespace, name, old.labels[name]!), key);
  }

  /** Keys of the objects in a namespace that a selector selects. */
  selected(namespace: string, selector: Labels): string[] {
    let smallest: Set<string> | undefined;
    for (const name in selector) {
      const keys = this.#byPair.get(pairOf(namespace, name, selector[name]!));
      if (!keys) return [];
      if (!smallest || keys.size < smallest.size) smallest = keys;
    }
    return [...(smallest ?? [])].filter((key) => selects(selector, this.#labels.get(key)!.labels));
  }
}

/** Selectors by their first label pair. */
export class SelectorIndex {
  readonly #byPair = new Map<string, Set<string>>();
  readonly #selectors = new Map<string, { pair: string; selector: Labels }>();

  set(key: string, namespace: string, selector: Labels): void {
    this.delete(key);
    const first = Object.keys(selector).sort()[0];
    if (first === undefined) return;
    const pair = pairOf(namespace, first, selector[first]!);
    this.#selectors.set(key, { pair, selector });
    addTo(this.#byPair, pair, key);
  }

  delete(key: string): void {
    const old = this.#selectors.get(key);
    if (!old) return;
    this.#selectors.delete(key);
    removeFrom(this.#byPair, old.pair, key);
  }

  /** Keys of the selectors of a namespace that select these labels. */
  selecting(namespace: string, labels: Labels): string[] {
    const found: string[] = [];
    for (const name in labels)
      for (const key of this.#byPair.get(pairOf(namespace, name, labels[name]!)) ?? [])
        if (selects(this.#selectors.get(key)!.selector, labels)) found.push(key);
    return found;
  }
}

function addTo(index: Map<string, Set<string>>, pair: string, key: string): void {
  const keys = index.get(pair);
  if (keys) keys.add(key);
  else index.set(pair, new Set([key]));
}

function removeFrom(index: Map<string, Set<string>>, pair: string, key: string): void {
  const keys = index.get(pair);
  if (keys?.delete(key) && keys.size === 0) index.delete(pair);
}
