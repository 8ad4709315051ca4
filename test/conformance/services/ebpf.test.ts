/**
 * The eBPF engine through the conformance suite. With PORTOLAN_NODE_HOOK=native (or generic) clients outside are served
 * in XDP.
 */
import { join } from 'node:path';
import { writeNftParts } from '../../../src/kernel/nft/index.ts';
import { EbpfEngine, masqueradeParts, NODE_HOOKS } from '../../../src/service/index.ts';
import { serviceConformance } from './suite.ts';

const wanted = process.env['PORTOLAN_NODE_HOOK'];
const nodeHook = NODE_HOOKS.find((hook) => hook === wanted);
if (wanted !== undefined && nodeHook === undefined) throw new Error(`no node hook is called ${wanted}`);

serviceConformance({
  name: nodeHook === undefined ? 'ebpf' : `ebpf, ${nodeHook} at node links`,
  hook: nodeHook,
  async open({ nodeName, netns, bpffsDir, cgroupPath, onStaleSockets }) {
    writeNftParts(masqueradeParts(), { netns });
    return EbpfEngine.open({
      nodeHook,
      bpffsDir: join(bpffsDir, 'portolan'),
      cgroupPath,
      netns,
      nodeName,
      onStaleSockets,
    });
  },
  cannot: {
    'servicecorner-050': 'TCP and UDP only; the Service is refused with SERVICE_PROTOCOL_UNSUPPORTED',
    'servicecorner-012':
      'a process of a pod is connected to the endpoint at its socket: the agent refuses --masquerade-all with this engine',
  },
});
