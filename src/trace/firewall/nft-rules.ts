/** Chains and rules out of `nft -j list ruleset`, for judge.ts. Pure; what is not understood is a "maybe". */
import type { NftObject } from '../../kernel/nft-program/index.ts';
import { any, not } from './judge.ts';
import type { FirewallChain, FirewallRule, Probe, Tri, Verdict } from './types.ts';
import { addressIn, interfaceIs, portIs, protocolIs, stateIs } from './values.ts';

type Json = unknown;
type JsonObject = Readonly<Record<string, Json>>;

const KINDS = new Set(['filter', 'route']);
const FAMILIES = new Set(['ip', 'ip6', 'inet', 'bridge']);
/** Statements that neither match nor end anything. */
const SILENT = new Set([
  'counter',
  'log',
  'comment',
  'mangle',
  'notrack',
  'set',
  'map',
  'ct helper',
  'meter',
]);

/** Elements of named sets and maps, by `family table name`. */
type Sets = ReadonlyMap<string, readonly Json[]>;

/** Chains of the tables that are not `own`; without any, of all. */
export function chainsOfNft(
  objects: readonly NftObject[],
  own: ReadonlySet<string> = new Set(),
): FirewallChain[] {
  const sets = new Map<string, readonly Json[]>();
  for (const object of objects) {
    const set = objectOf(object['set'] ?? object['map']);
    if (set) sets.set(`${set['family']} ${set['table']} ${set['name']}`, listOf(set['elem']));
  }
  const chains = new Map<string, FirewallChain & { rules: FirewallRule[] }>();
  for (const object of objects) {
    const chain = objectOf(object['chain']);
    if (!chain || own.has(String(chain['table'])) || !FAMILIES.has(String(chain['family']))) continue;
    // Chains of type nat see first packets only and drop nothing by themselves.
    const filters = chain['type'] === undefined || KINDS.has(String(chain['type']));
    chains.set(`${chain['family']} ${chain['table']} ${chain['name']}`, {
      tool: 'nft',
      table: `${chain['family']} ${chain['table']}`,
      name: String(chain['name']),
      family: chain['family'] as FirewallChain['family'],
      hook: filters ? (chain['hook'] as string | undefined) : undefined,
      priority: chain['prio'] as number | undefined,
      policy: chain['policy'] as FirewallChain['policy'],
      rules: [],
    });
  }
  for (const object of objects) {
    const rule = objectOf(object['rule']);
    if (!rule) continue;
    const scope = `${rule['family']} ${rule['table']}`;
    chains.get(`${scope} ${rule['chain']}`)?.rules.push(ruleOf(rule, scope, sets));
  }
  return [...chains.values()];
}

function ruleOf(rule: JsonObject, scope: string, sets: Sets): FirewallRule {
  const conditions: ((probe: Probe) => Tri)[] = [];
  let verdicts: (probe: Probe) => readonly Verdict[] = () => [{ kind: 'continue' }];
  const texts: string[] = [];
  for (const statement of listOf(rule['expr'])) {
    const [kind, value] = Object.entries((statement ?? {}) as JsonObject)[0] ?? ['', undefined];
    const text = statementText(kind, value);
    if (text) texts.push(text);
    const verdict = verdictOf(kind, value);
    if (kind === 'match') {
      const { op, left, right } = objectOf(value) ?? {};
      conditions.push((probe) => matches(String(op), left, right, { probe, scope, sets }));
    } else if (kind === 'vmap') {
      const { key, data } = objectOf(value) ?? {};
      verdicts = (probe) => verdictsOfMap(key, data, { probe, scope, sets });
    } else if (verdict) verdicts = () => [verdict];
    // Matches of iptables, limits, quotas and whatever else there is.
    else if (!SILENT.has(kind)) conditions.push(() => 'maybe');
  }
  return {
    text: texts.join(' '),
    handle: rule['handle'] as number | undefined,
    comment: rule['comment'] as string | undefined,
    conditions,
    verdicts,
  };
}

