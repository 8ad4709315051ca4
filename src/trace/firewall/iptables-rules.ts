/** Chains and rules out of `iptables-legacy-save`, for judge.ts. Pure; what is not understood is a "maybe". */
import { not } from './judge.ts';
import type { FirewallChain, FirewallRule, Probe, Tri, Verdict } from './types.ts';
import { addressIn, interfaceIs, portIs, protocolIs, stateIs } from './values.ts';

/** Hooks and priorities of the built-in chains: include/uapi/linux/netfilter_ipv4.h. */
const PRIORITY: Readonly<Record<string, number>> = { raw: -300, mangle: -150, filter: 0, security: 50 };
const HOOKS: Readonly<Record<string, string>> = {
  PREROUTING: 'prerouting',
  INPUT: 'input',
  FORWARD: 'forward',
  OUTPUT: 'output',
  POSTROUTING: 'postrouting',
};
/** Targets that end nothing. */
const SILENT = new Set(['LOG', 'NFLOG', 'MARK', 'CONNMARK', 'TCPMSS', 'CT', 'TRACE', 'CLASSIFY', 'SET']);

/**
 * `:FORWARD DROP [0:0]` and `-A FORWARD -i eth0 -p tcp -m tcp --dport 80 -j DROP`. Lines that are neither are
 * comments and frames.
 */
export function chainsOfIptables(text: string, family: 'ip' | 'ip6'): FirewallChain[] {
  const tool = family === 'ip' ? 'iptables-legacy' : 'ip6tables-legacy';
  const chains = new Map<string, FirewallChain & { rules: FirewallRule[] }>();
  let table = '';
  for (const line of text.split('\n')) {
    const declared = /^:(\S+) (\S+)/.exec(line);
    const appended = /^-A (\S+) ?(.*)$/.exec(line);
    if (line.startsWith('*')) table = line.slice(1).trim();
    else if (declared && table in PRIORITY) {
      const [, name = '', policy] = declared;
      chains.set(`${table} ${name}`, {
        tool,
        table,
        name,
        family,
        hook: HOOKS[name],
        priority: PRIORITY[table],
        policy: policy === 'DROP' ? 'drop' : 'accept',
        rules: [],
      });
    } else if (appended) chains.get(`${table} ${appended[1]}`)?.rules.push(ruleOf(line, appended[2]!));
  }
  return [...chains.values()];
}

function ruleOf(line: string, text: string): FirewallRule {
  const words = [...text.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/g)].map((match) => match[1] ?? match[2]!);
  const conditions: ((probe: Probe) => Tri)[] = [];
  let verdict: Verdict = { kind: 'continue' };
  let comment: string | undefined;
  for (let at = 0; at < words.length; at++) {
    const negated = words[at] === '!';
    if (negated) at++;
    const option = words[at] ?? '';
    const value = words[at + 1] ?? '';
    const add = (condition: (probe: Probe) => Tri) => {
      conditions.push(negated ? (probe) => not(condition(probe)) : condition);
      at++;
    };
    switch (option) {
      case '-i':
        add((probe) => interfaceIs(probe.hook === 'output' ? '' : probe.iifname, value));
        break;
      case '-o':
        add((probe) => interfaceIs(probe.hook === 'input' ? '' : probe.oifname, value));
        break;
      case '-s':
        add((probe) => addressIn(probe.saddr, value));
        break;
      case '-d':
        add((probe) => addressIn(probe.daddr, value));
        break;
      case '-p':
        add((probe) => protocolIs(probe, value));
        break;
      case '--dport':
        add((probe) => portIs(probe.dport, value));
        break;
      case '--dports':
        add((probe) => {
          const answers = value.split(',').map((port) => portIs(probe.dport, port));
          return answers.includes('yes') ? 'yes' : answers.includes('maybe') ? 'maybe' : 'no';
        });
        break;
      case '--ctstate':
      case '--state':
        add(() => stateIs(value.split(',')));
        break;
      case '--comment':
        comment = value;
        at++;
        break;
      case '-m':
        // What these test stands in options of their own, above.
        if (!['tcp', 'udp', 'conntrack', 'state', 'comment', 'multiport'].includes(value))
          conditions.push(() => 'maybe');
        at++;
        break;
      case '-j':
      case '-g':
        verdict = targetOf(value, option);
        at++;
        // Options of a target are no conditions.
        return { text: line, comment, conditions, verdicts: () => [verdict] };
      default:
        if (option.startsWith('-')) conditions.push(() => 'maybe');
    }
  }
  return { text: line, comment, conditions, verdicts: () => [verdict] };
}

function targetOf(name: string, option: string): Verdict {
  if (name === 'ACCEPT') return { kind: 'accept' };
  if (name === 'DROP') return { kind: 'drop' };
  if (name === 'REJECT') return { kind: 'reject' };
  if (name === 'RETURN') return { kind: 'return' };
  if (SILENT.has(name)) return { kind: 'continue' };
  if (/^(NFQUEUE|QUEUE)$/.test(name)) return { kind: 'unknown' };
  return { kind: option === '-g' ? 'goto' : 'jump', chain: name };
}
