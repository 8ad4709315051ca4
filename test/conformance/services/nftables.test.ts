/** The nftables engine through the conformance suite. */
import { NftablesEngine } from '../../../src/service/index.ts';
import { serviceConformance } from './suite.ts';

serviceConformance({
  name: 'nftables',
  async open({ nodeName, netns }) {
    return NftablesEngine.open({ netns, nodeName });
  },
  cannot: {
    'loopback-route':
      'what is translated on its way to 127.0.0.1 leaves by another link: route_localnet allows it',
    'servicecorner-002-datagrams': 'a datagram that is taken away at its own sender is EPERM there',
  },
});
