/**
 * Texts in the state folder that say what the API said last. Each begins with its version and the node whose view it
 * is; whatever is not of the wanted shape is as good as nothing, for such a file is only a help after a restart.
 */
import { readFileSync } from 'node:fs';

/** Whose text it is, and of which version. */
export interface KeptMark {
  readonly version: number;
  readonly node: string;
}

/** One line of JSON. */
export function keptText({ version, node }: KeptMark, content: Record<string, unknown>): string {
  return `${JSON.stringify({ version, node, ...content })}\n`;
}

/** The members of such a text; undefined for another node's, another version's, and what is none. */
export function parseKeptText(
  text: string,
  { version, node }: KeptMark,
): Record<string, unknown> | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  return isRecord(value) && value['version'] === version && value['node'] === node ? value : undefined;
}

/** What `parse` makes of a file; undefined when it cannot be read. */
export function readKept<T>(path: string, parse: (text: string) => T | undefined): T | undefined {
  try {
    return parse(readFileSync(path, 'utf8'));
  } catch {
    return undefined;
  }
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((one) => typeof one === 'string');
}
