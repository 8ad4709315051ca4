/** What the engine asks of the kernel; docs/kernels.md is this list for people. */
import { bpfFeatures, type KernelNeed } from '../../../kernel/bpf/index.ts';

export const ENGINE_NEEDS: readonly KernelNeed[] = [
  { feature: bpfFeatures.hashMaps, usedFor: 'frontends, backends, flows' },
  { feature: bpfFeatures.lpmMaps, usedFor: 'loadBalancerSourceRanges' },
  { feature: bpfFeatures.cgroupLinks, usedFor: 'socket hooks that outlive the agent' },
  { feature: bpfFeatures.netnsCookie, usedFor: 'session affinity of processes' },
  { feature: bpfFeatures.socketHooks, usedFor: 'Services at the socket, with the VIP as the peer' },
  { feature: bpfFeatures.coarseTime, usedFor: 'ages of session affinity' },
  { feature: bpfFeatures.ringBuffers, usedFor: 'word of new flows to the agent' },
  {
    feature: bpfFeatures.batches,
    usedFor: 'many map elements in one call',
    without: 'one call for each element',
  },
  {
    feature: bpfFeatures.socketErrors,
    usedFor: 'ECONNREFUSED from a Service without endpoints',
    without: 'the process gets EPERM, at once as well',
  },
  {
    feature: bpfFeatures.tcx,
    usedFor: 'programs at pod links and node interfaces',
    without: 'filters of traffic control in the qdisc clsact',
  },
];
