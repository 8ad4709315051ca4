/** Rules of the old iptables, which nf_tables knows nothing of; read by its own program, for it alone knows all matches. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { nftError } from '../../errors/nft.ts';

const FILES = { ip: '/proc/net/ip_tables_names', ip6: '/proc/net/ip6_tables_names' } as const;
const PROGRAMS = { ip: 'iptables-legacy-save', ip6: 'ip6tables-legacy-save' } as const;
const LONGEST_OUTPUT_BYTES = 64 << 20;

/**
 * What iptables-legacy-save prints in this namespace; empty when no such table was ever used here, and then nothing is
 * asked, because asking makes the tables. Throws NFT_MISSING, NFT_REFUSED.
 */
export async function listLegacyRules(family: 'ip' | 'ip6'): Promise<string> {
  if (tableNames(family).length === 0) return '';
  const program = PROGRAMS[family];
  return new Promise((resolve, reject) => {
    execFile(program, { maxBuffer: LONGEST_OUTPUT_BYTES }, (error, stdout, stderr) => {
      if (!error) resolve(stdout);
      else if (error.code === 'ENOENT') reject(nftError('NFT_MISSING', { program }, error));
      else reject(nftError('NFT_REFUSED', { what: `list rules by ${program}`, said: stderr.trim() }, error));
    });
  });
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
