export { judge } from './judge.ts';
export { nodeNetwork, readFirewalls } from './observe.ts';
export type { NodeNetwork } from './probes.ts';
export { type FirewallReport, type FirewallSources, firewallReport } from './report.ts';
export { readRuleTexts, ruleTexts } from './rule-texts.ts';
export { type TracedFlow, type TraceSummary, traceChanges, traceFlow } from './trace-flow.ts';
export { type TracedPacket, TracedPackets, type TraceStep } from './traced-packets.ts';
export type { Finding, FirewallChain, Probe } from './types.ts';
