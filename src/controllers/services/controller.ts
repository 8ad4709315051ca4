/** Runs the repair of Service addresses and the life of ServiceCIDRs. Both look at everything at once. */
import {
  type ApiClient,
  type EventRecorder,
  type Log,
  type Reflector,
  resources,
  sleep,
} from '../../client/index.ts';
import { isNetError } from '../../errors/net-error.ts';
import type { Service, ServiceCIDR } from '../../model/kubernetes.ts';
import type { ServiceCidrView, ServiceView } from '../views.ts';
import { WorkQueue } from '../work-queue.ts';
import { type PortRange, planServiceRepair } from './repair.ts';
import { planServiceCidrs } from './service-cidrs.ts';

/** Options of {@link startServiceControllers}. */
export interface ServiceControllersOptions {
  client: ApiClient;
  services: Reflector<Service, ServiceView>;
  serviceCidrs: Reflector<ServiceCIDR, ServiceCidrView>;
  events: EventRecorder;
  nodePorts: PortRange;
  signal: AbortSignal;
  log: Log;
  /** Rounds of repair are this far apart at least; 1000 by default. */
  repairPeriodMs?: number;
}

/** Begins to work; both reflectors must have synced. */
export function startServiceControllers(options: ServiceControllersOptions): void {
  const { client, services, serviceCidrs, events, signal, log } = options;
  /** Problems that were told, so that a round costs no Event while nothing changes. */
  let told = new Set<string>();
  const call = { signal, fieldManager: 'portolan-services', retryForMs: 0 };

  const repair = async () => {
    const problems = planServiceRepair(
      services.items.values(),
      serviceCidrs.items.values(),
      options.nodePorts,
    );
    const now = new Set<string>();
    for (const { service, reason, message } of problems) {
      const key = `${service.uid} ${message}`;
      now.add(key);
      if (told.has(key)) continue;
      log.warn({ service: service.key, reason }, message);
      events.record(
        {
          apiVersion: 'v1',
          kind: 'Service',
          namespace: service.namespace,
          name: service.name,
          uid: service.uid,
        },
        { type: 'Warning', reason, message },
      );
    }
    told = now;
    // Not urgent and O(Services): a burst of changes is looked at once.
    await sleep(options.repairPeriodMs ?? 1_000, signal);
  };

  const keepCidrs = async () => {
    const at = new Date().toISOString().replace(/\.\d+Z$/, 'Z');
    const objects = [...serviceCidrs.items.values()];
    for (const write of planServiceCidrs(objects, services.items.values(), at)) {
      const named = { name: write.object.name };
      try {
        if (write.verb === 'finalizers')
          await client.patch(
            resources.serviceCidrs,
            named,
            { metadata: { resourceVersion: write.object.version, finalizers: write.finalizers } },
            call,
          );
        else
          await client.patchStatus(
            resources.serviceCidrs,
            named,
            { status: { conditions: [write.condition] } },
            { ...call, type: 'strategic' },
          );
      } catch (error) {
        if (!isNetError(error, 'CLIENT_NOT_FOUND')) throw error;
      }
    }
  };

  const repairs = new WorkQueue({ name: 'service-repair', work: repair, signal, log, concurrency: 1 });
  const cidrs = new WorkQueue({ name: 'service-cidrs', work: keepCidrs, signal, log, concurrency: 1 });
  const all = () => {
    repairs.add('all');
    cidrs.add('all');
  };
  all();
  serviceCidrs.onChange(all);
  services.onChange(() => {
    repairs.add('all');
    for (const object of serviceCidrs.items.values()) if (object.deleting) cidrs.add('all');
  });
}