function verdictOf(kind: string, value: Json): Verdict | undefined {
  switch (kind) {
    case 'accept':
    case 'drop':
    case 'return':
    case 'continue':
      return { kind };
    case 'reject':
      return { kind: 'reject' };
    case 'jump':
    case 'goto':
      return { kind, chain: String((value as { target?: Json } | null)?.target ?? '') };
    case 'queue':
      return { kind: 'unknown' };
    default:
      return undefined;
  }
}

interface Scope {
  readonly probe: Probe;
  readonly scope: string;
  readonly sets: Sets;
}

function matches(op: string, left: Json, right: Json, scope: Scope): Tri {
  const answer = any(valuesOf(right, scope).map((value) => equal(left, value, scope.probe)));
  if (op === '==' || op === 'in') return answer;
  return op === '!=' ? not(answer) : 'maybe';
}

/** The values that a right side stands for. */
function valuesOf(right: Json, { scope, sets }: Scope): readonly Json[] {
  if (typeof right === 'string' && right.startsWith('@'))
    return sets.get(`${scope} ${right.slice(1)}`) ?? [undefined];
  const set = (right as { set?: Json } | null)?.set;
  if (set !== undefined) return listOf(set);
  return Array.isArray(right) ? right : [right];
}

/** A literal as text: `10.0.0.0/8`, `1-9`, `eth0`; undefined when it is none. */
function literal(value: Json): string | undefined {
  if (typeof value === 'string' || typeof value === 'number') return String(value);
  const { prefix, range, elem } = (value ?? {}) as {
    prefix?: { addr: string; len: number };
    range?: Json;
    elem?: { val: Json };
  };
  if (prefix) return `${prefix.addr}/${prefix.len}`;
  if (Array.isArray(range)) return range.map(String).join('-');
  return elem ? literal(elem.val) : undefined;
}

function equal(left: Json, value: Json, probe: Probe): Tri {
  const text = literal(value);
  const { meta, payload, ct, fib } = (left ?? {}) as {
    fib?: { result: string; flags: Json };
    meta?: { key: string };
    payload?: { protocol: string; field: string };
    ct?: { key: string };
  };
  if (fib) return reversePathIs(fib, value, probe);
  if (text === undefined) return 'maybe';
  if (meta) return equalMeta(meta.key, text, probe);
  if (ct?.key === 'state') return stateIs([text]);
  if (ct?.key === 'status' && text === 'dnat') return probe.translated ? 'yes' : 'no';
  if (ct) return 'maybe';
  if (!payload) return 'maybe';
  const { protocol, field } = payload;
  if (protocol === 'ether') return field === 'type' ? etherTypeIs(text, probe) : 'maybe';
  if (protocol === 'ip' || protocol === 'ip6') {
    if ((protocol === 'ip') !== (probe.family === 4)) return 'no';
    if (field === 'saddr') return addressIn(probe.saddr, text);
    if (field === 'daddr') return addressIn(probe.daddr, text);
    return field === 'protocol' || field === 'nexthdr' ? protocolIs(probe, text) : 'maybe';
  }
  if (protocol === 'tcp' || protocol === 'udp') {
    if (protocol !== probe.protocol) return 'no';
    return field === 'dport' ? portIs(probe.dport, text) : 'maybe';
  }
  if (protocol === 'th') return field === 'dport' ? portIs(probe.dport, text) : 'maybe';
  return ['icmp', 'icmpv6', 'sctp', 'dccp', 'udplite'].includes(protocol) &&
    protocolIs(probe, protocol) === 'no'
    ? 'no'
    : 'maybe';
}

