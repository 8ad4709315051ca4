/**
 * Acceptance cases that are no matter of an engine, with the test that holds them, or why nobody does. Every other
 * case of cases.json has to be in the suite.
 */
export const ELSEWHERE: Readonly<Record<string, string>> = {
  'services-046':
    'src/apiserver/list-watch.test.ts and test/netns/apiserver-kubectl.test.ts: objects of the API',
  'services-049': 'test/bench, area endpoints: from a Service to its endpoints',
  'services-051': 'test/netns/service-heal.test.ts: what somebody deletes comes back',
  'networking-001': 'test/netns/lab.test.ts: every node and pod reaches every pod',
  'networking-002': 'test/netns/lab.test.ts',
  'networking-003': 'test/netns/lab.test.ts and overlay-*.test.ts',
  'networking-004': 'test/netns/lab.test.ts and overlay-*.test.ts',
  'networking-005': 'no SCTP in the kernels that were at hand',
  'networking-006': 'no SCTP in the kernels that were at hand',
  'networking-009': 'as servicecorner-050',
  'networking-012': 'as servicecorner-050',
  'networking-015': 'as servicecorner-050',
  'networking-027': 'test/netns/lab.test.ts: pod to pod keeps its source',
  'networking-028': 'test/netns/lab.test.ts: pod to outside is masqueraded; there is no Internet in a test',
  'networking-029': 'src/service/host-ports.test.ts; as services-044',
  'networking-030': 'test/bench, area overlay',
  'networking-031': 'test/netns/pods-lifecycle.test.ts: hooks and grace of a pod that ends',
  'networking-032': 'test/netns/pods-lifecycle.test.ts',
  'networking-033': 'test/netns/pods-manager.test.ts',
  'dualstack-001': 'test/netns/lab.test.ts, lab up --dual-stack',
  'dualstack-002': 'test/netns/lab.test.ts',
  'dualstack-003': 'test/netns/lab.test.ts',
  'dualstack-011': 'as servicecorner-050',
  'endpointslice-001': 'test/netns/lab.test.ts: the Service kubernetes leads to the API server',
  'endpointslice-004': 'test/netns/apiserver-kubectl.test.ts',
  'kubeproxy-001': 'test/netns/lab.test.ts: a connection that one side has ended is kept for an hour',
  'kubeproxy-002': 'a counter of another proxy',
  'kubeproxy-003': 'addresses of another proxy; status and /metrics of the agent tell the same',
  'loadbalancers-007':
    'test/netns/service-l2.test.ts: pools need no finalizer, since a Service itself is their memory',
  'loadbalancers-009':
    'test/netns/service-rolling.test.ts: a thousand endpoints replaced at once refuse nobody',
  'loadbalancers-010': 'the same, and services-041 here',
  'servicecorner-045':
    'src/agent/healthz.test.ts and test/netns/lab.test.ts: /healthz and /livez at port 10256',
  'servicecorner-046': 'src/service/controller.test.ts: nothing is written before both lists are there',
  'servicecorner-049': 'portolan doctor: other proxies that are there',
  'trafficdistribution-007':
    'src/controllers/endpoint-slices/topology.test.ts computes the hints, hints-1 here uses them',
};
