/** Services for tests of packet programs alone: one with a backend, one without, and one whose backends are elsewhere. */
import type { EbpfEngine, EbpfEngineOptions } from '../../src/service/engines/ebpf/index.ts';
import { serviceFacts } from '../../src/service/facts.ts';
import { aService } from '../../src/service/testing.ts';
import { applyAll, type EndpointPlace, openEngine, plannerOf, slicesOf } from './service-engine.ts';
import type { ServiceNode } from './services.ts';

/** Addresses of the Services; `nobody` is free, `notOurs` another proxy's. `unreachable` is type and code of the ICMP error of a port. */
export const FRONTENDS = {
  IPv4: {
    vip: '10.96.0.10',
    empty: '10.96.0.11',
    lost: '10.96.0.12',
    nobody: '10.96.0.99',
    notOurs: '10.96.0.98',
    unreachable: [3, 3],
  },
  IPv6: {
    vip: 'fd00:10:96::10',
    empty: 'fd00:10:96::11',
    lost: 'fd00:10:96::12',
    nobody: 'fd00:10:96::99',
    notOurs: 'fd00:10:96::98',
    unreachable: [1, 4],
  },
} as const;

/**
 * Opens the engine with Services of port 80/TCP and 53/UDP, where the first ones have 8080/TCP as well: `vip` leads to
 * the backend, `empty` to nobody, and `lost` has policy Local and the same backend.
 */
export function openWithFrontends(
  node: ServiceNode,
  backend: EndpointPlace,
  nodeName: string,
  more: Partial<EbpfEngineOptions> = {},
): EbpfEngine {
  const engine = openEngine(node, more);
  engine.setServiceRanges(['10.96.0.0/16', 'fd00:10:96::/112']);
  const ports = [
    { name: 'tcp', port: 80, protocol: 'TCP' as const },
    { name: 'udp', port: 53, protocol: 'UDP' as const },
  ];
  const spec = (which: 'vip' | 'empty' | 'lost' | 'notOurs') => ({
    clusterIPs: [FRONTENDS.IPv4[which], FRONTENDS.IPv6[which]],
    ports: [...ports, { name: 'tcp', port: 8080, protocol: 'TCP' as const }],
  });
  const services = [
    aService(spec('vip')),
    aService(spec('empty'), { name: 'empty' }),
    aService({ ...spec('lost'), internalTrafficPolicy: 'Local' }, { name: 'lost' }),
    aService(spec('notOurs'), {
      name: 'not-ours',
      labels: { 'service.kubernetes.io/service-proxy-name': 'other' },
    }),
  ].map((service) => serviceFacts(service));
  const slices = ['web', 'lost'].flatMap((service) =>
    slicesOf([backend], ports, { service, nodeNameOf: () => nodeName }),
  );
  applyAll(engine, plannerOf(services, slices));
  return engine;
}
