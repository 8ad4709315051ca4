/** Which engine carries Services on this node, and the change from one to the other. */
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Log } from '../client/index.ts';
import { isNetError } from '../errors/index.ts';
import { ensureBpffs, requireNeeds } from '../kernel/bpf/index.ts';
import { ensureCgroup } from '../kernel/cgroup/index.ts';
import { Conntrack } from '../kernel/conntrack/index.ts';
import { removeNftParts } from '../kernel/nft/index.ts';
import {
  carryFlows,
  EBPF_ENGINE_NEEDS,
  EbpfEngine,
  type EbpfEngineOptions,
  masqueradeParts,
  NftablesEngine,
  type NodeServiceEngine,
  removeNftServices,
} from '../service/index.ts';
import type { EngineChoice } from './engine-choice.ts';
import { NftParts } from './nft-parts.ts';

/** Folders of pins are called `lb-` and the version of their layout. */
const PINS = /^lb-/;

export interface ChosenEngine {
  readonly name: 'ebpf' | 'nftables';
  /** Why, when it was not asked for. */
  readonly because: string | undefined;
}

/**
 * `auto` stays with eBPF where its maps are pinned already: they do not outlive the kernel that made them, so that
 * kernel can do it, and one probe that fails for a moment must not take a node's Services to the other engine. Throws
 * KERNEL_FEATURE_MISSING when eBPF is asked for by name and cannot be.
 */
export function chooseEngine(wanted: EngineChoice, bpffsDir: string): ChosenEngine {
  if (wanted === 'nftables') return { name: 'nftables', because: undefined };
  if (wanted === 'auto' && pinsIn(bpffsDir).length > 0) return { name: 'ebpf', because: undefined };
  try {
    requireNeeds(EBPF_ENGINE_NEEDS);
    return { name: 'ebpf', because: undefined };
  } catch (error) {
    if (wanted === 'ebpf' || !isNetError(error, 'KERNEL_FEATURE_MISSING')) throw error;
    return { name: 'nftables', because: `not eBPF: ${error.message}` };
  }
}

export interface OpenedEngine {
  readonly engine: NodeServiceEngine;
  /** Rules that the engine needs besides, by NftGuard; none for nftables. */
  readonly rules: NftParts;
  /** Takes away what the other engine left; to be called once everything is programmed. */
  retireOther(): Promise<void>;
}

export interface EngineOptions {
  readonly choice: EngineChoice;
  readonly bpffsDir: string;
  readonly cgroupPath: string;
  readonly nodeName: string;
  readonly nodeHook?: EbpfEngineOptions['nodeHook'];
  readonly onStaleSockets: NonNullable<EbpfEngineOptions['onStaleSockets']>;
  readonly log: Log;
}

/** Adopts or starts the engine. Throws KERNEL_FEATURE_MISSING, SERVICE_ENGINE_OPEN. */
export function openEngine(options: EngineOptions, undo: AsyncDisposableStack): OpenedEngine {
  const { bpffsDir, cgroupPath, nodeName, nodeHook, onStaleSockets, log } = options;
  const chosen = chooseEngine(options.choice, bpffsDir);
  if (chosen.because !== undefined) log.warn({ engine: chosen.name }, chosen.because);
  ensureCgroup(cgroupPath);
  if (chosen.name === 'ebpf') {
    ensureBpffs();
    mkdirSync(bpffsDir, { recursive: true, mode: 0o700 });
    const besideNetfilter = removeNftServices({ dryRun: true }).length > 0;
    const engine = EbpfEngine.open({
      bpffsDir,
      cgroupPath,
      nodeName,
      nodeHook,
      onStaleSockets,
      besideNetfilter,
    });
    undo.defer(() => engine.close());
    const rules = startRules(masqueradeParts(), undo);
    return {
      engine,
      rules,
      retireOther: async () => {
        if (!besideNetfilter) return;
        // Conntrack translates as long as there is a nat chain in a family: these are there before the others go.
        await rules.idle();
        const flows = engine.takeOver();
        for (const line of removeNftServices({}))
          log.info({ line, flows }, 'the nftables engine is taken away');
      },
    };
  }
  const engine = NftablesEngine.open({
    nodeName,
    because: chosen.because,
    onRepaired: (error) =>
      error
        ? log.error({ error: error.message }, 'Service rules')
        : log.warn({}, 'Service rules were changed by somebody else, and put right'),
    onFlowsStay: (error) =>
      error
        ? log.warn(
            { err: error },
            'datagram flows to endpoints that are gone stay for now; it is tried again',
          )
        : log.info({}, 'datagram flows to endpoints that are gone are ended'),
  });
  undo.defer(() => engine.close());
  return {
    engine,
    rules: startRules([], undo),
    retireOther: async () => {
      const pins = pinsIn(bpffsDir);
      if (pins.length === 0) return;
      removeEbpf({ bpffsDir, cgroupPath, nodeName }, pins, log);
      removeNftParts(masqueradeParts());
      log.info({ pins }, 'the eBPF engine is taken away');
    },
  };
}

function pinsIn(bpffsDir: string): string[] {
  return existsSync(bpffsDir) ? readdirSync(bpffsDir).filter((name) => PINS.test(name)) : [];
}

function startRules(parts: ReturnType<typeof masqueradeParts>, undo: AsyncDisposableStack): NftParts {
  const rules = new NftParts('service rules', parts);
  undo.defer(() => rules.stop());
  rules.start();
  return rules;
}

/**
 * Takes maps, links and filters away, and leaves what they translated to conntrack; where programs cannot be loaded
 * any more, what is pinned.
 */
function removeEbpf(options: EbpfEngineOptions, pins: readonly string[], log: Log): void {
  try {
    const engine = EbpfEngine.open(options);
    try {
      engine.handOver((flows) => {
        using conntrack = Conntrack.open();
        log.info({ flows: carryFlows(conntrack, flows) }, 'conntrack goes on with flows of the eBPF engine');
      });
    } catch (error) {
      log.warn({ error: (error as Error).message }, 'flows of the eBPF engine end');
    }
    engine.remove();
  } catch (error) {
    log.warn({ error: (error as Error).message }, 'the eBPF engine is taken away by its pins');
    for (const pin of pins) rmSync(join(options.bpffsDir, pin), { recursive: true, force: true });
  }
}
