/** Expressions for people, nearly as `nft --debug=netlink` prints them. Pure. */
import { CT, META, type NftExpression } from './expression.ts';

const OPERATION = { eq: '==', neq: '!=', lte: '<=', gte: '>=' } as const;

export function expressionsText(expressions: readonly NftExpression[]): string {
  return expressions.map((expression) => `[ ${expressionText(expression)} ]`).join(' ');
}

function expressionText(e: NftExpression): string {
  switch (e.name) {
    case 'payload':
      return `payload load ${e.length}b @ ${e.base} header + ${e.offset} => reg ${e.to}`;
    case 'meta':
    case 'ct': {
      const key = nameOf(e.name === 'meta' ? META : CT, e.key);
      return 'to' in e ? `${e.name} load ${key} => reg ${e.to}` : `meta set ${key} with reg ${e.from}`;
    }
    case 'fib':
      return `fib result ${e.result} flags ${e.flags} => reg ${e.to}`;
    case 'cmp':
      return `cmp reg ${e.register} ${OPERATION[e.operation]} 0x${hex(e.value)}`;
    case 'range':
      return `range reg ${e.register} != 0x${hex(e.first)}-0x${hex(e.last)}`;
    case 'bitwise':
      return `bitwise reg ${e.register} = reg ${e.register} & 0x${hex(e.mask)} ^ 0x${hex(e.xor)}`;
    case 'lookup': {
      const to = e.to === undefined ? '' : e.to === 'verdict' ? ' => verdict' : ` => reg ${e.to}`;
      return `lookup reg ${e.key} ${e.not ? 'not in' : 'in'} @${e.set}${to}`;
    }
    case 'immediate':
      return 'verdict' in e
        ? `${e.verdict.verdict}${'chain' in e.verdict ? ` ${e.verdict.chain}` : ''}`
        : `immediate 0x${hex(e.value)} => reg ${e.to}`;
    case 'numgen':
      return `numgen random mod ${e.modulus} offset ${e.offset} => reg ${e.to}`;
    case 'dynset':
      return `update reg ${e.key} in @${e.set} timeout ${e.timeoutMs}ms`;
    case 'nat':
      if ('source' in e) return `snat to reg ${e.source}${e.random ? ' fully-random' : ''}`;
      return `dnat to reg ${e.address} port reg ${e.port}`;
    case 'rt':
      return `rt key ${e.key} => reg ${e.to}`;
    case 'masq':
      return `masquerade ${e.ports ? `to :reg ${e.ports.join('-')} ` : ''}fully-random`;
    case 'reject':
      return `reject type ${e.type} code ${e.code}`;
    case 'counter':
      return 'counter';
    case 'limit':
      return `limit ${e.rate} per ${e.perSeconds} s burst ${e.burst}`;
    case 'log':
      return `log prefix "${e.prefix}" group ${e.group}`;
  }
}

function nameOf(names: Readonly<Record<string, number>>, key: number): string {
  return Object.entries(names).find(([, number]) => number === key)?.[0] ?? String(key);
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
