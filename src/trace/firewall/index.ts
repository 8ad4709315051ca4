export { judge } from './judge.ts';
export { nodeNetwork, readFirewalls } from './observe.ts';
export type { NodeNetwork } from './probes.ts';
export { type FirewallReport, type FirewallSources, firewallReport } from './report.ts';
export type { Finding, FirewallChain, Probe } from './types.ts';
