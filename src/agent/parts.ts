/** What a running agent is made of: put together by `agent.ts`, read by `routes.ts`, `status.ts` and `metrics.ts`. */
import type { NetworkHealth, PodNetworking } from '../cni/index.ts';
import type { EgressController } from '../egress/index.ts';
import type { OverlayConfig } from '../overlay/index.ts';
import type { PodManager, ProcessRunner } from '../pods/index.ts';
import type { Durations } from '../reconcile/index.ts';
import type { NodeServiceEngine, ServiceController } from '../service/index.ts';
import type { EgressWorld } from './egress-explain.ts';
import type { Announcer } from './l2/announcer.ts';
import type { NftParts } from './nft-parts.ts';
import type { Overlay } from './node-network.ts';
import type { AgentOptions } from './options.ts';
import type { PodSources } from './pod-sources.ts';
import type { AgentPolicy } from './policy.ts';
import type { Registration } from './registration.ts';
import type { Sources } from './sources.ts';

/** What the agent is made of; `routes.ts` answers questions from it. */
export interface AgentParts {
  readonly options: AgentOptions;
  readonly startedAt: number;
  readonly nodes: Sources['nodes'];
  readonly services: Sources['services'];
  readonly slices: Sources['slices'];
  readonly registration: Registration;
  readonly overlay: () => Overlay | undefined;
  readonly overlayConfig: () => OverlayConfig | undefined;
  readonly engine: NodeServiceEngine;
  readonly controller: ServiceController;
  readonly networking: PodNetworking;
  readonly policy: AgentPolicy;
  readonly manager: PodManager | undefined;
  readonly runner: ProcessRunner | undefined;
  readonly egress: EgressController;
  readonly findPod: EgressWorld['findPod'];
  readonly serviceRules: NftParts;
  readonly podSources: PodSources;
  readonly announcer: Announcer;
  /** Calls of the CNI plugin by verb and code. */
  readonly cniCalls: Durations;
  readonly health: () => NetworkHealth;
  /** Parts that did not start, with the reason. */
  readonly failures: ReadonlyMap<string, Error>;
}
