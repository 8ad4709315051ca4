/** The nftables engine through the conformance suite. */
import { NftablesEngine } from '../../../src/service/index.ts';
import { serviceConformance } from './suite.ts';

serviceConformance({
  name: 'nftables',
  async open({ nodeName, netns }) {
    return NftablesEngine.open({ netns, nodeName });
  },
  cannot: {
    'servicecorner-002-datagrams':
      'the kernel sends one client a few ICMP answers a second, and EPERM to its own sockets',
    'hostport-004': 'nothing can be translated on its way to ::1',
  },
});
