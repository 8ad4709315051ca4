/** Tells the owners of Services and hostPorts what this node can't do for them: Events, and the log. */
import type { EventRecorder, Log } from '../client/index.ts';
import { serviceError } from '../errors/index.ts';
import { type PlanDelta, type ServicePlan, socketAddress } from '../service/index.ts';
import { ownerText } from './port-maps.ts';

export interface ServiceEvents {
  /** For `onResult` of the controller. */
  programmed(key: string, error: Error | undefined): void;
  /** For `onResult` of the servers of healthCheckNodePorts. */
  healthCheck(key: string, error: Error | undefined): void;
  /** For `onRefused`: new connections found no place. */
  refused(key: string, error: Error): void;
  /** For `onApplied`: what is wrong with the plans themselves. */
  planned(delta: PlanDelta): void;
}

export interface ServiceEventsOptions {
  readonly recorder: EventRecorder;
  readonly nodeName: string;
  /** Whether hostPorts of this key are a Pod's of the API: an Event needs somebody whom it is about. */
  readonly isApiPod: (key: string) => boolean;
  readonly log: Log;
}

export function serviceEvents({ recorder, nodeName, isApiPod, log }: ServiceEventsOptions): ServiceEvents {
  /** What was told of each plan; nothing of most. */
  const told = new Map<string, string>();
  /** Services whose healthCheckNodePort nobody can ask. */
  const silent = new Set<string>();
  return {
    programmed(key, error) {
      const isPorts = isHostPorts(key);
      if (isPorts && !isApiPod(key)) return;
      const what = isPorts ? 'HostPort' : 'Service';
      recorder.record(
        referenceOf(key),
        error
          ? { type: 'Warning', reason: `${what}NotProgrammed`, message: `${nodeName}: ${error.message}` }
          : {
              type: 'Normal',
              reason: `${what}Programmed`,
              message: `${nodeName}: programmed after a failure`,
            },
      );
    },
    healthCheck(key, error) {
      if (!error && !silent.delete(key)) return;
      if (error) silent.add(key);
      const message = error
        ? `${nodeName}: cannot answer at the healthCheckNodePort, will be repeated: ${error.message}`
        : `${nodeName}: answers at the healthCheckNodePort after a failure`;
      log[error ? 'warn' : 'info']({ service: key }, message);
      // The reason that kube-proxy gives.
      recorder.record(referenceOf(key), {
        type: error ? 'Warning' : 'Normal',
        reason: error ? 'FailedToStartServiceHealthcheck' : 'ServiceHealthcheckStarted',
        message,
      });
    },
    refused(key, error) {
      if (isHostPorts(key) && !isApiPod(key)) return;
      recorder.record(referenceOf(key), {
        type: 'Warning',
        reason: 'ConnectionsRefused',
        message: `${nodeName}: ${error.message}`,
      });
    },
    planned({ upsert, remove }) {
      for (const key of remove) {
        told.delete(key);
        silent.delete(key);
      }
      for (const plan of upsert) {
        const messages = faults(plan);
        const before = told.get(plan.key) ?? '';
        const now = messages.join('\n');
        if (now === before) continue;
        if (now === '') told.delete(plan.key);
        else told.set(plan.key, now);
        for (const message of messages) {
          if (before.includes(message)) continue;
          log.warn({ service: plan.key }, message);
          // A Service is wrong on all nodes alike, and a thousand Events help nobody; a pod's node is one.
          if (isApiPod(plan.key))
            recorder.record(referenceOf(plan.key), { type: 'Warning', reason: 'HostPortConflict', message });
        }
      }
    },
  };
}

const POD = 'pod/';

/** Keys of hostPorts have three parts. */
function isHostPorts(key: string): boolean {
  return key.split('/').length === 3;
}

function referenceOf(key: string) {
  const isPod = key.startsWith(POD);
  const [namespace, name] = (isPod ? key.slice(POD.length) : key).split('/') as [string, string];
  return { apiVersion: 'v1', kind: isPod ? 'Pod' : 'Service', namespace, name };
}

function faults(plan: ServicePlan): string[] {
  const found = plan.problems.map(({ message }) => message);
  for (const port of plan.ports)
    for (const { address, port: number, shadowedBy: owner } of port.frontends) {
      if (owner === undefined) continue;
      const frontend = `${socketAddress(address, number)}/${port.protocol}`;
      const error = isHostPorts(plan.key)
        ? serviceError('SERVICE_HOST_PORT_TAKEN', {
            owned: ownerText(plan.key),
            frontend,
            owner: ownerText(owner),
          })
        : serviceError('SERVICE_FRONTEND_TAKEN', { service: plan.key, frontend, owner });
      found.push(error.message);
    }
  return found;
}
