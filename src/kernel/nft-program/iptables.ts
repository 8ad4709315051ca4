/** Rules of the old iptables, which nf_tables knows nothing of; read by its own program, for it alone knows all matches. */
import { readFileSync } from 'node:fs';
import { runProgram } from './nft.ts';

const FILES = { ip: '/proc/net/ip_tables_names', ip6: '/proc/net/ip6_tables_names' } as const;
const PROGRAMS = { ip: 'iptables-legacy-save', ip6: 'ip6tables-legacy-save' } as const;

/**
 * What iptables-legacy-save prints in this namespace; empty when no such table was ever used here, and then nothing is
 * asked, because asking makes the tables. Throws NFT_MISSING, NFT_REFUSED.
 */
export async function listLegacyRules(family: 'ip' | 'ip6'): Promise<string> {
  if (tableNames(family).length === 0) return '';
  const program = PROGRAMS[family];
  return runProgram(program, [], `list rules by ${program}`);
}

/** Tables of the old iptables in this namespace. */
function tableNames(family: 'ip' | 'ip6'): string[] {
  try {
    return readFileSync(FILES[family], 'utf8').split('\n').filter(Boolean);
  } catch {
    // The kernel is built without it, or its module was never loaded.
    return [];
  }
}
