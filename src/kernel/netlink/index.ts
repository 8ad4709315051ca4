export { AsyncNetlink } from './async.ts';
export {
  type AttributeCodec,
  type AttributesOf,
  type AttributeTable,
  attributeTable,
  nlBool,
  nlBytes,
  nlFlag,
  nlI32,
  nlI32be,
  nlIp,
  nlMac,
  nlString,
  nlU8,
  nlU16,
  nlU16be,
  nlU32,
  nlU32be,
  nlU64,
  nlU64be,
} from './attributes.ts';
export { AF, NETLINK, NLM_F, NLMSG } from './constants.ts';
export { type MonitorOptions, NetlinkMonitor } from './monitor.ts';
export {
  type Ack,
  cString,
  malformed,
  type NlMessage,
  readAck,
  readAttributes,
  readMessages,
  viewOf,
} from './reader.ts';
export { type NetlinkOptions, NetlinkSocket, type NlRequest } from './socket.ts';
export { encodeText, NlWriter, textRoom } from './writer.ts';
