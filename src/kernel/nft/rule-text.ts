/** Rules as nft text, for people: plans, dry runs and tests. Pure. */
import type { Datum } from './datum.ts';
import { expressionsText } from './expression-text.ts';
import { fieldSpec, type NftField } from './fields.ts';
import { FIELD_JOIN, type NftRule, type NftStatement, type NftValues } from './rule.ts';

const remembered = new WeakMap<NftRule, string>();

/** The rule as `nft add rule TABLE CHAIN` takes it; remembered, since plans compare rules by it. */
export function ruleText(rule: NftRule): string {
  let text = remembered.get(rule);
  if (text === undefined) {
    text = rule.statements.map(statementText).join(' ');
    if (rule.comment !== undefined) text += ` comment "${rule.comment}"`;
    remembered.set(rule, text);
  }
  return text;
}

function statementText(statement: NftStatement): string {
  switch (statement.kind) {
    case 'lookup':
      return `${fieldsText(statement.fields)}${statement.not ? ' !=' : ''} @${statement.set}`;
    case 'vmap':
      return `${fieldsText(statement.fields)} vmap @${statement.map}`;
    case 'among':
      return `${fieldsText(statement.fields)} ${statement.not ? '!= ' : ''}${valuesText(statement.fields, statement.values)}`;
    case 'prefix':
      return `${statement.field} ${statement.not ? '!= ' : ''}${statement.cidr}`;
    case 'state':
      return `ct state ${statement.states.join(',')}`;
    case 'flags':
      return `tcp flags & (${statement.mask.join(' | ')}) ${statement.not ? '!=' : '=='} ${statement.flags.join(' | ')}`;
    case 'mark': {
      const { field, mask, value, not } = statement;
      return `${field} & 0x${mask.toString(16)} ${not ? '!=' : '=='} 0x${value.toString(16)}`;
    }
    case 'counter':
      return 'counter';
    case 'limit':
      return `limit rate ${statement.rate}/${statement.per} burst ${statement.burst} packets`;
    case 'log': {
      const { prefix, group, snaplen } = statement;
      return `log prefix "${prefix}" group ${group}${snaplen === undefined ? '' : ` snaplen ${snaplen}`}`;
    }
    case 'reject':
      return statement.with === 'tcp reset'
        ? 'reject with tcp reset'
        : `reject with ${statement.with} type admin-prohibited`;
    case 'trace':
      return 'meta nftrace set 1';
    case 'steps':
      return expressionsText(statement.steps);
    case 'masquerade':
      return `masquerade ${statement.ports ? `to :${statement.ports.join('-')} ` : ''}fully-random`;
    case 'snat':
      return `snat to ${snatText(statement)} fully-random`;
    case 'keep source':
      return `snat to ${statement.family === 4 ? 'ip' : 'ip6'} saddr`;
    case 'direction':
      return `ct direction ${statement.direction}`;
    case 'nexthop':
      return `rt nexthop ${statement.not ? '!= ' : ''}${statement.address}`;
    case 'set mark':
      return `meta mark set meta mark & 0x${(~statement.mask >>> 0).toString(16)} | 0x${statement.value.toString(16)}`;
    case 'verdict': {
      const { verdict } = statement;
      return 'chain' in verdict ? `${verdict.verdict} ${verdict.chain}` : verdict.verdict;
    }
  }
}

function snatText({ address, ports }: Extract<NftStatement, { kind: 'snat' }>): string {
  if (!ports) return String(address);
  return `${address.family === 6 ? `[${address}]` : address}:${ports.join('-')}`;
}

function fieldsText(fields: readonly NftField[]): string {
  return fields.join(FIELD_JOIN);
}

function valuesText(fields: readonly NftField[], values: readonly NftValues[]): string {
  const texts = values.map(({ key, keyEnd }) =>
    key.map((part, at) => partText(fields[at]!, part, keyEnd?.[at])).join(FIELD_JOIN),
  );
  return texts.length === 1 && fields.length === 1 ? texts[0]! : `{ ${texts.join(', ')} }`;
}

function partText(field: NftField, first: Datum, last: Datum | undefined): string {
  const { names, type } = fieldSpec(field);
  const one = (value: Datum) => {
    if (type === 'ifname') return `"${value}"`;
    return (typeof value === 'number' ? names?.[value] : undefined) ?? String(value);
  };
  return last === undefined || String(last) === String(first) ? one(first) : `${one(first)}-${one(last)}`;
}
