/** The eBPF engine through the conformance suite. */
import { join } from 'node:path';
import { writeNftParts } from '../../../src/kernel/nft/index.ts';
import { EbpfEngine, masqueradeParts } from '../../../src/service/index.ts';
import { serviceConformance } from './suite.ts';

serviceConformance({
  name: 'ebpf',
  async open({ nodeName, netns, bpffsDir, cgroupPath, onStaleSockets }) {
    writeNftParts(masqueradeParts(), { netns });
    return EbpfEngine.open({
      bpffsDir: join(bpffsDir, 'portolan'),
      cgroupPath,
      netns,
      nodeName,
      onStaleSockets,
    });
  },
  cannot: {
    'servicecorner-050': 'TCP and UDP only; the Service is refused with SERVICE_PROTOCOL_UNSUPPORTED',
    'masquerade-2': 'a process of a pod is connected to the endpoint at its socket: no node is between them',
    'servicecorner-012': 'the same; the agent refuses --masquerade-all with this engine',
  },
});