/** `fib saddr . iif oif missing`: there is no way back by the interface that the packet came in by. */
function reversePathIs({ result, flags }: { result: string; flags: Json }, value: Json, probe: Probe): Tri {
  const asked = listOf(flags);
  const isStrict = result === 'oif' && asked.includes('saddr') && asked.includes('iif');
  if (!isStrict || probe.reversePath === undefined || (value !== false && String(value) !== '0'))
    return 'maybe';
  return probe.reversePath ? 'no' : 'yes';
}

function etherTypeIs(text: string, probe: Probe): Tri {
  return text === (probe.family === 4 ? 'ip' : 'ip6') ? 'yes' : 'no';
}

function equalMeta(key: string, text: string, probe: Probe): Tri {
  switch (key) {
    case 'iifname':
    case 'iif':
      return interfaceIs(probe.hook === 'output' ? '' : probe.iifname, text);
    case 'oifname':
    case 'oif':
      return interfaceIs(probe.hook === 'input' || probe.hook === 'prerouting' ? '' : probe.oifname, text);
    case 'l4proto':
      return protocolIs(probe, text);
    case 'nfproto':
      return (text === 'ipv4') === (probe.family === 4) ? 'yes' : 'no';
    case 'protocol':
      return (text === 'ip') === (probe.family === 4) ? 'yes' : 'no';
    default:
      return 'maybe';
  }
}

/** The verdicts that a map may have for a packet; "continue" when none matches surely. */
function verdictsOfMap(key: Json, data: Json, scope: Scope): readonly Verdict[] {
  const pairs =
    typeof data === 'string'
      ? (scope.sets.get(`${scope.scope} ${data.replace(/^@/, '')}`) ?? [])
      : listOf((data as { set?: Json } | null)?.set);
  const found: Verdict[] = [];
  for (const pair of pairs) {
    const [value, target] = Array.isArray(pair) ? pair : [undefined, undefined];
    const answer = any(valuesOf(value, scope).map((each) => equal(key, each, scope.probe)));
    if (answer === 'no') continue;
    const [kind, inner] = Object.entries((target ?? {}) as JsonObject)[0] ?? ['', undefined];
    const verdict = verdictOf(kind, inner) ?? { kind: 'unknown' };
    if (answer === 'yes') return [verdict];
    found.push(verdict);
  }
  return [...found, { kind: 'continue' }];
}

function statementText(kind: string, value: Json): string {
  if (kind === 'match') {
    const { op, left, right } = objectOf(value) ?? {};
    return `${expressionText(left)}${op === '==' || op === 'in' ? '' : ` ${op}`} ${expressionText(right)}`;
  }
  if (kind === 'jump' || kind === 'goto') return `${kind} ${(value as { target?: string } | null)?.target}`;
  if (kind === 'vmap') return `${expressionText(objectOf(value)?.['key'])} vmap`;
  if (kind === 'xt') {
    const name = (value as { name?: string } | null)?.name;
    return name ? `xt ${name}` : 'a match of iptables';
  }
  return kind === 'counter' ? '' : kind;
}

function expressionText(value: Json): string {
  const text = literal(value);
  if (text !== undefined) return text;
  if (Array.isArray(value)) return value.map(expressionText).join(',');
  const [kind, inner] = Object.entries((value ?? {}) as JsonObject)[0] ?? ['', undefined];
  const fields = (inner ?? {}) as { key?: string; protocol?: string; field?: string };
  if (kind === 'meta') return /name$|^iif$|^oif$/.test(fields.key ?? '') ? fields.key! : `meta ${fields.key}`;
  if (kind === 'payload') return `${fields.protocol} ${fields.field}`;
  if (kind === 'ct') return `ct ${fields.key}`;
  if (kind === 'set') return `{ ${listOf(inner).map(expressionText).join(', ')} }`;
  return kind;
}

/** Undefined for what is no object. */
function objectOf(value: Json): JsonObject | undefined {
  return typeof value === 'object' && value !== null ? (value as JsonObject) : undefined;
}

function listOf(value: Json): readonly Json[] {
  if (value === undefined || value === null) return [];
  return Array.isArray(value) ? value : [value];
}
