/** What `portolan firewall` writes; apart from its options so that `--help` loads none of it. */
import { readFileSync } from 'node:fs';
import { parse } from 'yaml';
import { askAgent } from '../agent/socket.ts';
import { ApiClient, loadKubeconfig, resources } from '../client/index.ts';
import { policyError } from '../errors/index.ts';
import { CONFIRM_BY, type NodeNetworkPolicy } from '../model/node-network-policy.ts';
import type { NodePolicyState } from '../policy/index.ts';
import type { AskFlags } from './asking.ts';
import { statesText } from './firewall-text.ts';
import { print } from './output.ts';

export interface FirewallFlags extends AskFlags {
  kubeconfig?: string;
}
export interface ApplyFlags extends FirewallFlags {
  dryRun: boolean;
  confirmWithin?: string;
}

const UNITS = { s: 1000, m: 60_000, h: 3_600_000 } as const;

export async function apply(file: string, flags: ApplyFlags): Promise<void> {
  const policy = readPolicy(file);
  const { name } = policy.metadata;
  const trialMs = flags.confirmWithin === undefined ? undefined : milliseconds(flags.confirmWithin);
  if (trialMs !== undefined)
    policy.metadata.annotations = {
      ...policy.metadata.annotations,
      [CONFIRM_BY]: new Date(Date.now() + trialMs).toISOString(),
    };
  await withClient(flags, async (client) => {
    const of = resources.nodeNetworkPolicies;
    const write = { type: 'apply', force: true, fieldManager: 'portolan-firewall' } as const;
    const checked = await client.patch(of, { name }, policy, { ...write, dryRun: true });
    const socket = `${flags.stateDir}/agent.sock`;
    const states = await askAgent<NodePolicyState[]>(socket, 'POST', '/firewall/check', checked);
    const state = states.find((each) => each.name === name);
    const refused = state?.state === 'refused';
    if (!flags.dryRun && !refused) await client.patch(of, { name }, policy, write);
    const next = flags.dryRun
      ? 'nothing was written'
      : refused
        ? 'nothing was written: add rules that accept what it would cut, or the annotation portolan.dev/allow-lockout=true'
        : trialMs === undefined
          ? `${name} is written`
          : `${name} is on trial: "portolan firewall confirm ${name}" within ${flags.confirmWithin} keeps it`;
    print({
      json: flags.json,
      value: { states, next },
      text: () => `${statesText(states, flags.dryRun ? name : undefined)}\n${next}`,
    });
    if (refused || (flags.dryRun && (state?.lockouts.length ?? 0) > 0)) process.exitCode = 1;
  });
}

export async function confirm(name: string, flags: FirewallFlags): Promise<void> {
  await withClient(flags, async (client) => {
    const of = resources.nodeNetworkPolicies;
    const policy = await client.get(of, { name });
    const until = policy.metadata.annotations?.[CONFIRM_BY];
    if (until === undefined) return tell(`${name} is on no trial`);
    if (Date.parse(until) <= Date.now()) throw policyError('POLICY_TRIAL_OVER', { name, until });
    // The version makes sure that nobody changed the policy since it was looked at.
    const { resourceVersion } = policy.metadata;
    const metadata = { annotations: { [CONFIRM_BY]: null }, ...(resourceVersion && { resourceVersion }) };
    await client.patch(of, { name }, { metadata }, { type: 'merge' });
    tell(`${name} stays`);
  });
  function tell(text: string): void {
    print({ json: flags.json, value: { name, result: text }, text: () => text });
  }
}

function readPolicy(file: string): NodeNetworkPolicy {
  const refuse = (why: string, cause?: unknown) => policyError('POLICY_BAD_FILE', { file, why }, cause);
  let found: unknown;
  try {
    found = parse(readFileSync(file === '-' ? 0 : file, 'utf8'));
  } catch (cause) {
    throw refuse((cause as Error).message, cause);
  }
  const policy = found as Partial<NodeNetworkPolicy> | null;
  if (policy?.kind !== 'NodeNetworkPolicy')
    throw refuse(`its kind is ${JSON.stringify(policy?.kind ?? null)}, want NodeNetworkPolicy`);
  if (typeof policy.metadata?.name !== 'string') throw refuse('metadata.name is missing');
  return policy as NodeNetworkPolicy;
}

function milliseconds(text: string): number {
  const match = /^(\d{1,5})(s|m|h)$/.exec(text);
  const value = Number(match?.[1]) * UNITS[(match?.[2] ?? 's') as keyof typeof UNITS];
  if (!match || value === 0)
    throw policyError('POLICY_BAD_OPTION', {
      option: '--confirm-within',
      value: text,
      want: 'a time such as 60s or 5m',
    });
  return value;
}

async function withClient(flags: FirewallFlags, work: (client: ApiClient) => Promise<void>): Promise<void> {
  if (!flags.kubeconfig)
    throw policyError('POLICY_BAD_OPTION', {
      option: '--kubeconfig',
      value: '',
      want: 'the path of a kubeconfig',
    });
  const client = new ApiClient(loadKubeconfig(flags.kubeconfig));
  try {
    await work(client);
  } finally {
    client.close();
  }
}
