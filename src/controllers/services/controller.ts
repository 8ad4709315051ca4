/** Runs the life of ServiceCIDRs; wrong addresses of Services are the API server's to put right. */
import { type ApiClient, type Log, type Reflector, resources } from '../../client/index.ts';
import { isNetError } from '../../errors/net-error.ts';
import type { Service, ServiceCIDR } from '../../model/kubernetes.ts';
import type { ServiceCidrView, ServiceView } from '../views.ts';
import { WorkQueue } from '../work-queue.ts';
import { planServiceCidrs } from './service-cidrs.ts';

/** Options of {@link startServiceControllers}. */
export interface ServiceControllersOptions {
  client: ApiClient;
  services: Reflector<Service, ServiceView>;
  serviceCidrs: Reflector<ServiceCIDR, ServiceCidrView>;
  signal: AbortSignal;
  log: Log;
}

/** Begins to work; both reflectors must have synced. */
export function startServiceControllers(options: ServiceControllersOptions): void {
  const { client, services, serviceCidrs, signal, log } = options;
  const call = { signal, fieldManager: 'portolan-services', retryForMs: 0 };

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

  const cidrs = new WorkQueue({ name: 'service-cidrs', work: keepCidrs, signal, log, concurrency: 1 });
  const look = () => cidrs.add('all');
  look();
  serviceCidrs.onChange(look);
  services.onChange(() => {
    for (const object of serviceCidrs.items.values()) if (object.deleting) look();
  });
}
