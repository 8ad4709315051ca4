/**
 * Finds members that occur twice in one object of a JSON text: `JSON.parse` silently keeps the last one, strict
 * field validation must name them.
 */
import { pathText } from './decode.ts';

/**
 * Paths of members that occur more than once, e.g. `spec.ports[0].name`, each once. The text must be valid JSON
 * (parse it first); for other text the answer is undefined behaviour of no consequence, never an exception.
 */
export function duplicateFields(text: string): string[] {
  const found = new Set<string>();
  const path: (string | number)[] = [];
  /** One entry per open bracket: the names seen in an object, or null for an array. */
  const open: (Set<string> | null)[] = [];
  let expectName = false;
  for (let at = 0; at < text.length; at++) {
    switch (text.charCodeAt(at)) {
      case 0x22: {
        const end = endOfString(text, at);
        const names = open.at(-1);
        if (expectName && names) {
          const name = unquote(text.slice(at, end + 1));
          path[path.length - 1] = name;
          if (names.has(name)) found.add(pathText(path));
          names.add(name);
          expectName = false;
        }
        at = end;
        break;
      }
      case 0x7b:
        open.push(new Set());
        path.push('');
        expectName = true;
        break;
      case 0x5b:
        open.push(null);
        path.push(0);
        expectName = false;
        break;
      case 0x7d:
      case 0x5d:
        open.pop();
        path.pop();
        expectName = false;
        break;
      case 0x2c: {
        const last = path.at(-1);
        if (open.at(-1)) expectName = true;
        else if (typeof last === 'number') path[path.length - 1] = last + 1;
        break;
      }
    }
  }
  return [...found];
}

/** Index of the closing quote of the string that starts at `start`. */
function endOfString(text: string, start: number): number {
  for (let at = start + 1; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === 0x5c) at++;
    else if (code === 0x22) return at;
  }
  return text.length;
}

function unquote(literal: string): string {
  if (!literal.includes('\\')) return literal.slice(1, -1);
  try {
    return String(JSON.parse(literal));
  } catch {
    return literal.slice(1, -1);
  }
}
