/** Runs the life of ServiceCIDRs, and says what agents cannot use of a Service; wrong addresses of Services are the API server's to put right. */
import {
  type ApiClient,
  type EventRecorder,
  type Log,
  type Reflector,
  resources,
} from '../../client/index.ts';
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
  events: EventRecorder;
  signal: AbortSignal;
  log: Log;
}

/** Characters of an Event's note at most: k8s.io/kubernetes/pkg/apis/core/validation/events.go, NoteLengthLimit. */
const MESSAGE_LIMIT = 1024;

/** Begins to work; both reflectors must have synced. */
export function startServiceControllers(options: ServiceControllersOptions): void {
  const { client, services, serviceCidrs, events, signal, log } = options;
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

  // Here and not in the agents: what is wrong with it is wrong on all nodes, and one Event is enough.
  const told = new Map<string, string>();
  const tell = (key: string) => {
    const service = services.items.get(key);
    const message = service?.problems?.join('; ') ?? '';
    if (message === (told.get(key) ?? '')) return;
    if (message === '') told.delete(key);
    else told.set(key, message);
    if (!service || message === '') return;
    const { namespace, name, uid } = service;
    const about = { apiVersion: 'v1', kind: 'Service', namespace, name, uid };
    events.record(about, { type: 'Warning', reason: 'BadField', message: message.slice(0, MESSAGE_LIMIT) });
  };
  for (const key of services.items.keys()) tell(key);
  services.onChange((keys) => {
    for (const key of keys) tell(key);
  });
}
