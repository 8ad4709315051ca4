/**
 * Which policies of the node itself were in force last, for an agent that starts again: whoever is not connected at that
 * moment must not be the reason why a firewall is given up.
 */
import { writeAtomically } from '../overlay/index.ts';
import type { AcceptedPolicies } from '../policy/index.ts';
import { isTexts, keptText, parseKeptText, readKept } from './kept-text.ts';

const VERSION = 1;

export class AcceptedPoliciesFile implements AcceptedPolicies {
  readonly #path: string;
  readonly #node: string;
  #written = '';

  constructor(path: string, node: string) {
    this.#path = path;
    this.#node = node;
    this.#written = this.#text(this.read());
  }

  /** Nothing when there is no file of this node. */
  read(): readonly string[] {
    const mark = { version: VERSION, node: this.#node };
    const names = readKept(this.#path, (text) => parseKeptText(text, mark)?.['accepted']);
    return isTexts(names) ? names : [];
  }

  /** A failure does no harm now: without the file policies are judged by who is there at the next start. */
  write(names: readonly string[]): void {
    const text = this.#text(names);
    if (text === this.#written) return;
    try {
      writeAtomically(this.#path, text);
      this.#written = text;
    } catch {
      // The state directory's own trouble is told by whoever needs it.
    }
  }

  #text(accepted: readonly string[]): string {
    return keptText({ version: VERSION, node: this.#node }, { accepted });
  }
}
