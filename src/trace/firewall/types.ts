/** What the doctor of firewalls knows: chains of rules of anybody, and packets that have to pass them. */
import type { Family } from '../../addr/index.ts';

/** Whether a packet matches, as far as it can be told without the packet. */
export type Tri = 'yes' | 'no' | 'maybe';

/** What a packet is asked about; undefined is not known. */
export interface Probe {
  /** What it is, in words: "a pod to a pod of another node". */
  readonly what: string;
  readonly hook: 'prerouting' | 'input' | 'forward' | 'output' | 'postrouting';
  readonly family: Family;
  readonly iifname?: string | undefined;
  readonly oifname?: string | undefined;
  readonly saddr?: string | undefined;
  readonly daddr?: string | undefined;
  readonly protocol: 'tcp' | 'udp' | 'icmp';
  readonly dport?: number | undefined;
  /** It crosses a bridge there: rules of the bridge see it, those of IP do not. */
  readonly bridged?: boolean | undefined;
  /** Whether the way back to its source leads out by the interface that it came in by; undefined is not known. */
  readonly reversePath?: boolean | undefined;
  /** Conntrack has given it another target. */
  readonly translated?: boolean | undefined;
}

export type Verdict =
  | { readonly kind: 'accept' | 'drop' | 'reject' | 'return' | 'continue' }
  | { readonly kind: 'jump' | 'goto'; readonly chain: string }
  /** Somebody's verdict that cannot be told, such as a queue's. */
  | { readonly kind: 'unknown' };

export interface FirewallRule {
  /** As `nft list` or `iptables-save` writes it. */
  readonly text: string;
  readonly handle?: number | undefined;
  readonly comment?: string | undefined;
  /** One answer for each condition. */
  readonly conditions: readonly ((probe: Probe) => Tri)[];
  /** The verdict of a packet that matches; of a map several are possible. */
  readonly verdicts: (probe: Probe) => readonly Verdict[];
}

export interface FirewallChain {
  /** `nft`, or `iptables-legacy` and `ip6tables-legacy`. */
  readonly tool: string;
  /** `ip filter`, `inet firewalld`. */
  readonly table: string;
  readonly name: string;
  readonly family: 'ip' | 'ip6' | 'inet' | 'bridge';
  /** Of a base chain. */
  readonly hook?: string | undefined;
  readonly priority?: number | undefined;
  readonly policy?: 'accept' | 'drop' | undefined;
  readonly rules: readonly FirewallRule[];
}

/** Somebody's rule that drops our packets, or may. */
export interface Finding {
  readonly probe: string;
  readonly family: 'IPv4' | 'IPv6';
  /** `drops`, or `may drop` when it hangs on what only the packet or the moment tells. */
  readonly says: 'drops' | 'may drop';
  /** `ip filter FORWARD`. */
  readonly chain: string;
  readonly tool: string;
  /** The rule, or the chain's policy. */
  readonly rule: string;
  readonly handle?: number | undefined;
  /** The rules that led there from the base chain. */
  readonly by: readonly string[];
  readonly remedy: string;
}
