import { cniError } from '../errors/cni.ts';
import type { Attachment } from '../ipam/index.ts';
import { BRIDGE_NAME, podLinkSpec } from '../podlink/index.ts';
import { type CniConfig, readConfig } from './config.ts';
import { type CniCommand, type CniEnvironment, readEnvironment } from './environment.ts';
import type { PodNetworking } from './network.ts';
import { unknownMappings } from './port-mappings.ts';
import type { CniAnswer, CniCall } from './protocol.ts';
import { amendResult, type CniResult, resultFor } from './result.ts';
import { failure, success } from './verdict.ts';
import { SUPPORTED_VERSIONS } from './versions.ts';

type Verb = (call: { env: CniEnvironment; config: CniConfig; network: PodNetworking }) => Promise<CniAnswer>;

/** What each verb does once environment and configuration are read. VERSION needs neither. */
const VERBS: Readonly<Record<Exclude<CniCommand, 'VERSION'>, Verb>> = {
  async ADD({ env, config, network }) {
    const { podNamespace, podName, podUid, ips } = env.args;
    const attachment = await network.add({
      containerId: env.containerId,
      ifname: env.ifname,
      netns: env.netns,
      pod: podName === '' ? undefined : { namespace: podNamespace, name: podName, uid: podUid },
      network: config.name,
      ips: ips.length > 0 ? ips : config.ips,
      mtuBytes: config.mtuBytes,
      portMappings: config.portMappings,
      kind: config.podLink,
    });
    return success(
      resultFor(config.cniVersion, amendResult(config.prevResult, resultOf(attachment, config))),
    );
  },

  async DEL({ env, network }) {
    await network.del(env);
    return success();
  },

  async CHECK({ env, config, network }) {
    const { prevResult } = config;
    if (!prevResult)
      throw cniError('CNI_CONFIG_INVALID', { problems: ['"prevResult": CHECK needs the result of ADD'] });
    const missing = await network.check(env, env.netns);
    const attachment = network.store.get(env);
    missing.push(...unknownMappings(config.portMappings, attachment?.portMappings ?? []));
    for (const { address } of attachment ? resultOf(attachment, config).ips : [])
      if (!prevResult.ips?.some((ip) => ip.address === address))
        missing.push(`address ${address} is not in "prevResult"`);
    if (missing.length > 0)
      throw cniError('CNI_CHECK_FAILED', { containerId: env.containerId, ifname: env.ifname, missing });
    return success();
  },

  async GC({ config, network }) {
    if (!config.validAttachments)
      throw cniError('CNI_CONFIG_INVALID', {
        problems: ['"cni.dev/valid-attachments": GC needs the list of attachments to keep'],
      });
    await network.gc(config.name, config.validAttachments);
    return success();
  },

  async STATUS({ network }) {
    network.assertAvailable();
    return success();
  },
};

/** What ADD of one attachment made. Pure. */
export function resultOf(attachment: Attachment, config: Pick<CniConfig, 'dns'>): CniResult {
  const { kind, hostMac, podMac, gateways, gatewayMac, prefixLengths } = podLinkSpec(attachment);
  const mtu = attachment.mtuBytes;
  // The bridge first, as the reference plugin tells it.
  const bridge = kind === 'bridge' ? [{ name: BRIDGE_NAME, mac: gatewayMac }] : [];
  return {
    interfaces: [
      ...bridge,
      { name: attachment.hostLink, mac: hostMac, mtu },
      { name: attachment.ifname, mac: podMac, mtu, sandbox: attachment.netns },
    ],
    ips: attachment.addresses.map((address) => ({
      interface: bridge.length + 1,
      address: `${address}/${prefixLengths[address.family]}`,
      gateway: gateways[address.family].toString(),
    })),
    routes: attachment.addresses.map(({ family }) => ({
      dst: family === 4 ? '0.0.0.0/0' : '::/0',
      gw: gateways[family].toString(),
    })),
    dns: config.dns ?? {},
  };
}

/** Answers one call; never throws. */
export async function answerCall(call: CniCall, network: PodNetworking): Promise<CniAnswer> {
  let version: string | undefined;
  try {
    const env = readEnvironment(call.env);
    if (env.command === 'VERSION') return success(versionAnswer(call.stdin));
    const config = readConfig(call.stdin, env.command);
    version = config.cniVersion;
    return await VERBS[env.command]({ env, config, network });
  } catch (error) {
    return failure(error, version);
  }
}

/** VERSION answers in the version it was asked in where it knows it, else in the newest. */
function versionAnswer(stdin: Uint8Array): object {
  let asked: unknown;
  try {
    asked = (JSON.parse(Buffer.from(stdin).toString('utf8')) as { cniVersion?: unknown } | null)?.cniVersion;
  } catch {
    // Nothing else is needed from it.
  }
  const isKnown = (SUPPORTED_VERSIONS as readonly unknown[]).includes(asked);
  return { cniVersion: isKnown ? asked : SUPPORTED_VERSIONS.at(-1), supportedVersions: SUPPORTED_VERSIONS };
}
