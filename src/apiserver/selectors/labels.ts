/** Label selectors in the text form of query parameters: `app=web,tier in (a, b),!old`. */
import type { LabelSelector } from '../../model/kubernetes.ts';
import { badRequest } from '../status.ts';

export type Labels = Readonly<Record<string, string>> | undefined;

interface Requirement {
  readonly key: string;
  readonly operator: '=' | '!=' | 'in' | 'notin' | 'exists' | '!exists' | '>' | '<';
  readonly values: readonly string[];
}

export type LabelMatch = (labels: Labels) => boolean;

const KEY = /^([a-z0-9A-Z]([-a-z0-9A-Z.]*[a-z0-9A-Z])?\/)?[a-z0-9A-Z]([-\w.]*[a-z0-9A-Z])?$/;
const VALUE = /^([a-z0-9A-Z]([-\w.]*[a-z0-9A-Z])?)?$/;

/** Splits into words and the operators `= == != ! ( ) , > <`. */
function tokensOf(text: string): string[] {
  const tokens: string[] = [];
  const pattern = /\s*(==|!=|[=!(),<>]|[^\s=!(),<>]+)/gy;
  let at = 0;
  while (at < text.length && text.slice(at).trim() !== '') {
    pattern.lastIndex = at;
    const match = pattern.exec(text);
    if (!match) throw badRequest(`unable to parse requirement: found '${text.slice(at)}'`);
    tokens.push(match[1]!);
    at = pattern.lastIndex;
  }
  return tokens;
}

const isWord = (token: string | undefined): token is string =>
  token !== undefined && !/^(==|!=|[=!(),<>])$/.test(token);

/** @throws API_BAD_REQUEST */
export function parseLabelSelector(text: string): Requirement[] {
  const tokens = tokensOf(text);
  const requirements: Requirement[] = [];
  let at = 0;
  const fail = (wanted: string): never => {
    throw badRequest(`unable to parse requirement: found '${tokens[at] ?? ''}', expected: ${wanted}`);
  };
  const key = () => {
    const token = tokens[at];
    if (!isWord(token)) return fail('identifier');
    if (!KEY.test(token)) throw badRequest(`unable to parse requirement: invalid label key "${token}"`);
    at++;
    return token;
  };
  const value = () => {
    // `app=` means the empty value.
    const token = isWord(tokens[at]) ? tokens[at++]! : '';
    if (token.length > 63 || !VALUE.test(token))
      throw badRequest(`unable to parse requirement: invalid label value "${token}"`);
    return token;
  };
  while (at < tokens.length) {
    if (tokens[at] === '!') {
      at++;
      requirements.push({ key: key(), operator: '!exists', values: [] });
    } else {
      const name = key();
      const operator = tokens[at];
      if (operator === undefined || operator === ',')
        requirements.push({ key: name, operator: 'exists', values: [] });
      else if (operator === '=' || operator === '==' || operator === '!=') {
        at++;
        requirements.push({ key: name, operator: operator === '!=' ? '!=' : '=', values: [value()] });
      } else if (operator === '<' || operator === '>') {
        at++;
        const bound = value();
        if (!/^-?\d+$/.test(bound))
          throw badRequest(
            `unable to parse requirement: for 'Gt', 'Lt' operators, the value must be an integer`,
          );
        requirements.push({ key: name, operator, values: [bound] });
      } else if (operator === 'in' || operator === 'notin') {
        at++;
        if (tokens[at++] !== '(') fail("'('");
        const values = [value()];
        while (tokens[at] === ',') {
          at++;
          values.push(value());
        }
        if (tokens[at++] !== ')') fail("')'");
        requirements.push({ key: name, operator, values });
      } else fail("in, notin, =, ==, !=, gt, lt, ','");
    }
    if (at < tokens.length && tokens[at++] !== ',') fail("','");
    else if (at === tokens.length && tokens[at - 1] === ',') fail('identifier after ","');
  }
  return requirements;
}

function holds({ key, operator, values }: Requirement, labels: Labels): boolean {
  const value = labels !== undefined && Object.hasOwn(labels, key) ? labels[key] : undefined;
  switch (operator) {
    case 'exists':
      return value !== undefined;
    case '!exists':
      return value === undefined;
    case '=':
    case 'in':
      return value !== undefined && values.includes(value);
    case '!=':
    case 'notin':
      return value === undefined || !values.includes(value);
    default: {
      if (value === undefined || !/^-?\d+$/.test(value)) return false;
      const difference = BigInt(value) - BigInt(values[0]!);
      return operator === '>' ? difference > 0n : difference < 0n;
    }
  }
}

/** The predicate of a `labelSelector` parameter; undefined when it selects everything. */
export function labelMatch(text: string | null): LabelMatch | undefined {
  if (text === null || text.trim() === '') return undefined;
  const requirements = parseLabelSelector(text);
  return (labels) => requirements.every((requirement) => holds(requirement, labels));
}

/** `app=web,tier in (a,b)`, as tables print a LabelSelector; an empty one prints `<none>`. */
export function labelSelectorText(selector: LabelSelector | undefined): string {
  const parts = Object.entries(selector?.matchLabels ?? {})
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => `${key}=${value}`);
  for (const { key, operator, values } of selector?.matchExpressions ?? []) {
    if (operator === 'Exists') parts.push(key);
    else if (operator === 'DoesNotExist') parts.push(`!${key}`);
    else parts.push(`${key} ${operator === 'In' ? 'in' : 'notin'} (${[...(values ?? [])].sort().join(',')})`);
  }
  return parts.length === 0 ? '<none>' : parts.join(',');
}
